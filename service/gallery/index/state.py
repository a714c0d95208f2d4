"""What an index shows at one moment: sealed segments, and what has grown since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.embeddings import Embeddings, Rows
from service.gallery.index.codes import Layout, turned
from service.gallery.index.directory import Directory
from service.gallery.index.flat import Flat, highest
from service.gallery.index.protocol import Matches
from service.gallery.index.rows import Chosen, Positions, scores
from service.gallery.index.sealed import Scan, Sealed
from service.gallery.index.threads import Threads

SHARED: Final = 4096
"""Rows scored by one thread; more are shared."""

WHICH_BITS: Final = 32
WHICH: Final = (1 << WHICH_BITS) - 1
"""Which of the rows asked for lies at a place, below the place itself."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """One moment; a row lives in one place at most.

    Attributes:
        layout: how vectors are turned for the sealed.
        sealed: segments.
        growing: the rest.
        directory: where rows lie in `sealed`.
    """

    layout: Layout
    sealed: tuple[Sealed, ...]
    growing: Flat
    directory: Directory

    @classmethod
    def of(cls, layout: Layout, sealed: tuple[Sealed, ...], growing: Flat) -> State:
        """A moment whose directory is worked out when it is needed."""
        return cls(layout, sealed, growing, Directory(sealed))

    @property
    def living(self) -> int:
        """How many rows can be found."""
        return self.growing.living + sum(each.living for each in self.sealed)

    def with_added(self, rows: Rows, vectors: Embeddings) -> State:
        """The moment after vectors were added; see `Flat.with_added`."""
        sealed, _ = self._sealed_without(rows)
        return replace(self, sealed=sealed, growing=self.growing.with_added(rows, vectors))

    def without(self, rows: Rows) -> tuple[State, int]:
        """The moment after rows were removed, each given once, and how many were there."""
        sealed, removed = self._sealed_without(rows)
        growing, more = self.growing.without(rows)
        return replace(self, sealed=sealed, growing=growing), removed + more

    def search(self, probes: Embeddings, k: int, threads: Threads) -> Matches:
        """The k nearest among everybody."""
        return self._nearest(self.growing.search(probes, k), self.sealed, probes, threads)

    def search_without(self, probes: Embeddings, k: int, rows: Rows, threads: Threads) -> Matches:
        """The k nearest, these rows, each given once, masked out."""
        growing = self.growing.search(probes, k + int(self.growing.has(rows).sum())).past(rows, k)
        return self._nearest(growing, self._sealed_without(rows)[0], probes, threads)

    def sample(self, count: int) -> Rows:
        """Some rows that there are, or were until lately."""
        largest = max((each.segment.rows for each in self.sealed), key=len, default=self.growing.rows)
        return largest[:: max(1, len(largest) // count)][:count]

    def score(self, probes: Embeddings, rows: Rows, threads: Threads) -> NDArray[np.float32]:
        """See `VectorIndex.score`."""
        told = np.full((len(probes), len(rows)), np.nan, np.float32)
        lying = self._lying(rows)
        found = sum(len(which) for _, _, which in lying)
        if found:
            chosen = [self.sealed[number].chosen(positions) for number, positions, _ in lying]
            across = turned(probes, self.layout)
            by = min(threads.count, -(-found // SHARED))
            shares = [chosen] if by == 1 else _shared(chosen, by)
            scored = np.concatenate(threads.each(lambda share: scores(share, across), shares), axis=1)
            told[:, np.concatenate([which for _, _, which in lying])] = scored
        # A row lives in one place, and looking among the growing takes the longest.
        if found < len(rows) and self.growing.living:
            left = np.ones(len(rows), np.bool_)
            for _, _, which in lying:
                left[which] = False
            told[:, left] = self.growing.score(probes, rows[left])
        return told

    def _nearest(self, near: Matches, sealed: tuple[Sealed, ...], probes: Embeddings, threads: Threads) -> Matches:
        """The nearest of those found elsewhere and of those in some segments."""
        k = near.rows.shape[1]
        if not k or not any(each.living for each in sealed):
            return near
        far = Scan(sealed, threads).search(turned(probes, self.layout), k)
        if not self.growing.living:
            return far
        rows, found = np.hstack([near.rows, far.rows]), np.hstack([near.scores, far.scores])
        if not found.size:
            return near
        best = highest(found, rows, k)
        return Matches(np.take_along_axis(rows, best, axis=1), np.take_along_axis(found, best, axis=1))

    def _sealed_without(self, rows: Rows) -> tuple[tuple[Sealed, ...], int]:
        sealed, removed = list(self.sealed), 0
        for number, positions, _ in self._lying(rows):
            sealed[number] = sealed[number].without(positions)
            removed += len(positions)
        return tuple(sealed), removed

    def _lying(self, rows: Rows) -> list[tuple[int, Positions, NDArray[np.int64]]]:
        """Where the living of some rows (n,) lie, segment by segment.

        Returns:
            The number of a segment, positions there in rising order, and which of `rows` lies at each.
        """
        if not self.sealed:
            return []
        # Sorting numbers takes half the time of sorting places by number.
        keys = np.sort(self.directory.find(rows) << WHICH_BITS | np.arange(len(rows)))
        places, everyone = keys >> WHICH_BITS, keys & WHICH
        starts = self.directory.starts
        edges = np.searchsorted(places, starts).tolist()
        found = []
        for each, start, first, end in zip(count(), starts.tolist(), edges, edges[1:], strict=False):
            if first == end:
                continue
            positions, which = places[first:end] - start, everyone[first:end]
            if self.sealed[each].living < len(self.sealed[each].segment):
                alive = self.sealed[each].are_alive(positions)
                positions, which = positions[alive], which[alive]
            found.append((each, positions, which))
        return found


def _shared(chosen: Sequence[Chosen], shares: int) -> list[list[Chosen]]:
    """The same rows in so many shares of about one size."""
    starts = np.cumsum([0, *(len(each.positions) for each in chosen)]).tolist()
    edges = np.linspace(0, starts[-1], shares + 1).astype(np.int64).tolist()
    return [
        [
            replace(each, positions=each.positions[max(0, first - start) : max(0, last - start)])
            for each, start in zip(chosen, starts, strict=False)
        ]
        for first, last in pairwise(edges)
    ]
