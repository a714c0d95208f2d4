"""How one error budget is shared: a threshold of their own for everybody in the gallery.

A person is accepted where pi_i L_i >= lambda pi_u, so the threshold of j is t_j = LLR^-1(ln(lambda pi_u / pi_j)), and
never under the floor of a 1:1 comparison. By the union bound a stranger is accepted as anybody at most with probability

    sum_j F0bar(max(t_j, floor)) = alpha

whatever the context is and however the scores depend on one another; lambda is what solves it. By the lemma of Neyman
and Pearson no other thresholds find more mates. The floor is inside the sum: whoever stands on it spends less than the
tail rule alone would let them, and what they leave over goes to the others.

The sum runs over the people whom the prior names and over regions, not over the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import FpirNotSupportedError
from service.identify.calibration import Calibration
from service.identify.prior import Prior

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]

FLOOR_FMR: Final = 1e-6
"""False-match rate of the 1:1 floor."""

LEEWAY: Final = 10.0
"""In a gallery so small that a plain search is looser than the floor, a context may loosen it this much further."""

WIDEST: Final = 100.0
"""No LLR is further from zero: e^100 faces were never compared."""

STEPS: Final = 40
"""Halvings of the interval in which ln lambda lies; it ends narrower than 1e-9."""


@dataclass(frozen=True, eq=False)
class Scales:
    """What cosines mean, by tier.

    Attributes:
        near: where probe and person may be neighbours, who resemble each other.
        far: everybody else.
        local: home regions whose people count as near, (r,) bool; whoever the prior names is near too.
        excess: the greater E[L] over impostors of the two, and 1 at least: what an e-value is divided by.
    """

    near: Calibration
    far: Calibration
    local: NDArray[np.bool_]
    excess: float


@dataclass(frozen=True, eq=False)
class Budget:
    """Thresholds for a stated rate.

    Attributes:
        fpir: the rate that they stand for.
        demand: ln(lambda pi_u): an LLR of `demand - ln pi` is needed.
        floor: least cosine whatever the prior says, near and far.
        scales: what cosines mean.
        prior: of the context.
    """

    fpir: float
    demand: float
    floor: tuple[float, float]
    scales: Scales
    prior: Prior

    def near(self, rows: Rows) -> NDArray[np.bool_]:
        """Who counts as near, (k,)."""
        local = self.scales.local[self.prior.residents.homes(rows)]
        return np.asarray(local | self.prior.names(rows))

    def thresholds(self, rows: Rows) -> Numbers:
        """The least cosine that each of some people needs, (k,)."""
        wanted = self.demand - np.log(self.prior.of(rows))
        near = np.maximum(self.floor[0], self.scales.near.score(wanted))
        far = np.maximum(self.floor[1], self.scales.far.score(wanted))
        return np.where(self.near(rows), near, far)

    def llrs(self, rows: Rows, similarities: Numbers) -> Numbers:
        """The log-likelihood ratio of each, (k,)."""
        return np.where(self.near(rows), self.scales.near.llr(similarities), self.scales.far.llr(similarities))


def floor_rate(alpha: float, people: int) -> float:
    """The false-match rate of the floor, for a visitor who may be taken for anybody at most with probability alpha.

    A floor at 1e-6 whatever the gallery would be stricter than a plain search among a thousand people, where a prior
    could then only make people harder to find; so in a small gallery the floor is tied to the plain search.
    """
    return max(FLOOR_FMR, min(LEEWAY * alpha / max(people, 1), alpha))


def share_out(prior: Prior, scales: Scales, alpha: float, *, floor_fmr: float, insist: bool) -> Budget:
    """Share a false-positive identification rate out among everybody.

    Args:
        prior: of the context.
        scales: what cosines mean.
        alpha: the rate.
        floor_fmr: false-match rate of the floor; see `floor_rate`.
        insist: whether the caller asked for this very rate. A default that the calibration cannot vouch for in so
            large a gallery is answered with the strictest thresholds there are and the rate that they stand for.

    Raises:
        FpirNotSupportedError: the caller insists on a rate that the calibration cannot vouch for.
    """
    people = max(prior.residents.people, 1)
    floor = (_floor(scales.near, floor_fmr), _floor(scales.far, floor_fmr))
    parts = [
        (scales.near, floor[0], np.log(prior.named), np.ones(len(prior.named))),
        (scales.near, floor[0], np.log(prior.others[scales.local]), prior.counts[scales.local]),
        (scales.far, floor[1], np.log(prior.others[~scales.local]), prior.counts[~scales.local]),
    ]

    def spent(demand: float) -> float:
        return sum(
            float(counts @ scale.survival(np.maximum(scale.score(demand - odds), least)))
            for scale, least, odds, counts in parts
            if len(odds)
        )

    odds = np.concatenate([part[2] for part in parts if len(part[2])])
    loosest, strictest = float(odds.min()) - WIDEST, float(odds.max()) + WIDEST
    if spent(loosest) <= alpha:
        return Budget(alpha, loosest, floor, scales, prior)
    least_rate = spent(strictest)
    if least_rate > alpha * (1 + 1e-9):
        if insist:
            raise FpirNotSupportedError(
                f"with {people:,} people the calibration vouches for {least_rate:.2g} at best, not {alpha:.2g}",
                least=least_rate,
            )
        return Budget(min(1.0, least_rate), strictest, floor, scales, prior)
    for _ in range(STEPS):
        middle = (loosest + strictest) / 2
        if spent(middle) > alpha:
            loosest = middle
        else:
            strictest = middle
    return Budget(alpha, strictest, floor, scales, prior)


def _floor(scale: Calibration, fmr: float) -> float:
    return scale.threshold(min(max(fmr, scale.least_fmr), scale.fmr[0]))
