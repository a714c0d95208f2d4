"""Everybody of a gallery: who can be found, where they live, and the map of their homes, as of a revision."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.gallery import galleries, people
from service.gallery.catalog import Reading
from service.identify.prior import Residents, residents
from service.identify.travel import Gravity, Map, mapped
from service.recognition.regions import REGION_RESOLUTION, coarser, point_of

Rows = NDArray[np.int64]

GROWN: Final = 0.05
"""Share of the people who may come or leave before the pull of every region is worked out again."""


@dataclass(eq=False)
class Everybody:
    """The people of one gallery, as of a revision."""

    revision: int = -1
    rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    home: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    regions: dict[str, int] = field(default_factory=dict)
    points: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])
    any_digits: bool = False
    residents: Residents | None = None
    map: Map | None = None
    travels: list[tuple[str, str, int]] = field(default_factory=list)
    travels_read: datetime | None = None
    following: threading.Lock = field(default_factory=threading.Lock)

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
            head = galleries.by_pk(reading, gallery_pk).revision
            if head != self.revision or self.residents is None:
                self._apply(reading, gallery_pk)
                self.revision = head
            if self.residents is None or len(self.residents.population) != len(self.points):
                self.residents = residents(self.rows, self.home, len(self.points))
            population = self.residents.population
            if self.map is None or len(self.map.lat) != len(population) or self._grown(population):
                lat, lon = np.array(self.points).T
                self.map = mapped(lat, lon, population, gravity)
            return self.residents, self.map, here

    def _apply(self, reading: Reading, gallery_pk: int) -> None:
        changed = people.homes_since(reading, gallery_pk, self.revision)
        gone = [*people.left_since(reading, gallery_pk, self.revision), *(pk for pk, _, _ in changed)]
        staying = ~np.isin(self.rows, np.array(gone, np.int64))
        found = [(pk, self.region(cell)) for pk, cell, has_face in changed if has_face]
        fresh = np.array(found, np.int64).reshape(-1, 2)
        self.rows = np.concatenate([self.rows[staying], fresh[:, 0]])
        self.home = np.concatenate([self.home[staying], fresh[:, 1]])
        self.any_digits = people.any_digits(reading, gallery_pk)
        self.residents = None

    def _grown(self, population: NDArray[np.float64]) -> bool:
        before = np.zeros(len(population)) if self.map is None else self.map.population
        return float(np.abs(population - before).sum()) > GROWN * max(float(before.sum()), 1.0)
