"""How one error budget is shared: a threshold of their own for everybody in the gallery.

A person is accepted where c_i pi_i L_i >= lambda pi_u, c_i what the cap leaves of their prior (see `prior`), so the
threshold of j is t_j = LLR^-1(ln(lambda pi_u / c_j pi_j)), and never under the floor of a 1:1 comparison. By the union
bound a stranger is accepted as anybody at most with probability

    sum_j F0bar(max(t_j, floor)) = alpha

whatever the context is and however the scores depend on one another; lambda is what solves it. By the lemma of Neyman
and Pearson no other thresholds find more mates. The floor is inside the sum: whoever stands on it spends less than the
tail rule alone would let them, and what they leave over goes to the others.

The sum runs over the people whom the prior names and over regions, not over the gallery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
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

VOUCHED_FMR: Final = 1e-4
"""The same for somebody whose digits the visitor has given. Two digits or more are guessed at best once in a hundred
times, so that guess and face together stay at 1e-6. At 1e-6 for the face alone, digits could never help whom the floor
stops: they would find no more than the mates above it."""

CLAIM_FMR: Final = 1e-5
"""A claim, or a device of one's own, lets nobody pass more easily than this who would not pass without it: anybody can
say a name. Where the floor is stricter, in a gallery of more than a few thousand people, the floor holds."""

STEPS: Final = 120
"""Steps that ln lambda is sought in, at most: halvings alone would need forty, false position some ten."""

NARROW: Final = 1e-9
"""How near to the least demand the search ends, or to the rate in its logarithm."""


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
class Floors:
    """False-match rates that nobody is accepted at more easily, whatever the prior says.

    Attributes:
        fmr: of a comparison.
        vouched_fmr: of a comparison with somebody for whom a second factor speaks.
        vouched: who these are, unique and rising, all of them named by the prior, (v,).
        claimed_fmr: of a comparison with whom the visitor claims to be,
        claimed: and who that is, named by the prior; nobody or one, (c,).
    """

    fmr: float
    vouched_fmr: float
    vouched: Rows
    claimed_fmr: float
    claimed: Rows


@dataclass(frozen=True, eq=False)
class Expectation:
    """What is expected of some people.

    Attributes:
        prior: pi of each, (k,).
        near: who counts as near, (k,).
        thresholds: the least cosine that each needs, (k,).
    """

    prior: Numbers
    near: NDArray[np.bool_]
    thresholds: Numbers


@dataclass(frozen=True, eq=False)
class Budget:
    """Thresholds for a stated rate.

    Attributes:
        fpir: the rate that they stand for.
        demand: ln(lambda pi_u): an LLR of `demand - ln(c pi)` is needed, c what the cap leaves of pi.
        floors: the rates of the floor.
        scales: what cosines mean.
        prior: of the context.
    """

    fpir: float
    demand: float
    floors: Floors
    scales: Scales
    prior: Prior

    def near(self, rows: Rows) -> NDArray[np.bool_]:
        """Who counts as near, (k,)."""
        local = self.scales.local[self.prior.residents.homes(rows)]
        return np.asarray(local | self.prior.names(rows))

    def expected(self, rows: Rows) -> Expectation:
        """What is expected of some people, all in one: looking up where a million live costs more than the rest."""
        homes, named = self.prior.residents.homes(rows), self.prior.names(rows)
        prior, near = self.prior.of(rows, homes=homes, named=named), named | self.scales.local[homes]
        held = self.prior.held_of(rows, homes=homes, named=named)
        wanted = self.demand - np.log(held * prior)
        tail = self.scales.far.score(wanted)
        if self.scales.near is not self.scales.far:
            tail = np.where(near, self.scales.near.score(wanted), tail)
        return Expectation(prior, near, np.maximum(tail, self._floor(rows, near)))

    def thresholds(self, rows: Rows) -> Numbers:
        """The least cosine that each of some people needs, (k,)."""
        return self.expected(rows).thresholds

    def floor(self, rows: Rows, *, vouched: bool = False) -> Numbers:
        """The least cosine of some people whatever the prior says, (k,); as if digits vouched for all, if so told."""
        return self._floor(rows, self.near(rows), vouched=vouched)

    def _floor(self, rows: Rows, near: NDArray[np.bool_], *, vouched: bool = False) -> Numbers:
        plain, eased, said = (np.where(near, *each) for each in self._least)
        if vouched:
            return eased
        if len(self.floors.claimed):
            plain = np.where(np.isin(rows, self.floors.claimed), said, plain)
        return np.where(np.isin(rows, self.floors.vouched), eased, plain) if len(self.floors.vouched) else plain

    @cached_property
    def _least(self) -> list[tuple[float, float]]:
        """The floor of who is near and of who is not: without a second factor, with one, and of a claim."""
        rates = (self.floors.fmr, self.floors.vouched_fmr, self.floors.claimed_fmr)
        return [(_least(self.scales.near, fmr), _least(self.scales.far, fmr)) for fmr in rates]

    @property
    def least(self) -> float:
        """The floor of anybody from afar."""
        return self._least[0][1]

    def llrs(self, near: NDArray[np.bool_], similarities: Numbers) -> Numbers:
        """The log-likelihood ratio of each, (k,), given who counts as near."""
        if self.scales.near is self.scales.far:
            return self.scales.far.llr(similarities)
        return np.where(near, self.scales.near.llr(similarities), self.scales.far.llr(similarities))


def floors(alpha: float, people: int, vouched: Rows | None = None) -> Floors:
    """The floors in a gallery, for a visitor who may be taken for anybody at most with probability alpha.

    A floor at 1e-6 whatever the gallery would be stricter than a plain search among a thousand people, where a prior
    could then only make people harder to find; so in a small gallery the floor is tied to the plain search.

    Args:
        alpha: the rate, of both looks together where there are two.
        people: in the gallery.
        vouched: whose digits were given, unique and rising.
    """
    fmr = max(FLOOR_FMR, min(LEEWAY * alpha / max(people, 1), alpha))
    nobody = np.empty(0, np.int64)
    return Floors(fmr, max(VOUCHED_FMR, fmr), nobody if vouched is None else vouched, fmr, nobody)


def claiming(limits: Floors, row: int, anyway: float) -> Floors:
    """The floors once the visitor claims to be somebody, which is a 1:1 comparison first and then the rest as usual.

    Args:
        limits: without the claim.
        row: whom the visitor claims to be.
        anyway: the false-match rate at which that person is found without a claim.
    """
    fmr = min(limits.fmr, max(CLAIM_FMR, anyway))
    return replace(limits, claimed_fmr=fmr, claimed=np.array([row], np.int64))


def share_out(prior: Prior, scales: Scales, alpha: float, limits: Floors, *, insist: bool) -> Budget:
    """Share a false-positive identification rate out among everybody.

    Args:
        prior: of the context.
        scales: what cosines mean.
        alpha: the rate.
        limits: the floors.
        insist: whether the caller asked for this very rate. A default that the calibration cannot vouch for in so
            large a gallery is answered with the strictest thresholds there are and the rate that they stand for.

    Raises:
        FpirNotSupportedError: the caller insists on a rate that the calibration cannot vouch for.
    """
    people = max(prior.residents.people, 1)
    named, others = np.log(prior.held * prior.named), np.log(prior.others_held * prior.others)
    sure, local = np.isin(prior.rows, limits.vouched), scales.local
    said = np.isin(prior.rows, limits.claimed) & ~sure
    usual = ~sure & ~said
    parts = [
        (scales.near, limits.fmr, named[usual], np.ones(int(usual.sum()))),
        (scales.near, limits.vouched_fmr, named[sure], np.ones(int(sure.sum()))),
        (scales.near, limits.claimed_fmr, named[said], np.ones(int(said.sum()))),
        (scales.near, limits.fmr, others[local], prior.counts[local]),
        (scales.far, limits.fmr, others[~local], prior.counts[~local]),
    ]

    def spent(demand: float) -> float:
        return sum(
            float(counts @ scale.survival(np.maximum(scale.score(demand - odds), _least(scale, fmr))))
            for scale, fmr, odds, counts in parts
            if len(odds)
        )

    odds = np.concatenate([part[2] for part in parts if len(part[2])])
    loosest, strictest = float(odds.min()) - WIDEST, float(odds.max()) + WIDEST
    if spent(loosest) <= alpha:
        return Budget(alpha, loosest, limits, scales, prior)
    least_rate = spent(strictest)
    if least_rate > alpha * (1 + 1e-9):
        if insist:
            raise FpirNotSupportedError(
                f"with {people:,} people the calibration vouches for {least_rate:.2g} at best, not {alpha:.2g}",
                least=least_rate,
            )
        return Budget(min(1.0, least_rate), strictest, limits, scales, prior)
    return Budget(alpha, solved(spent, alpha, loosest, strictest), limits, scales, prior)


def solved(spent: Callable[[float], float], alpha: float, loosest: float, strictest: float) -> float:
    """The least demand that spends no more than alpha, between one that spends more and one that does not.

    By false position on the logarithm of what is spent, which is nearly straight where the tails are; an end that stays
    twice weighs half as much (the Illinois algorithm, Dowell and Jarratt 1971), and every third step halves the
    interval, so that jumps are found as well.
    """

    def over(demand: float) -> float:
        return float(np.log(max(spent(demand), 1e-300) / alpha))

    above, under, last = over(loosest), over(strictest), 0
    rest = -under
    for step in range(STEPS):
        if strictest - loosest < NARROW or rest < NARROW:
            break
        if step % 3 == 2 or not above > under:
            middle = (loosest + strictest) / 2
        else:
            middle = loosest + (strictest - loosest) * above / (above - under)
        value = over(middle)
        if value > 0:
            loosest, above = middle, value
            under, last = under / 2 if last > 0 else under, 1
        else:
            strictest, under, rest = middle, value, -value
            above, last = above / 2 if last < 0 else above, -1
    return strictest


def _least(scale: Calibration, fmr: float) -> float:
    return scale.threshold(min(max(fmr, scale.least_fmr), scale.fmr[0]))
