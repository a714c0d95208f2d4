"""Search through sealed segments: coarse codes for everybody, exact scores for those who may be the mate.

Every part of the codes gives its best few. A coarse score says how high the cosine may be at most,

    hope = coarse / slope + 3.3 spread

so that less than one mate in a thousand hopes for less than its cosine. Candidates are scored exactly in the order of
their hopes until no hope that is left exceeds the best cosine found, or 0.3, under which nobody is a mate. A part whose
last candidate still hopes for more is looked through once more, for all who do. A clear probe is thus done after some
hundred exact scores, and one of low quality, whose best cosine is low, takes as many as it needs.

Long vectors are scored by 8 bits a number at first, whose error may turn over who comes before whom. Those whom it may
have kept from the first k are scored once more, by all 16 (`rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import StorageError
from service.gallery.embeddings import Rows
from service.gallery.index.codes import Bits, Part
from service.gallery.index.flat import highest
from service.gallery.index.products import products
from service.gallery.index.protocol import Matches
from service.gallery.index.rows import Chosen, Positions, Vectors, scores
from service.gallery.index.segment import Segment, unpacked
from service.gallery.index.threads import Threads

SURE: Final = 3.3
"""Spreads by which a mate's coarse score falls short at most, but for one mate in two thousand."""

LEAST: Final = 0.3
"""Cosine under which nobody is looked for."""

DEPTH: Final = 64
"""Candidates that a part gives at first: twice as many take a fifth to a third longer."""
DEEPEST: Final = 8192
"""Candidates of a part at most, when it is looked through once more."""

STEP: Final = 128
"""Candidates scored exactly at first; then twice as many, and so on."""

REACH: Final = 3.0
"""Scales by which two scores may have been turned over: seven standard deviations of what their difference is off."""
AGAIN: Final = 64
"""Most, beside the k wanted, who are scored once more."""

MANY: Final = 2048
"""Of more than so many wanted, everybody is scored exactly, by the first bits alone."""

SLICE: Final = 1 << 16

PLACE_BITS: Final = 32
"""More than a position in a segment takes."""
PLACE: Final = (1 << PLACE_BITS) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Sealed:
    """A segment at one moment.

    Attributes:
        segment: what it holds.
        parts: its codes in memory.
        bits: which of its positions are alive.
        living: how many.
    """

    segment: Segment
    parts: Sequence[Part]
    bits: Bits
    living: int

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which of its positions are alive, as flags."""
        return unpacked(self.bits, len(self.segment))

    def are_alive(self, positions: Positions) -> NDArray[np.bool_]:
        """Whether what lies at these positions is alive, shape (n,)."""
        flags: NDArray[np.bool_] = (self.bits[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1 == 1
        return flags

    def without(self, positions: Positions) -> Sealed:
        """The moment after those at these positions were removed, each of whom is alive and given once."""
        return replace(self, bits=cleared(self.bits, positions), living=self.living - len(positions))

    def erase_dead(self) -> None:
        """Overwrite the dead in the file.

        Raises:
            StorageError: the disk refuses.
        """
        dead = ~self.bits
        if len(self.segment) % 8:
            dead[-1] &= (1 << len(self.segment) % 8) - 1
        try:
            self.segment.erase(dead)
        except OSError as error:
            raise StorageError(f"what was removed cannot be erased: {error.strerror}") from error

    def chosen(self, positions: Positions) -> Chosen:
        """The rows at these positions, which are in rising order."""
        return Chosen(self.segment.numbers, self.segment.scales, positions)


def _hopes(part: Part, coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """How high the cosines of some coarse scores may be."""
    hopes: NDArray[np.float32] = coarse / np.float32(part.trust.slope) + np.float32(SURE * part.trust.spread)
    return hopes


def cleared(bits: Bits, positions: Positions) -> Bits:
    """A copy in which the bits at these positions are 0."""
    fresh = bits.copy()
    np.bitwise_and.at(fresh, positions >> 3, ~(np.uint8(1) << (positions & 7).astype(np.uint8)))
    return fresh


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Who may be the mate of one probe, the highest hope first: hopes, and where each lies."""

    hopes: NDArray[np.float32]
    segments: NDArray[np.int64]
    places: Positions

    @classmethod
    def of(cls, hopes: NDArray[np.float32], segments: NDArray[np.int64], places: Positions) -> _Candidates:
        order = np.argsort(-hopes)
        order = order[places[order] >= 0]
        return cls(hopes[order], segments[order], places[order])


