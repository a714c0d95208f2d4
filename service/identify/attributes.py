"""What the caller sees beside the face: a height, a gender, an age, a membership. Evidence, never a filter.

    pi_i *= (p(observed | stored_i) / p(observed))^power,  the factor within [1/e, e] for each attribute

Unknown on either side is 1, so an attribute that nobody has changes nothing. p(observed) is the mean over everybody of
whom it is known. A category is observed rightly but for a share of errors; a number with a spread (logistic, whose
tails forgive more than a Gaussian's). A value that was guessed from the same face is no independent evidence: its power
is 0.3 at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.identify.calibration import expit
from service.identify.prior import Prior, Residents

Numbers = NDArray[np.float64]

BOUND: Final = 1.0
"""Most that one attribute may add to, or take from, the log odds."""

FACE_POWER: Final = 0.3
STEP: Final = 0.125
"""Factors of people who are not named one by one are rounded to this in the logarithm."""

POWERS: Final = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
FEWEST: Final = 50
"""Observed cases under which no power is fitted."""


@dataclass(frozen=True)
class Observable:
    """How an attribute is observed.

    Attributes:
        kind: `category`, or `number`.
        error: share of observations of a category that are wrong.
        spread: standard deviation of the observation of a number.
        from_face: whether it is guessed from the very face that is compared.
        power: of the factor.
    """

    kind: Literal["category", "number"]
    error: float = 0.05
    spread: float = 5.0
    from_face: bool = False
    power: float = 1.0

    @property
    def strength(self) -> float:
        """The power that is used."""
        return min(self.power, FACE_POWER) if self.from_face else self.power


@dataclass(eq=False)
class Known:
    """One attribute of everybody. People have few different values, so what is worked out is worked out once for each.

    Attributes:
        values: those that anybody has or had, the first NaN: not known, (v,).
        which: the place of everybody's among them, (n,).
    """

    values: Numbers = field(default_factory=lambda: np.array([np.nan]))
    which: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    _places: dict[float, int] = field(default_factory=dict)

    def places(self, given: Iterable[float]) -> NDArray[np.int32]:
        """The places of values, which are added where nobody had them yet."""
        found = [0 if np.isnan(value) else self._places.setdefault(value, len(self._places) + 1) for value in given]
        self.values = np.array([np.nan, *self._places])
        return np.array(found, np.int32)

    def of_everybody(self) -> Numbers:
        """The value of everybody, (n,)."""
        return self.values[self.which]

    def logs(self, how: Observable, low: float, high: float) -> Numbers:
        """What an observation adds to the log odds of everybody, (n,): `logs` with the power that is used."""
        counts = np.bincount(self.which, minlength=len(self.values))
        found: Numbers = how.strength * logs(how, self.values, low, high, counts)
        return found[self.which]


def logs(
    how: Observable, stored: Numbers, low: float, high: float, counts: NDArray[np.integer] | None = None
) -> Numbers:
    """What an observation adds to the log odds of everybody, before the power: bounded, 0 where nothing is known.

    Args:
        how: the attribute is observed.
        stored: the value of everybody, a category by its number, NaN where it is not known, (n,).
        low: the least that was observed; of a category its number, which nobody needs to have,
        high: and the most; the same as `low` for a single value.
        counts: how many people have each value, (n,); None for one each.
    """
    known = ~np.isnan(stored) if counts is None else ~np.isnan(stored) & (counts > 0)
    found = np.zeros(len(stored))
    if not known.any():
        return found
    values = stored[known]
    if how.kind == "category":
        kinds = max(len(np.unique(values)), 2)
        likelihood = np.where(values == low, 1 - how.error, how.error / (kinds - 1))
    else:
        scale = how.spread * np.sqrt(3) / np.pi
        # A single value is seen to within a tenth of its spread.
        room = max(0.1 * how.spread, high - low) / 2
        middle = (low + high) / 2
        upper, lower = (middle + room - values) / scale, (middle - room - values) / scale
        # Both ends far above say the same as both far below, where differences keep their digits.
        turned = upper + lower > 0
        upper, lower = np.where(turned, -lower, upper), np.where(turned, -upper, lower)
        likelihood = expit(upper) - expit(lower)
    mean = float(np.average(likelihood, weights=None if counts is None else counts[known]))
    if mean > 0:
        with np.errstate(divide="ignore"):
            found[known] = np.clip(np.log(likelihood) - np.log(mean), -BOUND, BOUND)
    return found


def weighed(before: Prior, evidence: Numbers) -> Prior:
    """The prior once something was observed.

    Args:
        before: without it.
        evidence: what is added to the log odds of everybody, (n,) in the order of the residents' rows.
    """
    residents = before.residents
    steps = np.round(evidence / STEP).astype(np.int64)
    least = int(steps.min(initial=0))
    some = np.flatnonzero(np.bincount(steps - least)) + least
    levels = np.concatenate([[0], some[some != 0]])  # the first is for who came since
    place = np.zeros(int(steps.max(initial=0)) - least + 1, np.int64)
    place[levels - least] = np.arange(len(levels))
    home = residents.home.astype(np.int64) * len(levels) + place[steps - least]
    population = np.bincount(home, minlength=len(residents.population) * len(levels)).astype(float)
    split = Residents(residents.rows, home, population)
    counts: Numbers = population - np.bincount(split.homes(before.rows), minlength=len(population))
    others = np.repeat(before.others, len(levels)) * np.tile(np.exp(STEP * levels), len(before.others))
    where = np.minimum(np.searchsorted(residents.rows, before.rows), max(len(residents.rows) - 1, 0))
    known = residents.rows[where] == before.rows if len(residents.rows) else np.zeros(len(before.rows), bool)
    named = before.named * np.exp(np.where(known, evidence[where] if len(evidence) else 0.0, 0.0))
    total = before.unknown + float(named.sum() + counts @ others)
    return replace(
        before,
        unknown=before.unknown / total,
        named=named / total,
        others=others / total,
        others_held=np.repeat(before.others_held, len(levels)),
        counts=counts,
        residents=split,
    )


@dataclass(frozen=True)
class Gain:
    """What an attribute tells.

    Attributes:
        power: that told most on the first half of the cases.
        bits: gained over not knowing it, a case of the second half.
        groups: the same by what the people have on file.
        cases: of the second half.
    """

    power: float
    bits: float
    groups: dict[str, float]
    cases: int


def fit_power(
    how: Observable, stored: Numbers, cases: Sequence[tuple[int, float, float]], names: Sequence[str]
) -> Gain:
    """Find the power that tells confirmed visitors best, and what it tells on others.

    Args:
        how: the attribute is observed.
        stored: as in `logs`.
        cases: the place of the visitor among everybody, and the least and the most that was observed.
        names: the group of each case.

    Raises:
        ValueError: too few cases.
    """
    if len(cases) < FEWEST:
        raise ValueError(f"{len(cases)} cases are too few; {FEWEST} are needed")
    told = np.empty((len(POWERS), len(cases)))
    for case, (place, low, high) in enumerate(cases):
        evidence = logs(how, stored, low, high)
        for row, power in enumerate(POWERS):
            told[row, case] = (power * evidence[place] - np.log(np.mean(np.exp(power * evidence)))) / np.log(2)
    allowed = [row for row, power in enumerate(POWERS) if not how.from_face or power <= FACE_POWER]
    best = max(allowed, key=lambda row: float(told[row, ::2].mean()))
    held = told[best, 1::2]
    groups = np.array(names[1::2])
    by_group = {str(name): round(float(held[groups == name].mean()), 4) for name in np.unique(groups)}
    return Gain(POWERS[best], float(held.mean()), by_group, len(held))
