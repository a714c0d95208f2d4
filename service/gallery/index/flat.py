"""Exact search in memory over vectors as they are: small galleries, and in large ones what came last.

A `Flat` is one moment and never changes; those who write make the next one. Moments share their storage, in which
vectors are only ever added behind those that a moment knows, so that a reader needs no lock and holds up nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.embeddings import Embeddings, Rows
from service.gallery.index.products import products
from service.gallery.index.protocol import NOBODY, Matches

BLOCK: Final = 4096
"""Vectors allocated at once."""


@dataclass(slots=True, eq=False)
class _Storage:
    """What moments share: only one thread at a time adds to it, behind what any moment knows."""

    dim: int
    blocks: list[Embeddings] = field(default_factory=list)
    rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    places: dict[int, int] = field(default_factory=dict)

    def put(self, first: int, rows: Rows, vectors: Embeddings) -> None:
        last = first + len(rows)
        if last > len(self.rows):
            # Moments hold on to the old array, so it is replaced and not changed.
            more = np.full(max(last, 2 * len(self.rows), 64) - len(self.rows), NOBODY, np.int64)
            self.rows = np.concatenate([self.rows, more])
        self.rows[first:last] = rows
        done = 0
        while done < len(rows):
            block, within = divmod(first + done, BLOCK)
            if block == len(self.blocks):
                self.blocks.append(np.empty((BLOCK, self.dim), np.float32))
            some = vectors[done : done + BLOCK - within]
            self.blocks[block][within : within + len(some)] = some
            done += len(some)
        self.places.update(zip(rows.tolist(), range(first, last), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """Vectors at one moment.

    Attributes:
        length: places in use, those of the dead included.
        living: how many can be found.
    """

    length: int
    living: int
    _storage: _Storage
    _blocks: tuple[Embeddings, ...]
    _rows: Rows
    _alive: NDArray[np.bool_]

    @classmethod
    def empty(cls, dim: int) -> Flat:
        """No vector yet."""
        return cls(0, 0, _Storage(dim), (), np.empty(0, np.int64), np.empty(0, np.bool_))

    def with_added(self, rows: Rows, vectors: Embeddings) -> Flat:
        """The moment after these were added, or took the place of those that there were; each row is given once.

        Only the last moment made may be asked this, and by one thread at a time.
        """
        before, _ = self.without(rows)
        storage = self._storage
        storage.put(self.length, rows, vectors)
        alive = np.concatenate([before._alive, np.ones(len(rows), np.bool_)])
        length = self.length + len(rows)
        return Flat(length, before.living + len(rows), storage, tuple(storage.blocks), storage.rows, alive)

    def without(self, rows: Rows) -> tuple[Flat, int]:
        """The moment after these were removed, and how many were there; asked like `with_added`."""
        places = self._storage.places
        dead = [places.pop(row) for row in rows.tolist() if row in places]
        if not dead:
            return self, 0
        alive = self._alive.copy()
        alive[dead] = False
        return replace(self, living=self.living - len(dead), _alive=alive), len(dead)

    @property
    def rows(self) -> Rows:
        """The living, the longest there first."""
        return self._rows[: self.length][self._alive]

    def since(self, length: int = 0) -> tuple[Rows, Embeddings]:
        """The living from a place on, as copies, the longest there first."""
        places = length + np.flatnonzero(self._alive[length:])
        return self._rows[places], self._at(places)

    def has(self, rows: Rows, before: int | None = None) -> NDArray[np.bool_]:
        """Whether each row is here, and at a place before this one, shape (n,)."""
        places = self._find(rows)
        here: NDArray[np.bool_] = (places != NOBODY) & (places < (self.length if before is None else before))
        return here

    def search(self, probes: Embeddings, k: int) -> Matches:
        """The k nearest of each probe; see `VectorIndex.search`."""
        matches = Matches.none(len(probes), k)
        found = min(k, self.living)
        if found and len(probes):
            scores = np.empty((len(probes), self.length), np.float32)
            for number, block in enumerate(self._blocks):
                span = slice(number * BLOCK, min((number + 1) * BLOCK, self.length))
                products(probes, block[: span.stop - span.start], scores[:, span])
            scores[:, ~self._alive] = -np.inf
            best = highest(scores, self._rows[: self.length], found)
            matches.scores[:, :found] = np.take_along_axis(scores, best, axis=1)
            matches.rows[:, :found] = self._rows[best]
        return matches

    def score(self, probes: Embeddings, rows: Rows) -> NDArray[np.float32]:
        """See `VectorIndex.score`."""
        places = self._find(rows)
        known = places != NOBODY
        scores = np.full((len(probes), len(rows)), np.nan, np.float32)
        if known.any():
            scores[:, known] = products(probes, self._at(places[known]))
        return scores

    def _find(self, rows: Rows) -> NDArray[np.int64]:
        if not self.living:
            return np.full(len(rows), NOBODY, np.int64)
        latest = self._storage.places.get
        places = np.array([latest(row, NOBODY) for row in rows.tolist()], np.int64)
        for which in np.flatnonzero(places >= self.length):
            # Added again since this moment, which knows it elsewhere or not at all.
            earlier = np.flatnonzero((self._rows[: self.length] == rows[which]) & self._alive)
            places[which] = earlier[0] if len(earlier) else NOBODY
        known = places != NOBODY
        places[known] = np.where(self._alive[places[known]], places[known], NOBODY)
        return places

    def _at(self, places: NDArray[np.int64]) -> Embeddings:
        vectors = np.empty((len(places), self._storage.dim), np.float32)
        numbers, within = np.divmod(places, BLOCK)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            vectors[here] = self._blocks[number][within[here]]
        return vectors


def highest(scores: NDArray[np.float32], rows: Rows, k: int) -> NDArray[np.int64]:
    """The columns of the k highest scores of each line, the highest first, and of equal ones the lower row.

    Args:
        scores: shape (m, n).
        rows: whose they are, shape (n,) or (m, n).
        k: 0 < k <= n.

    Returns:
        Shape (m, k).
    """
    best = np.empty((len(scores), k), np.int64)
    for line, (told, whose) in enumerate(zip(scores, np.broadcast_to(rows, scores.shape), strict=True)):
        least = np.partition(told, len(told) - k)[len(told) - k]
        some = np.flatnonzero(told >= least)
        best[line] = some[np.lexsort((whose[some], -told[some]))[:k]]
    return best
