"""Inner products on one thread.

A product of matrices in numpy is shared between the threads of its BLAS. Where other work keeps the processors busy,
which is the rule in a service, those who share wait for one another: a search of 4 ms took 200.
"""

from __future__ import annotations

from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 1024
"""Vectors that several probes are compared with before the next ones are read."""

_faiss: Final[Any] = faiss


def products(
    probes: NDArray[np.float32], vectors: NDArray[np.float32], into: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Probes (m, dim) . vectors (n, dim) -> (m, n); all lines contiguous float32."""
    count, dim = vectors.shape
    found = np.empty((len(probes), count), np.float32) if into is None else into
    for first in range(0, count, BLOCK):
        some = vectors[first : first + BLOCK]
        for line, probe in enumerate(probes):
            out = found[line, first : first + len(some)]
            _faiss.fvec_inner_products_ny(
                faiss.swig_ptr(out), faiss.swig_ptr(probe), faiss.swig_ptr(some), dim, len(some)
            )
    return found