class Scan:
    """A search of some probes through some segments.

    Args:
        sealed: the segments.
        threads: share the work.
    """

    def __init__(self, sealed: Sequence[Sealed], threads: Threads) -> None:
        self._sealed = sealed
        self._threads = threads
        self._units = [(number, part) for number, each in enumerate(sealed) for part in each.parts]
        self._masks = [self._mask(sealed[number], part) for number, part in self._units]

    @staticmethod
    def _mask(each: Sealed, part: Part) -> Bits | None:
        if each.living == len(each.segment):
            return None
        return np.ascontiguousarray(each.bits[part.first // 8 : (part.first + part.count + 7) // 8])

    def search(self, probes: Vectors, k: int) -> Matches:
        """The k nearest of each turned probe."""
        matches = Matches.none(len(probes), k)
        if not self._units or not len(probes) or not k:
            return matches
        if k > MANY:
            return self._through_all(probes, matches)
        hopes, places = self._look(probes, max(k, DEPTH))
        for line, probe in enumerate(probes):
            rows, found = self._ranked(probe[None], k, hopes[:, line], places[:, line])
            matches.rows[line, : len(rows)] = rows
            matches.scores[line, : len(rows)] = found
        return matches

    def _look(self, probes: Vectors, depth: int) -> tuple[NDArray[np.float32], Positions]:
        """Hopes and positions of each part's best, (units, m, depth), padded with -inf and -1."""

        def one(unit: int) -> tuple[NDArray[np.float32], Positions]:
            part = self._units[unit][1]
            coarse, places = part.nearest(probes, depth, self._masks[unit])
            found = places >= 0
            hopes = np.full((len(probes), depth), -np.inf, np.float32)
            filled = np.full((len(probes), depth), -1, np.int64)
            hopes[:, : coarse.shape[1]][found] = _hopes(part, coarse[found])
            filled[:, : coarse.shape[1]] = places
            return hopes, filled

        found = self._threads.each(one, range(len(self._units)))
        return np.stack([each[0] for each in found]), np.stack([each[1] for each in found])

    def _look_again(self, units: Sequence[int], probe: Vectors, ends: NDArray[np.float32], best: float) -> _Candidates:
        """Who hopes for more than the best in some parts, and for no more than who came last there."""

        def one(unit: int) -> tuple[NDArray[np.float32], Positions]:
            part = self._units[unit][1]
            least = (best - SURE * part.trust.spread) * part.trust.slope
            coarse, places = part.above(probe, least, self._masks[unit])
            hopes = _hopes(part, coarse)
            left = np.flatnonzero(hopes <= ends[unit])
            if len(left) > DEEPEST:
                left = left[np.argpartition(-hopes[left], DEEPEST)[:DEEPEST]]
            return hopes[left], places[left]

        found = self._threads.each(one, units)
        numbers = np.repeat([self._units[unit][0] for unit in units], [len(each[0]) for each in found])
        return _Candidates.of(
            np.concatenate([each[0] for each in found]), numbers, np.concatenate([each[1] for each in found])
        )

    def _ranked(
        self, probe: Vectors, k: int, hopes: NDArray[np.float32], places: Positions
    ) -> tuple[Rows, NDArray[np.float32]]:
        """The k nearest among candidates of each part, shape (units, depth), and whom they lead to."""
        numbers = np.array([number for number, _ in self._units])
        first = _Candidates.of(hopes.ravel(), np.repeat(numbers, hopes.shape[1]), places.ravel())
        keys, scored = self._scored(probe, first, LEAST, max(STEP, 4 * k))
        ends, best = hopes[:, -1], float(scored.max(initial=LEAST))
        shallow = np.flatnonzero(ends > best)
        if len(shallow):
            again = self._look_again(shallow.tolist(), probe, ends, best)
            told = self._scored(probe, again, best, max(STEP, 4 * k))
            keys, scored = np.concatenate([keys, told[0]]), np.concatenate([scored, told[1]])
            # Of those whose hopes are equal to the last one's some may have been given before.
            keys, unique = np.unique(keys, return_index=True)
            scored = scored[unique]
        if not len(keys):
            return keys, scored
        order = np.argsort(-scored)
        return self._first(probe, k, keys[order], scored[order])

    def _scored(
        self, probe: Vectors, candidates: _Candidates, best: float, step: int
    ) -> tuple[Positions, NDArray[np.float32]]:
        """Score candidates in the order of their hopes, as long as they hope for more than the best; see `_exactly`."""
        keys, found = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        done = 0
        while done < len(candidates.places) and (done == 0 or candidates.hopes[done] > best):
            some = slice(done, done + step)
            told = self._exactly(probe, candidates.segments[some], candidates.places[some])
            keys.append(told[0])
            found.append(told[1])
            best = max(best, float(told[1].max()))
            done, step = done + step, 2 * step
        return np.concatenate(keys), np.concatenate(found)

    def _exactly(
        self, probe: Vectors, segments: NDArray[np.int64], places: Positions
    ) -> tuple[Positions, NDArray[np.float32]]:
        """Score candidates; their keys, which are a segment's number above a place in it, in rising order."""
        keys = np.sort(segments << PLACE_BITS | places)
        return keys, scores([self._sealed[number].chosen(here) for number, here in self._by_segment(keys)], probe)[0]

    def _first(
        self, probe: Vectors, k: int, keys: Positions, scored: NDArray[np.float32]
    ) -> tuple[Rows, NDArray[np.float32]]:
        """The rows of the k best and their scores, equal ones by their rows; keys come in the order of their scores."""
        last, reach = min(k, len(keys)) - 1, 0.0
        long = self._sealed[0].segment.numbers.itemsize == 1
        if long:
            reach = REACH * float(self._sealed[keys[last] >> PLACE_BITS].segment.scales[keys[last] & PLACE])
        near = int(np.count_nonzero(scored[: k + AGAIN] >= scored[last] - reach))
        rising = np.argsort(keys[:near])
        scored, lying = scored[rising], self._by_segment(keys[rising])
        if long:
            vectors = [self._sealed[number].segment.restored(here) for number, here in lying]
            scored = products(probe, np.concatenate(vectors))[0]
        rows = np.concatenate([self._sealed[number].segment.rows[here] for number, here in lying])
        best = np.lexsort((rows, -scored))[:k]
        return rows[best], scored[best]

    def _by_segment(self, keys: Positions) -> list[tuple[int, Positions]]:
        """Keys in rising order -> numbers of segments, and places in each."""
        edges = np.searchsorted(keys, np.arange(len(self._sealed) + 1) << PLACE_BITS).tolist()
        return [(number, keys[first:end] & PLACE) for number, (first, end) in enumerate(pairwise(edges)) if first < end]

    def _through_all(self, probes: Vectors, matches: Matches) -> Matches:
        k = matches.rows.shape[1]
        slices = [
            (number, first) for number, each in enumerate(self._sealed) for first in range(0, len(each.segment), SLICE)
        ]

        def one(where: tuple[int, int]) -> tuple[Rows, NDArray[np.float32]]:
            number, first = where
            bits = self._sealed[number].bits[first // 8 : (first + SLICE) // 8]
            count = min(SLICE, len(self._sealed[number].segment) - first)
            places = first + np.flatnonzero(unpacked(bits, count))
            return self._sealed[number].segment.rows[places], scores([self._sealed[number].chosen(places)], probes)

        told = self._threads.each(one, slices)
        rows, found = np.concatenate([each[0] for each in told]), np.concatenate([each[1] for each in told], axis=1)
        order = highest(found, rows, min(k, len(rows)))
        matches.rows[:, : order.shape[1]] = rows[order]
        matches.scores[:, : order.shape[1]] = np.take_along_axis(found, order, axis=1)
        return matches
