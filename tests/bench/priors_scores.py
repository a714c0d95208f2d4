"""Synthetic scores for the priors bench: drawn when they are asked for, against a gallery of any size.

The cosine of a mate is N(0.6, 0.1), that of two strangers N(0, 1/d), d their effective dimension; between neighbours
who look alike it is greater by 0.05.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from service.identify.budget import Budget
from service.identify.calibration import Calibration, deepen, fit
from tests.bench.priors_world import World

MATE_MEAN, MATE_DEVIATION = 0.6, 0.1
SHIFT = 0.05
"""How much more alike neighbours look, in the arms that have look-alikes."""

NOBODY = np.empty(0, np.int64)


@lru_cache(maxsize=8)
def scale(dimension: float, shift: float, pairs: int, seed: int = 0) -> Calibration:
    """What the scores mean, from samples of them as a gallery would draw."""
    random, deviation = np.random.default_rng(seed), dimension**-0.5
    first = fit(random.normal(MATE_MEAN, MATE_DEVIATION, 20_000), random.normal(shift, deviation, 1_000_000))
    kept = max(20_000, pairs // 300_000)
    return deepen(first, shift - deviation * ndtri(random.random(kept) * kept / pairs), pairs)


class Scorer:
    """Scores of one probe.

    Args:
        made: the country.
        random: of the draws.
        dimension: effective, of the scores of strangers.
        mate: whose probe it is, -1 for somebody unknown.
        near: rows of people who look more alike,
        shift: and by how much.
        forced: scores that some rows have.
    """

    def __init__(
        self,
        made: World,
        random: np.random.Generator,
        dimension: float,
        mate: int,
        *,
        near: NDArray[np.int64] = NOBODY,
        shift: float = 0.0,
        forced: dict[int, float] | None = None,
    ) -> None:
        self.made, self.random, self.deviation = made, random, dimension**-0.5
        self.near, self.shift = near, shift
        self.mated = random.normal(MATE_MEAN, MATE_DEVIATION)
        self.forced = dict(forced or {}) | ({mate: self.mated} if mate >= 0 else {})
        self.rows = NOBODY
        self.scores = np.empty(0)

    def score(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores of some rows; what was drawn before stays."""
        scores = self.random.normal(0, self.deviation, len(rows))
        if self.shift:
            scores[np.isin(rows, self.near)] += self.shift
        for row, score in self.forced.items():
            scores[rows == row] = score
        if len(self.rows):
            order = np.argsort(self.rows, kind="stable")
            places = np.minimum(np.searchsorted(self.rows[order], rows), len(order) - 1)
            before = self.rows[order][places] == rows
            scores[before] = self.scores[order][places[before]]
            self.rows = np.concatenate([self.rows, rows[~before]])
            self.scores = np.concatenate([self.scores, scores[~before]])
        else:
            self.rows, self.scores = rows, scores
        return scores

    def search(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k most similar people."""
        missing = np.setdiff1d(np.array(sorted(self.forced), np.int64), self.rows)
        if self.shift:
            missing = np.union1d(missing, np.setdiff1d(self.near, self.rows))
        if len(missing):
            self.score(missing)
        left = self.made.people - len(self.rows)
        # The k greatest of n scores: the k least of n uniform chances have exponential gaps.
        chances = np.cumsum(self.random.exponential(size=k)) / left
        anybody = np.unique(self.random.integers(0, self.made.people, 4 * k))
        anybody = self.random.permutation(anybody[~np.isin(anybody, self.rows)])[:k]
        scores = -self.deviation * ndtri(np.minimum(chances[: len(anybody)], 1 - 1e-12))
        rows, scores = np.concatenate([self.rows, anybody]), np.concatenate([self.scores, scores])
        order = np.argsort(-scores)[:k]
        self.rows, self.scores = rows, scores
        return rows[order], scores[order]


class Lucky:
    """Strangers who pass somebody's threshold: the only ones who can be taken for anybody, about one in 1 / alpha.

    Whoever is accepted has passed the threshold of the budget, so strangers who pass nobody's need no search; how many
    do is drawn, and those are searched. Thresholds are the service's, the chance to pass them is that of the scores.
    That a second person's threshold is passed as well is left to the draws of the search.

    Args:
        made: the country.
        budget: everybody's thresholds.
        dimension: of the scores.
        near: as in `Scorer`,
        shift: the same.
    """

    def __init__(
        self, made: World, budget: Budget, dimension: float, *, near: NDArray[np.int64] = NOBODY, shift: float = 0.0
    ) -> None:
        prior, deviation = budget.prior, dimension**-0.5
        self._deviation, self._prior, self._made = deviation, prior, made
        regions = np.flatnonzero(prior.counts > 0)
        strangers = [self._anybody(int(region)) for region in regions]
        rows = np.concatenate([prior.rows, np.array(strangers, np.int64)])
        self._region = np.concatenate([np.full(len(prior.rows), -1), regions])
        self._rows, self._thresholds = rows, budget.thresholds(rows)
        # Nobody in particular stands for a region, so whether its people are near is asked of one of them.
        self._shift = np.where(np.isin(rows, near), shift, 0.0)
        each = ndtr((self._shift - self._thresholds) / deviation)
        self._each = each
        self._chance = each * np.concatenate([np.ones(len(prior.rows)), prior.counts[regions]])
        self.rate = float(self._chance.sum())

    def of(self, strangers: int, random: np.random.Generator) -> Iterator[dict[int, float]]:
        """Of so many strangers those who pass somebody's threshold: whose, and with which score."""
        for _ in range(int(random.binomial(strangers, -np.expm1(-self.rate)))):
            passed = 0
            while not passed:
                passed = int(random.poisson(self.rate)) if self.rate > 0.1 else 1
            yield self.passing(passed, random)

    def passing(self, passed: int, random: np.random.Generator) -> dict[int, float]:
        """So many whose threshold a stranger passes, and with which score."""
        chosen = random.choice(len(self._chance), passed, p=self._chance / self._chance.sum())
        chances = random.random(passed) * self._each[chosen]
        scores = self._shift[chosen] - self._deviation * ndtri(chances)
        rows = [
            int(self._rows[place]) if self._region[place] < 0 else self._anybody(int(self._region[place]), random)
            for place in chosen
        ]
        return dict(zip(rows, scores.tolist(), strict=True))

    def _anybody(self, region: int, random: np.random.Generator | None = None) -> int:
        """Somebody of a region whom the prior does not name."""
        random = random or np.random.default_rng(region)
        homes, named = self._made.residents, self._prior
        living = self._made.living[region]
        while True:
            row = int(living[int(random.integers(0, len(living)))])
            if not named.names(np.array([row]))[0] and homes.homes(np.array([row]))[0] == region:
                return row
