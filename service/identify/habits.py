"""Fit the prior's parameters to a log of visits: those that would have told the later ones best.

The log is cut in two. With the visits before the cut as history, each visit after it has a prior; the mean of its
logarithm is what is maximised, one parameter at a time over a grid and round again (coordinate ascent). What the
history tells is the gain over everybody being as likely as the next, in bits a visit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.identify.prior import Habits, Level, Residents, prior, recency
from service.identify.travel import Gravity

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]

GRIDS: Final[dict[str, tuple[float, ...]]] = {
    "tau": (7.0, 15.0, 30.0, 60.0, 120.0, 240.0),
    "discount": (0.1, 0.3, 0.5, 0.7, 0.9),
    "theta": (1.0, 5.0, 20.0, 50.0, 200.0),
    "cell_discount": (0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    "cell_theta": (5.0, 20.0, 50.0, 200.0, 1000.0),
    "eps": (0.02, 0.05, 0.1, 0.2),
}
"""Values that are tried. The cap and the slip are guard-rails of the operator, not habits of visitors."""

TRAVELS: Final[dict[str, tuple[float, ...]]] = {
    "d0": (1.0, 2.0, 5.0, 10.0, 20.0),
    "beta": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    "kappa": (5.0, 15.0, 50.0, 150.0, 500.0),
}
"""The same of the parameters of travel."""

AT_FIRST: Final = Gravity()
"""How people travel where nothing else is known."""

ROUNDS: Final = 3

FEWEST: Final = 50
"""Later visits under which nothing is fitted."""


@dataclass(frozen=True, eq=False)
class Log:
    """Visits of one place: who, and how many days before the cut; after it the days are negative.

    Attributes:
        rows: (n,).
        days: (n,).
    """

    rows: Rows
    days: Numbers

    def level(self, habits: Habits) -> Level:
        """The history at the cut."""
        past = self.days >= 0
        weights = recency(self.days[past], habits)
        rows, places = np.unique(self.rows[past], return_inverse=True)
        latest = np.zeros(len(rows))
        np.maximum.at(latest, places, weights)
        return Level(rows, np.bincount(places, weights, minlength=len(rows)).astype(np.float64), latest)


@dataclass(frozen=True, eq=False)
class Scene:
    """A device with the cells around it, the finest first, and K towards its region, (r,), by the way people travel."""

    device: Log
    cells: tuple[Log, ...]
    affinity: Callable[[Gravity], Numbers]


@dataclass(frozen=True)
class FittedHabits:
    """What a fit gave.

    Attributes:
        habits: the parameters,
        gravity: and those of travel.
        bits: gained by the history over an even prior, a visit.
        bits_before: gained with the parameters that the fit began with.
        visits: that were told beforehand.
    """

    habits: Habits
    gravity: Gravity
    bits: float
    bits_before: float
    visits: int


def gain(
    scenes: Sequence[Scene], everybody: Residents, habits: Habits, gravity: Gravity = AT_FIRST
) -> tuple[float, int]:
    """Bits that the history tells of a visit after the cut, and how many such visits there are."""
    bits, visits, people = 0.0, 0, max(everybody.people, 1)
    for scene in scenes:
        later = scene.device.rows[scene.device.days < 0]
        if not len(later):
            continue
        levels = [log.level(habits) for log in (scene.device, *scene.cells)]
        before = prior(levels, everybody, scene.affinity(gravity), 0.0, replace(habits, cap=float(people)))
        bits += float(np.log2(before.of(later) * people).sum())
        visits += len(later)
    return (bits / visits if visits else 0.0), visits


def fit_habits(
    scenes: Sequence[Scene], everybody: Residents, start: Habits, travel: Gravity = AT_FIRST
) -> FittedHabits:
    """Find the parameters that tell the visits after the cut best.

    Args:
        scenes: one for each device.
        everybody: where everybody lives.
        start: the parameters to begin with,
        travel: and those of travel.

    Raises:
        ValueError: too few visits lie after the cut.
    """
    habits, gravity, (least, visits) = start, travel, gain(scenes, everybody, start, travel)
    if visits < FEWEST:
        raise ValueError(f"{visits} visits after the cut are too few to fit anything; {FEWEST} are needed")
    most = least
    for _ in range(ROUNDS):
        before = most
        for name, value in _grid(GRIDS):
            tried = replace(habits, **{name: value})
            bits, _ = gain(scenes, everybody, tried, gravity)
            if bits > most:
                habits, most = tried, bits
        for name, value in _grid(TRAVELS):
            other = replace(gravity, **{name: value})
            bits, _ = gain(scenes, everybody, habits, other)
            if bits > most:
                gravity, most = other, bits
        if most - before < 1e-3:
            break
    return FittedHabits(habits, gravity, most, least, visits)


def _grid(values: dict[str, tuple[float, ...]]) -> list[tuple[str, float]]:
    return [(name, value) for name, each in values.items() for value in each]
