"""The roll of a gallery: everybody's key, in order, and a few numbers of each.

A gallery of millions changes by a few people at a time, and whoever is new has the greatest key so far. So what is
appended is written behind what is there, at the cost of the change alone; only where somebody leaves, or a number of
somebody is another than before, the numbers are copied once. Nothing that was handed out ever changes: it shows the
roll as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Numbers = NDArray[np.int32]

Some = TypeVar("Some", bound=np.generic)

ROOM: Final = 1.125
"""How much more room is made than is needed, so that the next to come need none."""


class Roll:
    """Keys, unique and rising, and numbers of each by name; one thread at a time may change it.

    Args:
        names: of the numbers.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._count = 0
        self._rows: Rows = np.empty(0, np.int64)
        self._numbers: dict[str, Numbers] = {name: np.empty(0, np.int32) for name in names}

    @property
    def rows(self) -> Rows:
        """Everybody's key, (n,)."""
        return self._rows[: self._count]

    def numbers(self, name: str) -> Numbers:
        """A number of everybody, (n,)."""
        return self._numbers[name][: self._count]

    def places(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where some people are, (k,), and whether they are there at all."""
        if not self._count:
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
        places = np.minimum(np.searchsorted(self.rows, rows), self._count - 1)
        return places, np.asarray(self.rows[places] == rows)

    def put(self, rows: Rows, numbers: Mapping[str, Numbers]) -> None:
        """Let people be on the roll with these numbers.

        Args:
            rows: unique and rising, (k,).
            numbers: all of each, by name, (k,).
        """
        places, there = self.places(rows)
        for name, values in numbers.items():
            other = there.copy()
            other[there] = self._numbers[name][places[there]] != values[there]
            if other.any():
                changed = self._numbers[name].copy()
                changed[places[other]] = values[other]
                self._numbers[name] = changed
        new = rows[~there]
        if not len(new):
            return
        late = self._count and new[0] < self._rows[self._count - 1]
        self._make_room(self._count + len(new))
        end = self._count + len(new)
        self._rows[self._count : end] = new
        for name, values in numbers.items():
            self._numbers[name][self._count : end] = values[~there]
        self._count = end
        if late:
            # Somebody from before who could not be found until now: everybody moves up.
            self._keep(np.argsort(self.rows, kind="stable"))

    def strike(self, rows: Rows) -> None:
        """Take people off the roll; who is not on it is passed over."""
        places, there = self.places(rows)
        if there.any():
            staying = np.ones(self._count, bool)
            staying[places[there]] = False
            self._keep(staying)

    def _keep(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> None:
        self._rows = self.rows[places]
        for name in self._numbers:
            self._numbers[name] = self.numbers(name)[places]
        self._count = len(self._rows)

    def _make_room(self, count: int) -> None:
        if count > len(self._rows):
            room = int(ROOM * count) + 16
            self._rows = _longer(self.rows, room)
            for name in self._numbers:
                self._numbers[name] = _longer(self.numbers(name), room)


def _longer(values: NDArray[Some], room: int) -> NDArray[Some]:
    found: NDArray[Any] = np.empty(room, values.dtype)
    found[: len(values)] = values
    return found
