"""Rows for exact scores: a vector as whole numbers and a scale, on disk, mapped into memory.

    cosine(probe, row) = scale * (probe . (numbers - zero)) +- error

Vectors of up to 256 dimensions are kept in 16 bits, longer ones in 8, so that a row takes some 512 bytes. A number is
off by at most half a step and on average by step / sqrt(12); over a unit probe the cosine is therefore off by
scale / sqrt(12) on average: about 2e-6 in 16 bits at 128 dimensions, and 3.4e-4 in 8 bits at 512. That may turn over
who of two comes first, so of longer vectors the 8 bits that follow are kept as well, in a place of their own: the
rests, which are read of the first few only and bring the error to 1.3e-6.

    number = higher byte + (rest - 128) / 256

FAISS compares bytes with a float32 probe as they lie, without making floats of them first, which takes half the time of
numpy. To it a number of 16 bits is two bytes, of which the higher one counts 256 times.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray

Positions: TypeAlias = NDArray[np.int64]
"""Places in a segment, shape (n,)."""

Vectors: TypeAlias = NDArray[np.float32]
"""Turned vectors, shape (n, width); see `codes.Layout`."""

Numbers: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""Whole numbers from the least one on, shape (n, width), uint8 or uint16; zero lies in the middle."""

Rests: TypeAlias = NDArray[np.uint8]
"""What follows numbers in 8 bits, shape (n, width); (n, 0) where numbers have 16."""

NOTHING: Final = 128
"""A rest that says nothing,"""
FINER: Final = 256
"""and how many of them are one number."""

LONG: Final = 256
BLOCK: Final = 1024
"""Rows brought together at once, so that they stay in the cache of a core,"""
MOST: Final = 1 << 13
"""and those compared at once where they lie together."""

CROWDED: Final = 2
"""All rows between are compared too where those asked for are at least one in so many of them."""

COUNTED: Final = np.arange(MOST)

EVERY: Final = -3e38
"""A score that none is under."""

_faiss: Final[Any] = faiss
_own = threading.local()


def number_type(dim: int) -> np.dtype[Any]:
    """In what whole numbers vectors of a dimension are kept."""
    return np.dtype("<u2") if dim <= LONG else np.dtype("<u1")


