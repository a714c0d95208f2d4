"""Everybody of a gallery: who can be found, where they live, and the map of their homes, as of a revision."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequestError
from service.gallery import galleries, people
from service.gallery.catalog import Reading
from service.identify.attributes import Known, Observable
from service.identify.prior import Residents
from service.identify.travel import Gravity, Map, mapped
from service.recognition.regions import REGION_RESOLUTION, coarser, point_of
from service.recognition.roll import Roll

Rows = NDArray[np.int64]

GROWN: Final = 0.05
"""Share of the people who may come or leave before the pull of every region is worked out again."""


HOME: Final = "home"

OBSERVED: Final = "observed "
"""Before the name of an attribute, on the roll."""


@dataclass(eq=False)
class Everybody:
    """The people of one gallery, as of a revision.

    Attributes:
        revision: that is shown.
        left: how many people were seen to leave.
    """

    revision: int = -1
    left: int = 0
    roll: Roll = field(default_factory=lambda: Roll((HOME,)))
    population: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    regions: dict[str, int] = field(default_factory=dict)
    points: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])
    observed: Mapping[str, Any] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)
    categories: dict[str, dict[str, int]] = field(default_factory=dict)
    any_digits: bool = False
    residents: Residents | None = None
    map: Map | None = None
    gravity: Gravity | None = None
    travels: list[tuple[str, str, int]] = field(default_factory=list)
    travels_read: datetime | None = None
    living: dict[int, Rows] = field(default_factory=dict)
    following: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rows(self) -> Rows:
        """Everybody who can be found, rising, (n,)."""
        return self.roll.rows

    def region(self, cell: str | None) -> int:
        """The number of the region that holds a cell, 0 for none or one that is too large."""
        name = None if cell is None else coarser(cell, REGION_RESOLUTION)
        if name is None:
            return 0
        if name not in self.regions:
            self.regions[name] = len(self.points)
            self.points.append(point_of(name))
        return self.regions[name]

    def follow(
        self, reading: Reading, gallery_pk: int, gravity: Gravity, place: str | None
    ) -> tuple[Residents, Map, int]:
        """Everybody, the map, and the number on it of the region that holds a cell."""
        with self.following:
            here = self.region(place)
            gallery = galleries.by_pk(reading, gallery_pk)
            head = gallery.revision
            if (gallery.observed or {}).keys() != self.observed.keys():
                # Other attributes count than before, so everybody is read again.
                self.revision, self.residents = -1, None
                self.known = {name: Known() for name in gallery.observed or {}}
                self.roll = Roll((HOME, *(OBSERVED + name for name in self.known)))
                self.population, self.living = np.zeros(1), {}
            self.observed = gallery.observed or {}
            if head != self.revision or self.residents is None:
                self._apply(reading, gallery_pk)
                self.revision = head
            if self.residents is None or len(self.residents.population) != len(self.points):
                self.population = self._population()
                self.residents = Residents(self.rows, self.roll.numbers(HOME), self.population)
            population = self.residents.population
            other = gravity != self.gravity or self.map is None or len(self.map.lat) != len(population)
            if self.map is None or other or self._grown(population):
                lat, lon = np.array(self.points).T
                self.map, self.gravity = mapped(lat, lon, population, gravity), gravity
            return self.residents, self.map, here

    def living_in(self, everybody: Residents, region: int) -> Rows:
        """Who lives in a region, rising; `everybody` is what `follow` told."""
        with self.following:
            found = self.living.get(region) if everybody is self.residents else None
            if found is None:
                found = np.asarray(everybody.rows[everybody.home == region])
                if everybody is self.residents:  # nobody went on meanwhile
                    self.living[region] = found
            return found

    def _apply(self, reading: Reading, gallery_pk: int) -> None:
        """Follow what changed, at the cost of the change and, where somebody leaves or moves, of one copy."""
        self.population = self._population()
        gone = np.unique(np.array(people.left_since(reading, gallery_pk, self.revision), np.int64))
        changed = list(people.changed_since(reading, gallery_pk, self.revision, attributes=bool(self.known)))
        if changed:
            rows = np.concatenate([each.rows for each in changed])
            found = np.concatenate([each.found for each in changed])
            numbers = {HOME: self._homes(cell for each in changed for cell in each.regions)}
            for name, known in self.known.items():
                values = (self.number(name, told.get(name)) for each in changed for told in each.attributes)
                numbers[OBSERVED + name] = known.places(values)
            order = np.argsort(rows)
            some = order[found[order]]
            gone = np.union1d(gone, rows[~found])
            self._count(rows[some], -1)
            self.roll.put(rows[some], {name: each[some] for name, each in numbers.items()})
            self.population = self._population()
            self._count(rows[some], 1)
        if len(gone):
            self._count(gone, -1)
            self.roll.strike(gone)
            self.left += len(gone)
        for name, known in self.known.items():
            known.which = self.roll.numbers(OBSERVED + name)
        self.any_digits = people.any_digits(reading, gallery_pk)
        self.residents = None

    def _homes(self, cells: Iterable[str | None]) -> NDArray[np.int32]:
        numbers: dict[str | None, int] = {}
        found = []
        for cell in cells:
            if cell not in numbers:
                numbers[cell] = self.region(cell)
            found.append(numbers[cell])
        return np.array(found, np.int32)

    def _population(self) -> NDArray[np.float64]:
        """The population so far, as a copy with room for every region: what was handed out stays as it is."""
        return np.concatenate([self.population, np.zeros(len(self.points) - len(self.population))])

    def _count(self, rows: Rows, by: int) -> None:
        """Count those of some people who are on the roll in, or out, of where they live."""
        places, there = self.roll.places(rows)
        homes = self.roll.numbers(HOME)[places[there]]
        np.add.at(self.population, homes, float(by))
        for region in np.unique(homes).tolist():
            self.living.pop(region, None)

    def evidence(self, observed: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """What was observed adds to the log odds of everybody, (n,); None where nothing of it counts here.

        Raises:
            InvalidRequestError: a number was observed as something else.
        """
        with self.following:
            counted = [name for name in observed if name in self.known]
            if not counted:
                return None
            total = np.zeros(len(self.rows))
            for name in counted:
                total += self.known[name].logs(Observable(**self.observed[name]), *self.seen(name, observed[name]))
            return total

    def seen(self, name: str, value: object) -> tuple[float, float]:
        """The least and the most that was observed.

        Raises:
            InvalidRequestError: it is not what the gallery says the attribute is.
        """
        if self.observed[name]["kind"] == "category":
            if isinstance(value, (dict, list)) or value is None:
                raise InvalidRequestError(f"observed {name!r} is one category")
            place = self.categories.get(name, {}).get(str(value), -1)
            return float(place), float(place)
        given = value if isinstance(value, list) else [value, value]
        ends = [float(end) for end in given if isinstance(end, (int, float)) and not isinstance(end, bool)]
        if len(given) != 2 or len(ends) != 2 or ends[0] > ends[1]:
            raise InvalidRequestError(f"observed {name!r} is a number, or [least, most]")
        return ends[0], ends[1]

    def number(self, name: str, value: object) -> float:
        """An attribute's value as a number, a category by its place in the list of those seen; NaN for none."""
        if value is None:
            return float("nan")
        if self.observed[name]["kind"] == "number":
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return float(value) if is_number else float("nan")  # type: ignore[arg-type]
        known = self.categories.setdefault(name, {})
        return float(known.setdefault(str(value), len(known)))

    def _grown(self, population: NDArray[np.float64]) -> bool:
        before = np.zeros(len(population)) if self.map is None else self.map.population
        return float(np.abs(population - before).sum()) > GROWN * max(float(before.sum()), 1.0)
