"""Who will it be, before any face is compared? The prior of everybody in a gallery, in space for those it singles out.

    visits    n_i = sum over visits v of i: w_v,  w_v = exp(-(t - t_v) / tau)              at a device, in a cell, ...
    level     P(i) = (n_i - d w_i) / (n + theta) + b P'(i),  w_i the weight of the last visit of i, P' the coarser level
              b    = (theta + d sum_j w_j) / (n + theta)                                   Pitman-Yor (Teh 2006)
    regions   P'(i) = K(h_i, g) / Z  at the end, h_i the home of i                         see `travel`
    person    pi_i = (1 - pi_u) {(1 - eps) P(i) + eps / N}
    held      c_i  = min{1, cap / N / ((1 - eps) P(i) + eps / N)}                        thresholds go by c_i pi_i

A million people cost no more than the few who are singled out. Whoever has no visit at any level has
P(i) = B K(h_i, g) / Z with one and the same B, the product of all b: everybody else of one home region shares one
number. So a `Prior` holds a probability for each person named in the history, and one probability and a head count for
each region.

The discount d is a part of a visit and ages with it. Taken from n_i at full strength, as where visits do not age, it
would wipe out whoever came once as soon as w_i falls under d: a device that was quiet for a while would forget
everybody but its most frequent guests.

Nobody is ever excluded: eps / N is what remains for those whom nothing speaks for.

The cap bounds how easily a context lets somebody pass, so it belongs to the thresholds (`budget`). Inside pi itself it
would take away what the regulars of a device are expected by, without anybody being expected instead: the pi no longer
sum to 1, and a posterior says too little (see the README).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]

UNKNOWN_LEAST: Final = 0.01
"""A stranger is never less likely than this: confirmed visits tell little of those who were turned away."""

CLAIMED: Final = 0.5
"""Share of the prior that a claimed person, or the owner of a device, is given."""


@dataclass(frozen=True)
class Habits:
    """The parameters of the prior; `fitting` finds them from a log of visits.

    Attributes:
        tau: days after which a visit counts 1/e.
        discount: d at a device, the part of a person's last visit that speaks for others instead.
        theta: visits that the next coarser level is worth there.
        cell_discount: d in a cell, where most people are seen once,
        cell_theta: and theta.
        eps: share of the prior spread evenly over everybody.
        cap: most that the context may lift a person above the even share where thresholds go by it, as a factor.
        unknown: pibar, share of visitors who are nobody in the gallery, where a device has not told otherwise.
        kappa: visits that `unknown` is worth.
        slip: e, how often people mistype their digits.
    """

    tau: float = 60.0
    discount: float = 0.3
    theta: float = 20.0
    cell_discount: float = 0.8
    cell_theta: float = 50.0
    eps: float = 0.1
    cap: float = 1000.0
    unknown: float = 0.2
    kappa: float = 20.0
    slip: float = 0.02


@dataclass(frozen=True, eq=False)
class Level:
    """Visits at one device, or in one cell.

    Attributes:
        rows: people who were there, unique and rising, (n,).
        counts: their visits, each weighed by its age, positive, (n,).
        latest: weight of the last visit of each, (n,).
    """

    rows: Rows
    counts: Numbers
    latest: Numbers


@dataclass(frozen=True, eq=False)
class Residents:
    """Where everybody lives.

    Attributes:
        rows: everybody who can be found, unique and rising, (n,).
        home: the region of each, 0 where it is not known, (n,).
        population: people of each region, (r,).
    """

    rows: Rows
    home: NDArray[np.integer]
    population: Numbers

    @property
    def people(self) -> int:
        """N."""
        return len(self.rows)

    def homes(self, rows: Rows) -> NDArray[np.int64]:
        """The region of some people, (k,); 0 for somebody who came after this was made."""
        found = np.zeros(len(rows), np.int64)
        if len(self.rows):
            places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
            known = self.rows[places] == rows
            found[known] = self.home[places[known]]
        return found


def residents(rows: Rows, home: NDArray[np.integer], regions: int) -> Residents:
    """Count everybody by region; arguments as in `Residents`, in any order of rows."""
    order = np.argsort(rows)
    return Residents(rows[order], home[order], np.bincount(home, minlength=regions).astype(float))


@dataclass(frozen=True, eq=False)
class Prior:
    """The prior of one context.

    Attributes:
        unknown: pi_u, the probability that the visitor is nobody in the gallery.
        rows: people named one by one, unique and rising, (n,).
        named: pi of each of them, (n,).
        others: pi of anybody else who lives in a region, (r,).
        held: the share of each of them that thresholds go by, (n,),
        others_held: and that of the others, (r,).
        counts: how many others live there, (r,).
        residents: where everybody lives.
    """

    unknown: float
    rows: Rows
    named: Numbers
    others: Numbers
    held: Numbers
    others_held: Numbers
    counts: Numbers
    residents: Residents

    @property
    def enrolled(self) -> float:
        """The sum of everybody's prior; with `unknown` it is 1."""
        return float(self.named.sum() + self.counts @ self.others)

    def names(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether each of some people is named, (k,)."""
        if not len(self.rows):
            return np.zeros(len(rows), bool)
        return np.asarray(self.rows[self._places(rows)] == rows)

    def of(
        self, rows: Rows, *, homes: NDArray[np.int64] | None = None, named: NDArray[np.bool_] | None = None
    ) -> Numbers:
        """The prior of some people, (k,); their homes and who of them is named, where that was looked up already."""
        return self._of_each(self.named, self.others, rows, homes, named)

    def held_of(
        self, rows: Rows, *, homes: NDArray[np.int64] | None = None, named: NDArray[np.bool_] | None = None
    ) -> Numbers:
        """The share of some people's prior that thresholds go by, (k,); arguments as in `of`."""
        return self._of_each(self.held, self.others_held, rows, homes, named)

    def _of_each(
        self,
        of_named: Numbers,
        of_others: Numbers,
        rows: Rows,
        homes: NDArray[np.int64] | None,
        named: NDArray[np.bool_] | None,
    ) -> Numbers:
        found = np.array(of_others[self.residents.homes(rows) if homes is None else homes])
        known = self.names(rows) if named is None else named
        found[known] = of_named[self._places(rows[known])]
        return found

    def _places(self, rows: Rows) -> Rows:
        return np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)


