"""Exact search in memory: a probe is compared with everybody."""

from __future__ import annotations

import threading
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.gallery.embeddings import Embeddings, Rows, checked
from service.gallery.index.protocol import NOBODY, Matches
from service.gallery.locks import SharedLock

# FAISS' stubs describe the generated classes and not the Python ones that stand before them.
_selector_of: Final[Any] = faiss.IDSelectorBitmap
_parameters_of: Final[Any] = faiss.SearchParameters


class FlatIndex:
    """Exact search over FAISS' IndexFlatIP.

    Vectors lie at positions; a row that is replaced or removed leaves a dead position behind, which a bitmap hides from
    searches at once. When a quarter of the positions are dead, the living move to a new, dense index.
    """

    def __init__(self, dim: int) -> None:
        # Above this many probes FAISS turns to the BLAS of its wheel, which was measured six times slower.
        faiss.cvar.distance_compute_blas_threshold = 10**9
        self._dim = dim
        self._flat: Any = faiss.IndexFlatIP(dim)
        self._rows = np.empty(0, dtype=np.int64)
        self._alive = np.empty(0, dtype=np.bool_)
        self._positions: dict[int, int] = {}
        self._selector: Any = None
        self._writers = threading.Lock()
        self._searches = SharedLock()

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._dim

    def __len__(self) -> int:
        """How many rows can be found."""
        return len(self._positions)

    def add(self, rows: Rows, embeddings: ArrayLike) -> None:
        """See `VectorIndex.add`."""
        vectors = checked(embeddings, self._dim)
        keys = np.asarray(rows, dtype=np.int64)
        if keys.shape != vectors.shape[:1] or (keys < 0).any():
            raise ValueError(f"{len(vectors)} embeddings need as many rows, none negative")
        kept = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
        keys, vectors = keys[kept], vectors[kept]
        with self._writers:
            with self._searches.alone():
                self._bury(keys)
                first = self._flat.ntotal
                self._reserve(first + len(keys))
                self._flat.add(vectors)
                self._rows[first : first + len(keys)] = keys
                self._alive[first : first + len(keys)] = True
                self._positions.update(zip(keys.tolist(), range(first, first + len(keys)), strict=True))
            self._compact()

    def remove(self, rows: Rows) -> int:
        """See `VectorIndex.remove`."""
        with self._writers:
            with self._searches.alone():
                removed = self._bury(np.asarray(rows, dtype=np.int64))
            self._compact()
        return removed

    def search(self, probes: ArrayLike, k: int) -> Matches:
        """See `VectorIndex.search`."""
        vectors = checked(probes, self._dim)
        matches = Matches.none(len(vectors), k)
        with self._searches.shared():
            found = min(k, len(self._positions))
            if found and len(vectors):
                scores, positions = self._flat.search(vectors, found, params=self._living())
                matches.rows[:, :found] = self._rows[positions]
                matches.scores[:, :found] = scores
        return matches

    def score(self, probes: ArrayLike, rows: Rows) -> NDArray[np.float32]:
        """See `VectorIndex.score`."""
        vectors = checked(probes, self._dim)
        keys = np.asarray(rows, dtype=np.int64).tolist()
        with self._searches.shared():
            positions = np.array([self._positions.get(key, NOBODY) for key in keys], dtype=np.int64)
            known = positions != NOBODY
            scores = np.full((len(vectors), len(keys)), np.nan, dtype=np.float32)
            scores[:, known] = vectors @ self._stored()[positions[known]].T
        return scores

    def contents(self) -> tuple[Rows, Embeddings]:
        """Return all rows and their vectors as of one moment, in no set order, without holding up searches."""
        with self._writers:
            living = np.flatnonzero(self._alive[: self._flat.ntotal])
            return self._rows[living], self._stored()[living]

    def _bury(self, keys: Rows) -> int:
        dead = [self._positions.pop(key) for key in keys.tolist() if key in self._positions]
        self._alive[dead] = False
        self._selector = None
        return len(dead)

    def _reserve(self, positions: int) -> None:
        if positions > len(self._rows):
            grown = max(positions, 2 * len(self._rows), 64)
            more = grown - len(self._rows)
            self._rows = np.concatenate([self._rows, np.full(more, NOBODY, dtype=np.int64)])
            self._alive = np.concatenate([self._alive, np.zeros(more, dtype=np.bool_)])

    def _compact(self) -> None:
        total = self._flat.ntotal
        if 4 * (total - len(self._positions)) < max(total, 1):
            return
        # Searches go on over the old index while the new one is filled: writers are shut out, so nothing moves.
        living = np.flatnonzero(self._alive[:total])
        flat = faiss.IndexFlatIP(self._dim)
        flat.add(self._stored()[living])
        rows = self._rows[living]
        positions = dict(zip(rows.tolist(), range(len(rows)), strict=True))
        with self._searches.alone():
            self._flat, self._rows, self._positions = flat, rows, positions
            self._alive = np.ones(len(rows), dtype=np.bool_)
            self._selector = None

    def _living(self) -> Any:
        if len(self._positions) == self._flat.ntotal:
            return None
        selector = self._selector
        if selector is None:
            bits = np.packbits(self._alive[: self._flat.ntotal], bitorder="little")
            selector = self._selector = _selector_of(bits)
        return _parameters_of(sel=selector)

    def _stored(self) -> Embeddings:
        total = self._flat.ntotal
        if total == 0:
            return np.empty((0, self._dim), dtype=np.float32)
        stored: Embeddings = faiss.rev_swig_ptr(self._flat.get_xb(), total * self._dim).reshape(total, self._dim)
        return stored
