"""Tier by tier, from the likely few to everybody, until one answer is sure enough.

    v_i = pi_i L_i / (pi_u + S + R),   S = sum over the examined of pi_j L_j,   R = prior mass of the others

(whose L is 1 on average, for E0[L] = 1; after a full scan it is less, see `_Seen.searched`).

After each tier the best candidate i is accepted iff all hold:

    tail        s_i >= t_i, the threshold that the budget gives i (`budget`); the 1:1 floor is part of it
    certainty   v_i >= the certainty asked for
    safe mode   instead of the tail: W = sum over the examined of w_j L_j >= 1 / alpha, w_j = pi_j / (1 - pi_u)

Whom an early tier accepts has passed the threshold that belongs to the whole gallery, so the union bound covers it and
no correction of alpha is needed. W is an e-value: for a stranger E[W] <= 1 whatever the dependence between the scores,
and by Markov's inequality W reaches 1 / alpha at most with probability alpha; it only grows with the tiers, so looking
at it early costs nothing either.

After the last tier the answer is `ask` where digits could decide, and `unknown` elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.identify.budget import Budget
from service.identify.prior import Habits

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]

SCAN_SHARE: Final = 0.25
"""Cost of a row where everybody is searched, against one that is scored by its number, where nothing was measured."""

GALLERY: Final = "gallery"
"""The tier of everybody."""

ASK_SHARE: Final = 0.1
"""Share of the budget that is kept for the second look at a face, once digits were given."""

Score = Callable[[Rows], NDArray[np.floating[Any]]]
"""Rows (n,) -> cosines (n,), NaN where a row is not in the index."""

Search = Callable[[int], tuple[Rows, NDArray[np.floating[Any]]]]
"""k -> the rows of the k most similar people (at most), and their cosines."""


@dataclass(frozen=True)
class Rule:
    """When an answer is given.

    Attributes:
        certainty: least posterior of an accepted candidate.
        safe: whether the e-value decides instead of the tail rule.
        digits: how many digits the visitor can be asked for; 0 where none.
        pointless: chance that a full scan would find the visitor, under which it is not run.
    """

    certainty: float = 0.5
    safe: bool = False
    digits: int = 0
    pointless: float = 1e-4


@dataclass(frozen=True, eq=False)
class Tier:
    """People to be examined together.

    Attributes:
        name: what they have in common.
        rows: unique, (n,).
        prior: pi of each, (n,), and
        near: whether each counts as near; both worked out beforehand where the budget was known.
    """

    name: str
    rows: Rows
    prior: Numbers | None = None
    near: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Examined:
    """A tier that was examined: how many were scored, and the posterior of the best candidate after it."""

    tier: str
    scored: int
    posterior: float


@dataclass(frozen=True, eq=False)
class Found:
    """The answer about one probe.

    Attributes:
        decision: `match`, `unknown` or `ask`.
        rows: candidates, the most probable first, (k,).
        similarities: their cosines, (k,).
        posteriors: (k,).
        prior_log_odds: of each before any face was compared, (k,).
        thresholds: the least cosine that each needed, (k,).
        evidence: W.
        nearest: who of the examined is the most similar, whatever the prior says; None where nobody was examined.
        tiers: what was examined, in order.
        stopped: whether the rest of the gallery was not worth a look.
    """

    decision: Literal["match", "unknown", "ask"]
    rows: Rows
    similarities: Numbers
    posteriors: Numbers
    prior_log_odds: Numbers
    thresholds: Numbers
    evidence: float
    nearest: int | None
    tiers: tuple[Examined, ...]
    stopped: bool


def in_order(tiers: Sequence[Tier], budget: Budget, scan_share: float = SCAN_SHARE) -> list[Tier]:
    """The tiers by how many mates each finds for its cost, those dearer than a full scan left out.

    A tier finds its mate with the probability that the visitor is in it, times that of a mate passing the threshold.

    Args:
        tiers: in no order.
        budget: thresholds of the context.
        scan_share: what a row of a full scan costs, over one that is scored by its number, as the index measured it.
    """
    mass = budget.prior.enrolled
    scan = budget.scales.far.found(budget.least) * mass / max(scan_share * budget.prior.residents.people, 1.0)
    worth = []
    for tier in tiers:
        if len(tier.rows):
            expected = budget.expected(tier.rows)
            passing = budget.scales.near.found(expected.thresholds)
            known = Tier(tier.name, tier.rows, expected.prior, expected.near)
            worth.append((float(expected.prior @ passing) / len(tier.rows), known))
    worth.sort(key=lambda item: -item[0])
    return [tier for gain, tier in worth if gain >= scan]


def look(
    budget: Budget, rule: Rule, habits: Habits, tiers: Sequence[Tier], score: Score, search: Search, *, top: int
) -> Found:
    """Examine tiers until somebody is accepted, and the gallery at the end.

    Args:
        budget: thresholds of the context.
        rule: when an answer is given.
        habits: parameters of the prior.
        tiers: in the order in which they are examined.
        score: scores some rows.
        search: finds the most similar people.
        top: most candidates in the answer.
    """
    prior = budget.prior
    seen = _Seen(budget, habits, rule)
    tried: list[Examined] = []
    for tier in tiers:
        new = ~np.isin(tier.rows, seen.rows) if len(seen.rows) else np.ones(len(tier.rows), bool)
        fresh = tier.rows[new]
        ready = None if tier.prior is None or tier.near is None else (tier.prior[new], tier.near[new])
        seen.take(fresh, score(fresh), ready)
        tried.append(Examined(tier.name, len(fresh), seen.best_posterior))
        if seen.accepted:
            return seen.answer("match", tried, top, stopped=False)
    if seen.chance_of_the_rest < rule.pointless:
        return seen.answer("ask" if seen.digits_could_decide else "unknown", tried, top, stopped=True)
    # Further people than are asked for, because those who need less of a face must not be pushed out.
    rows, similarities = search(top + 16 + int(4e-6 * prior.residents.people))
    new = ~np.isin(rows, seen.rows)
    seen.take(rows[new], similarities[new])
    if len(rows):
        seen.searched(float(similarities[-1]) if len(rows) < prior.residents.people else -1.0)
    tried.append(Examined(GALLERY, prior.residents.people, seen.best_posterior))
    if seen.accepted:
        return seen.answer("match", tried, top, stopped=False)
    return seen.answer("ask" if seen.digits_could_decide else "unknown", tried, top, stopped=False)


class _Seen:
    """Everybody who was examined so far, and what follows from it."""

    def __init__(self, budget: Budget, habits: Habits, rule: Rule) -> None:
        self._budget, self._rule, self._habits = budget, rule, habits
        self.rows = np.empty(0, np.int64)
        self._similarities = np.empty(0)
        self._prior = np.empty(0)
        self._joint = np.empty(0)
        self._missed = 1.0

    def take(
        self,
        rows: Rows,
        similarities: NDArray[np.floating[Any]],
        ready: tuple[Numbers, NDArray[np.bool_]] | None = None,
    ) -> None:
        """Add people and their cosines; who is not in the index any more is passed over.

        Args:
            rows: who, (n,).
            similarities: (n,).
            ready: the prior of each and whether each counts as near, where that is known.
        """
        there = ~np.isnan(similarities)
        pi, near = ready or (self._budget.prior.of(rows), self._budget.near(rows))
        rows, pi, near, cosines = rows[there], pi[there], near[there], np.asarray(similarities[there], np.float64)
        self.rows = np.concatenate([self.rows, rows])
        self._similarities = np.concatenate([self._similarities, cosines])
        self._prior = np.concatenate([self._prior, pi])
        self._joint = np.concatenate([self._joint, pi * np.exp(self._budget.llrs(near, cosines))])

    def searched(self, least: float) -> None:
        """Note that a full search returned those it found nearest, the last of whom scored `least`.

        Of the others L is not 1 on average but E[L; s <= least] = P(mate <= least), the likelihood of having been
        missed. That none of them scored more is true of an exact search. One through coarse codes (`gallery.index`)
        vouches for it only above the best score that it found, and above 0.3, but for one mate in two thousand. Who
        scores between `least` and that best may be left out: never the first, but the rest weighs a little more than
        is said here.
        """
        self._missed = 1 - float(self._budget.scales.far.found(least))

    @property
    def _rest(self) -> float:
        return max(self._budget.prior.enrolled - float(self._prior.sum()), 0.0) * self._missed

    @property
    def _total(self) -> float:
        return self._budget.prior.unknown + float(self._joint.sum()) + self._rest

    @property
    def _best(self) -> int:
        return int(np.argmax(self._joint))

    @property
    def best_posterior(self) -> float:
        """The posterior of the most probable candidate; 0 where there is none."""
        return float(self._joint.max() / self._total) if len(self.rows) else 0.0

    @property
    def evidence(self) -> float:
        """W; 0 where nobody is enrolled."""
        known = 1 - self._budget.prior.unknown
        return float(self._joint.sum()) / (known * self._budget.scales.excess) if known > 0 else 0.0

    @property
    def accepted(self) -> bool:
        """Whether the best candidate is accepted."""
        if not len(self.rows) or self.best_posterior < self._rule.certainty:
            return False
        best = self.rows[[self._best]]
        similarity = float(self._similarities[self._best])
        if self._rule.safe:
            return self.evidence >= 1 / self._budget.fpir and similarity >= float(self._budget.floor(best)[0])
        return similarity >= float(self._budget.thresholds(best)[0])

    @property
    def chance_of_the_rest(self) -> float:
        """The most that the chance can be that the visitor is found among those not examined yet."""
        return self._rest / self._total * float(self._budget.scales.far.found(self._budget.least))

    @property
    def digits_could_decide(self) -> bool:
        """Whether the best candidate would be accepted, had the visitor given that person's digits."""
        if not self._rule.digits or not len(self.rows):
            return False
        chance = 10.0**-self._rule.digits
        right = float(self._joint.max()) * (1 - self._habits.slip)
        wrong = (self._total - float(self._joint.max())) * chance
        best = self.rows[[self._best]]
        passing = float(self._similarities[self._best]) >= float(self._budget.floor(best, vouched=True)[0])
        return passing and right / (right + wrong) >= self._rule.certainty

    def answer(
        self, decision: Literal["match", "unknown", "ask"], tried: list[Examined], top: int, *, stopped: bool
    ) -> Found:
        """Everything that is told about the probe."""
        order = np.argsort(-self._joint, kind="stable")[:top]
        rows, pi = self.rows[order], self._prior[order]
        return Found(
            decision=decision,
            rows=rows,
            similarities=self._similarities[order],
            posteriors=self._joint[order] / self._total,
            prior_log_odds=np.log(pi) - np.log1p(-np.minimum(pi, 1 - 1e-12)),
            thresholds=self._budget.thresholds(rows),
            evidence=self.evidence,
            nearest=int(self.rows[np.argmax(self._similarities)]) if len(self.rows) else None,
            tiers=tuple(tried),
            stopped=stopped,
        )
