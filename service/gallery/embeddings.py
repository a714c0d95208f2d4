"""The one check that every embedding passes before it is kept or compared, and its form as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import InvalidEmbeddingError

Embeddings: TypeAlias = NDArray[np.float32]
"""Unit vectors, shape (n, dim), float32."""

Rows: TypeAlias = NDArray[np.int64]
"""The keys of people in an index, shape (n,): their `pk` in the catalog."""

STORED = np.dtype("<f4")
"""The bytes on disk are little endian, whatever the machine is."""

TOLERANCE = 1e-3
"""How far from 1 a length may be: what float32 and bf16 engines leave after normalising, with room."""


def checked(embeddings: ArrayLike, dim: int) -> Embeddings:
    """Return the embeddings as contiguous float32 of shape (n, dim).

    Args:
        embeddings: shape (n, dim), anything that numpy reads as numbers.
        dim: dimension that the gallery expects.

    Raises:
        InvalidEmbeddingError: wrong shape, NaN or infinity, or a length that is not 1.
    """
    try:
        array = np.ascontiguousarray(embeddings, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidEmbeddingError("an embedding must be a list of numbers") from error
    if array.ndim != 2 or array.shape[1] != dim:
        raise InvalidEmbeddingError(f"embeddings of shape {array.shape} were given where (n, {dim}) is needed", dim=dim)
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", array, array))
        off = np.abs(lengths - 1)
    if (off <= TOLERANCE).all():  # which NaN is not
        return array
    if not np.isfinite(lengths).all():
        raise InvalidEmbeddingError("an embedding holds NaN, infinity or numbers that are far too large")
    raise InvalidEmbeddingError(f"an embedding has length {lengths[off.argmax()]:.4g} instead of 1")


def to_bytes(embedding: NDArray[np.floating]) -> bytes:
    """Return one embedding, shape (dim,), as little endian float32."""
    return embedding.astype(STORED).tobytes()


def vector_from_bytes(stored: bytes) -> Embeddings:
    """Return one stored embedding, shape (dim,)."""
    vector: Embeddings = from_bytes([stored], len(stored) // STORED.itemsize)[0]
    return vector


def from_bytes(stored: Iterable[bytes], dim: int) -> Embeddings:
    """Return stored embeddings as an array of shape (n, dim) that owns its memory."""
    return np.frombuffer(bytearray().join(stored), dtype=STORED).reshape(-1, dim).astype(np.float32, copy=False)
