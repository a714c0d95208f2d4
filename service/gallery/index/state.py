"""What an index shows at one moment: sealed segments, and what has grown since."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.embeddings import Embeddings, Rows
from service.gallery.index.codes import Layout, turned
from service.gallery.index.flat import Flat, highest
from service.gallery.index.protocol import Matches
from service.gallery.index.rows import Positions, Vectors
from service.gallery.index.sealed import Scan, Sealed
from service.gallery.index.segment import packed
from service.gallery.index.threads import Threads

SHARED: Final = 4096
"""Rows scored by one thread; more are shared."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """One moment; a row lives in one place at most.

    Attributes:
        layout: how vectors are turned for the sealed.
        sealed: segments.
        growing: the rest.
    """

    layout: Layout
    sealed: tuple[Sealed, ...]
    growing: Flat

    @property
    def living(self) -> int:
        """How many rows can be found."""
        return self.growing.living + sum(each.living for each in self.sealed)

    def with_added(self, rows: Rows, vectors: Embeddings) -> State:
        """The moment after vectors were added; see `Flat.with_added`."""
        sealed = tuple(each.without(rows)[0] for each in self.sealed)
        return replace(self, sealed=sealed, growing=self.growing.with_added(rows, vectors))

    def without(self, rows: Rows) -> tuple[State, int]:
        """The moment after rows were removed, each given once, and how many were there."""
        growing, removed = self.growing.without(rows)
        sealed = [each.without(rows) for each in self.sealed]
        removed += sum(each[1] for each in sealed)
        return replace(self, sealed=tuple(each[0] for each in sealed), growing=growing), removed

    def search(self, probes: Embeddings, k: int, threads: Threads) -> Matches:
        """The k nearest among everybody."""
        near = self.growing.search(probes, k)
        if not any(each.living for each in self.sealed):
            return near
        return _nearest(near, Scan(self.sealed, None, threads).search(turned(probes, self.layout), k))

    def search_among(self, probes: Embeddings, k: int, rows: Rows, threads: Threads) -> Matches:
        """The k nearest among these rows, each given once, all others masked out."""
        near = self.best(probes, k, rows[self.growing.has(rows)], threads)
        wanted = []
        for each in self.sealed:
            places = each.find(rows)
            flags = np.zeros(len(each.segment), np.bool_)
            flags[places[places >= 0]] = True
            wanted.append(packed(flags))
        return _nearest(near, Scan(self.sealed, wanted, threads).search(turned(probes, self.layout), k))

    def best(self, probes: Embeddings, k: int, rows: Rows, threads: Threads) -> Matches:
        """The k nearest of these rows, each given once, by scoring them all."""
        return Matches.best(rows, self.score(probes, rows, threads), k)

    def score(self, probes: Embeddings, rows: Rows, threads: Threads) -> NDArray[np.float32]:
        """See `VectorIndex.score`."""
        scores = np.full((len(probes), len(rows)), np.nan, np.float32)
        across = turned(probes, self.layout) if self.sealed else probes
        left = np.ones(len(rows), np.bool_)
        order = np.argsort(rows)
        ordered = rows[order]
        edges = np.searchsorted(ordered, [each.segment.span for each in self.sealed]).reshape(-1, 2).tolist()
        for each, (first, end) in zip(self.sealed, edges, strict=True):
            if first == end:
                continue
            here, places = order[first:end], each.find(ordered[first:end])
            if (places < 0).any():
                here, places = here[places >= 0], places[places >= 0]
            scores[:, here] = self._shared(each, across, places, threads)
            left[here] = False
        # A row lives in one place, and looking among the growing takes the longest.
        if left.any():
            scores[:, left] = self.growing.score(probes, rows[left])
        return scores

    @staticmethod
    def _shared(each: Sealed, across: Vectors, places: Positions, threads: Threads) -> NDArray[np.float32]:
        shares = min(threads.count, -(-len(places) // SHARED))
        if shares < 2:
            return each.score(across, places)
        order = np.argsort(places)
        told = threads.each(partial(each.score, across), np.array_split(places[order], shares))
        scores = np.empty((len(across), len(places)), np.float32)
        scores[:, order] = np.concatenate(told, axis=1)
        return scores


def _nearest(one: Matches, other: Matches) -> Matches:
    rows, scores = np.hstack([one.rows, other.rows]), np.hstack([one.scores, other.scores])
    if not scores.size:
        return one
    best = highest(scores, one.rows.shape[1])
    return Matches(np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1))