def _zero(kind: np.dtype[Any]) -> np.float32:
    return np.float32(np.iinfo(kind).max // 2 + 1)


def quantised(vectors: Vectors, kind: np.dtype[Any]) -> tuple[Numbers, NDArray[np.float32], Rests]:
    """Vectors as whole numbers, shape (n, width), scales, (n,), and rests. Doing it again changes nothing."""
    zero = _zero(kind)
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0), np.finfo(np.float32).tiny) / (zero - 1)
    if kind.itemsize == 2:
        return (np.rint(vectors / scales[:, None]) + zero).astype(kind), scales, np.empty((len(vectors), 0), np.uint8)
    fine = np.rint(vectors * (FINER / scales[:, None])).astype(np.int32) + (FINER * int(zero) + NOTHING)
    return (fine // FINER).astype(kind), scales, (fine % FINER).astype(np.uint8)


def restored(numbers: Numbers, scales: NDArray[np.float32], rests: Rests | None = None) -> Vectors:
    """The vectors that whole numbers stand for, shape (n, width); more exactly where rests are given that say more."""
    zero = _zero(numbers.dtype)
    if rests is not None and rests.size:
        fine = numbers.astype(np.uint16)
        fine *= FINER
        fine += rests
        numbers, scales, zero = fine, scales / np.float32(FINER), zero * FINER + NOTHING
    found = numbers.astype(np.float32)
    found -= zero
    found *= scales[:, None]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Some of a segment's rows.

    Attributes:
        numbers: all rows of the segment.
        scales: of all of them.
        positions: of those that are meant, shape (n,), in rising order, repeats allowed.
    """

    numbers: Numbers
    scales: NDArray[np.float32]
    positions: Positions


def scores(chosen: Sequence[Chosen], probes: Vectors) -> NDArray[np.float32]:
    """Score rows of one segment after the other; faster where they lie side by side.

    Args:
        chosen: n rows in all.
        probes: shape (m, width).

    Returns:
        Cosines, shape (m, n).
    """
    found = np.empty((len(probes), sum(len(each.positions) for each in chosen)), np.float32)
    done = 0
    for block in _blocks(chosen):
        told = _products(block.numbers, probes)
        told *= block.scales
        np.take(told, block.positions, axis=1, out=found[:, done : done + len(block.positions)], mode="clip")
        done += len(block.positions)
    return found


def _blocks(chosen: Sequence[Chosen]) -> Iterator[Chosen]:
    """The same rows in few pieces that lie together: neighbours as they lie, others brought together.

    That lets the processor wait for many of them at once. A piece is good until the next one is asked for.
    """
    room = min(BLOCK, sum(len(each.positions) for each in chosen))
    brought: Chosen | None = None
    filled = 0
    for each in chosen:
        low, end = (int(each.positions[0]), int(each.positions[-1]) + 1) if len(each.positions) else (0, 0)
        if end - low <= CROWDED * len(each.positions):
            if brought is not None and filled:
                yield _first(brought, filled)
                filled = 0
            for first in range(low, end, MOST):
                last = min(first + MOST, end)
                some = each.positions[slice(*np.searchsorted(each.positions, (first, last)))]
                yield Chosen(each.numbers[first:last], each.scales[first:last], some - first)
            continue
        if brought is None:
            shape = (room, each.numbers.shape[1])
            brought = Chosen(np.empty(shape, each.numbers.dtype), np.empty(room, np.float32), np.arange(room))
        left = each.positions
        while len(left):
            some, left = left[: room - filled], left[room - filled :]
            here = slice(filled, filled + len(some))
            # With any other mode numpy writes to a copy first.
            each.numbers.take(some, axis=0, out=brought.numbers[here], mode="clip")
            each.scales.take(some, out=brought.scales[here], mode="clip")
            filled = here.stop
            if filled == room:
                yield brought
                filled = 0
    if brought is not None and filled:
        yield _first(brought, filled)


def _first(brought: Chosen, count: int) -> Chosen:
    return Chosen(brought.numbers[:count], brought.scales[:count], brought.positions[:count])


@functools.cache
def _comparer(size: int) -> Any:
    """What compares probes with rows of so many bytes; it holds none itself."""
    coarse = faiss.IndexFlatIP(size)
    kind = faiss.ScalarQuantizer.QT_8bit_uniform
    made: Any = _faiss.IndexIVFScalarQuantizer(coarse, size, 1, kind, faiss.METRIC_INNER_PRODUCT)
    made.by_residual = False
    # A byte b stands for least + (b + 1/2) / 255 * range: this is b - 128.
    faiss.copy_array_to_vector(np.array([-128.5, 255], np.float32), made.sq.trained)
    made.is_trained = True
    return made


def _scanner(size: int) -> Any:
    """A scanner of this thread. It is kept, for FAISS' wrapper would never let one go."""
    if not hasattr(_own, "scanners"):
        _own.scanners = {}
    if size not in _own.scanners:
        _own.scanners[size] = _comparer(size).get_InvertedListScanner(store_pairs=False, sel=None, params=None)
    return _own.scanners[size]


def _products(numbers: Numbers, probes: Vectors) -> NDArray[np.float32]:
    """Probes (m, width) . (numbers (n, width) - zero) -> (m, n)."""
    into = np.empty((len(probes), len(numbers)), np.float32)
    count, size = len(numbers), numbers.shape[1] * numbers.itemsize
    scanner, codes = _scanner(size), faiss.swig_ptr(numbers.view(np.uint8))
    for line, probe in enumerate(probes):
        asked, more = np.ascontiguousarray(probe), 0.0
        if numbers.itemsize == 2:
            # The lower byte is 0 and more, and is compared as if 128 of it were none.
            asked, more = np.stack([probe, 256 * probe], axis=1).ravel(), 128 * float(probe.sum(dtype=np.float64))
        scanner.set_query(faiss.swig_ptr(asked))
        scanner.set_list(0, 0.0)
        result = faiss.RangeSearchResult(1)
        result.buffer_size = count
        part: Any = _faiss.RangeSearchPartialResult(result)
        scanner.scan_codes_range(count, codes, faiss.swig_ptr(COUNTED), EVERY, part.new_result(0))
        part.finalize()
        into[line] = faiss.rev_swig_ptr(result.distances, count)
        into[line] += more
    return into