def recency(days: Numbers, habits: Habits) -> Numbers:
    """What a visit counts that many days later; a time to come counts as now."""
    return np.exp(-np.maximum(days, 0.0) / habits.tau)


def unknown_share(unknowns: float, visits: float, habits: Habits) -> float:
    """pi_u of a device: (unknowns + kappa pibar) / (visits + kappa), visits counting the unknowns too."""
    share = (unknowns + habits.kappa * habits.unknown) / (visits + habits.kappa)
    return float(np.clip(share, UNKNOWN_LEAST, 1 - UNKNOWN_LEAST))


def even(everybody: Residents, habits: Habits) -> Prior:
    """The prior where nothing is known: everybody is as likely as the next."""
    return prior((), everybody, np.ones(len(everybody.population)), habits.unknown, habits)


def prior(levels: Sequence[Level], everybody: Residents, affinity: Numbers, unknown: float, habits: Habits) -> Prior:
    """The prior of a context.

    Args:
        levels: the device, then the cells around it, the finest first.
        everybody: where everybody lives.
        affinity: K(h, g) of every home region towards the region of the probe, up to a factor, (r,).
        unknown: pi_u.
        habits: the parameters.
    """
    people = max(everybody.people, 1)
    expected = float(everybody.population @ affinity)
    base = affinity / expected if expected > 0 else np.full(len(affinity), 1 / people)
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *(level.rows for level in levels)]))
    named, others = base[everybody.homes(rows)], base
    for place, level in reversed(list(enumerate(levels))):
        at_device = place == 0
        discount = level.latest * (habits.discount if at_device else habits.cell_discount)
        theta = habits.theta if at_device else habits.cell_theta
        total = level.counts.sum() + theta
        back_off = (theta + discount.sum()) / total
        named, others = back_off * named, back_off * others
        named[np.searchsorted(rows, level.rows)] += (level.counts - discount) / total

    named, others = ((1 - habits.eps) * share + habits.eps / people for share in (named, others))
    held, others_held = (np.minimum(1.0, habits.cap / people / share) for share in (named, others))
    counts = everybody.population - np.bincount(everybody.homes(rows), minlength=len(base))
    return Prior(unknown, rows, (1 - unknown) * named, (1 - unknown) * others, held, others_held, counts, everybody)


def claimed(before: Prior, row: int) -> Prior:
    """The prior once the visitor claims to be somebody, or stands at that person's own device.

    The claim is believed by half, without the cap, which is for what visits say; what bounds a false one is the 1:1
    floor of the decision (`budget.claiming`).
    """
    opened = _naming(before, np.array([row], np.int64))
    named, held, place = (1 - CLAIMED) * opened.named, opened.held.copy(), np.searchsorted(opened.rows, row)
    named[place] += CLAIMED * before.enrolled
    held[place] = 1.0
    return replace(opened, named=named, held=held, others=(1 - CLAIMED) * opened.others)


def digits_given(before: Prior, matches: Rows, digits: int, habits: Habits) -> Prior:
    """The posterior of a context once the visitor has given digits, which is the prior of the second look at the face.

    Who is i types the digits of i with probability 1 - e and any others with e 10^-k each. Who is nobody types any
    digits with 10^-k: that factor belongs to the unknown as well, or the answer of a stranger would look ten thousand
    times more like one than it is.

    Args:
        before: without the digits.
        matches: everybody in the gallery whose digits are these, unique and rising, (m,).
        digits: k, how many were given.
        habits: the parameters.
    """
    chance = 10.0**-digits
    opened = _naming(before, matches)
    named = opened.named * (habits.slip * chance)
    places = np.searchsorted(opened.rows, matches)
    named[places] = opened.named[places] * (1 - habits.slip)
    others = opened.others * (habits.slip * chance)
    unknown = before.unknown * chance
    total = unknown + named.sum() + opened.counts @ others
    return replace(opened, unknown=float(unknown / total), named=named / total, others=others / total)


def _naming(before: Prior, rows: Rows) -> Prior:
    """The same prior with further people named one by one."""
    more = np.setdiff1d(rows, before.rows)
    if not len(more):
        return before
    union = np.union1d(before.rows, more)
    counts = before.counts - np.bincount(before.residents.homes(more), minlength=len(before.counts))
    return replace(before, rows=union, named=before.of(union), held=before.held_of(union), counts=counts)
