"""Rows for exact scores: a vector as whole numbers and a scale, on disk, mapped into memory.

    cosine(probe, row) = scale * (probe . numbers) +- error

Vectors of up to 256 dimensions are kept in 16 bits, longer ones in 8, so that a row takes some 512 bytes. A number is
off by at most half a step and on average by step / sqrt(12); over a unit probe the cosine is therefore off by
scale / sqrt(12) on average: about 2e-6 in 16 bits at 128 dimensions, and 3.4e-4 in 8 bits at 512.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.gallery.index.products import products

Positions: TypeAlias = NDArray[np.int64]
"""Places in a segment, shape (n,)."""

Vectors: TypeAlias = NDArray[np.float32]
"""Turned vectors, shape (n, width); see `codes.Layout`."""

Numbers: TypeAlias = NDArray[np.signedinteger[Any]]
"""Whole numbers, shape (n, width), int8 or int16."""

LONG: Final = 256
BLOCK: Final = 512
"""Rows scored at once, so that their float32 form stays in the cache of a core."""


def number_type(dim: int) -> np.dtype[Any]:
    """In what whole numbers vectors of a dimension are kept."""
    return np.dtype("<i2") if dim <= LONG else np.dtype("<i1")


def quantised(vectors: Vectors, kind: np.dtype[Any]) -> tuple[Numbers, NDArray[np.float32]]:
    """Vectors as whole numbers, shape (n, width), and scales, shape (n,). Doing it again changes nothing."""
    top = np.float32(np.iinfo(kind).max)
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0), np.finfo(np.float32).tiny) / top
    return np.rint(vectors / scales[:, None]).astype(kind), scales


def restored(numbers: Numbers, scales: NDArray[np.float32]) -> Vectors:
    """The vectors that whole numbers stand for, shape (n, width)."""
    return numbers.astype(np.float32) * scales[:, None]


def scores(numbers: Numbers, scales: NDArray[np.float32], positions: Positions, probes: Vectors) -> NDArray[np.float32]:
    """Score the rows at these positions; faster where they lie side by side.

    Args:
        numbers: all rows.
        scales: of all rows.
        positions: shape (n,).
        probes: shape (m, width).

    Returns:
        Cosines, shape (m, n).
    """
    found = np.empty((len(probes), len(positions)), np.float32)
    for first in range(0, len(positions), BLOCK):
        some = positions[first : first + BLOCK]
        low = int(some[0])
        # Neighbours in order are read as they lie; others are brought together first.
        together = int(some[-1]) - low == len(some) - 1 and bool((np.diff(some) == 1).all())
        taken = numbers[low : low + len(some)] if together else numbers.take(some, axis=0)
        scale = scales[low : low + len(some)] if together else scales.take(some)
        products(probes, taken.astype(np.float32), found[:, first : first + BLOCK])
        found[:, first : first + BLOCK] *= scale
    return found
