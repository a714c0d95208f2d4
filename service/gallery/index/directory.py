"""Where the rows of all sealed segments lie, so that one lookup finds those of a thousand candidates.

Positions are counted through all segments, one after the other: `places`. A row that several segments hold is found in
the one where it may be alive, and whether it is, that segment says.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.gallery.embeddings import Rows
from service.gallery.index.rows import Positions
from service.gallery.index.sealed import Sealed
from service.gallery.index.segment import BLOCK

SPARSE: Final = 4
"""A table of places by row is kept up to this many times the rows that there are; a lookup takes 20 ns there and a
microsecond elsewhere."""

LAST: Final = np.iinfo(np.int64).max

Places: TypeAlias = NDArray[np.int32]


class Directory:
    """Never changes; worked out when somebody is looked for first.

    Args:
        sealed: the segments at a moment, no row of which is alive in two.

    Attributes:
        starts: the first place of each, and one more than the last place, shape (segments + 1,).
    """

    def __init__(self, sealed: Sequence[Sealed]) -> None:
        self.starts = np.cumsum([0, *(len(each.segment) for each in sealed)])
        self._sealed = sealed

    def with_last(self, sealed: Sequence[Sealed]) -> Directory:
        """The directory of these segments and one more, the last of those given, prepared."""
        after = Directory(sealed)
        if isinstance(self._known, _Table):
            more = self._known.with_added(sealed[-1].segment.rows, int(self.starts[-1]))
            if more is not None:
                vars(after)["_known"] = more
        after.prepare()
        return after

    def prepare(self) -> None:
        """Work it out now, so that nobody waits for it later."""
        _ = self._known

    def find(self, rows: Rows) -> Positions:
        """The places of rows, shape (n,), and -1 of those that no segment holds."""
        return self._known.find(rows)

    @functools.cached_property
    def _known(self) -> _Table | _Sorted:
        held = [each.segment.rows for each in self._sealed if len(each.segment)]
        low, high = (
            min((int(rows.min()) for rows in held), default=0),
            max((int(rows.max()) for rows in held), default=-1),
        )
        count = sum(each.living for each in self._sealed)
        if high - low < SPARSE * count:
            table = np.full(high - low + 3, -1, np.int32)
            for rows, places in self._living():
                table[rows - (low - 1)] = places
            return _Table(low - 1, table, count)
        none = (np.empty(0, np.int64), np.empty(0, np.int64))
        rows, places = (np.concatenate(parts) for parts in zip(none, *self._living(), strict=True))
        order = np.argsort(rows)
        return _Sorted(np.append(rows[order], LAST), np.append(places[order], -1).astype(np.int32))

    def _living(self) -> Iterator[tuple[Rows, Positions]]:
        """Rows that are alive, and their places, some at a time: all at once would take as much memory as codes do."""
        for each, start in zip(self._sealed, self.starts.tolist(), strict=False):
            alive = each.alive
            for first in range(0, len(alive), BLOCK):
                positions = first + np.flatnonzero(alive[first : first + BLOCK])
                yield each.segment.rows[positions], start + positions


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Places by row.

    Attributes:
        low: the row of the first of them.
        places: -1 where there is no such row, as there is none at both ends.
        count: how many rows there are at most.
    """

    low: int
    places: Places
    count: int

    def find(self, rows: Rows) -> Positions:
        # Rows outside are taken for one of the ends.
        return self.places.take(rows - self.low, mode="clip").astype(np.int64)

    def with_added(self, rows: Rows, first: int) -> _Table | None:
        """With rows that lie at places from `first` on; None where it would be too large for what it holds."""
        low = min(self.low, int(rows.min()) - 1)
        end = max(self.low + len(self.places), int(rows.max()) + 2)
        count = self.count + len(rows)
        if end - low > SPARSE * count:
            return None
        places = np.full(end - low, -1, np.int32)
        places[self.low - low : self.low - low + len(self.places)] = self.places
        places[rows - low] = np.arange(first, first + len(rows))
        return _Table(low, places, count)


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """Rows in rising order, `LAST` at the end, and the place of each."""

    rows: Rows
    places: Places

    def find(self, rows: Rows) -> Positions:
        here = np.searchsorted(self.rows, rows)
        return np.where(self.rows[here] == rows, self.places[here], -1).astype(np.int64)
