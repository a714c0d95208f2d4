"""What the rest of the product knows of a vector index: who is nearest to a probe.

An index is disposable: the catalog can make it again. It is kept (on disk, or by a server) as of some revision of its
gallery, so that a start needs only what was committed since.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.gallery.embeddings import Rows

NOBODY: Final = -1
"""Fills `Matches.rows` where there are fewer people than asked for; its score is -inf."""

NEVER: Final = -1
"""The revision of an index that is not kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The nearest people of each probe, the most similar first, and of equally similar ones the lower row.

    Which of several comes who are as similar as the last one, a server that keeps the index may decide.

    Attributes:
        rows: shape (m, k), int64, padded with `NOBODY`.
        scores: cosines, shape (m, k), float32, padded with -inf.
    """

    rows: Rows
    scores: NDArray[np.float32]

    @classmethod
    def none(cls, probes: int, k: int) -> Matches:
        """Nobody at all."""
        return cls(np.full((probes, k), NOBODY, dtype=np.int64), np.full((probes, k), -np.inf, dtype=np.float32))

    def past(self, rows: Rows, k: int) -> Matches:
        """The first k of each probe that are not among these rows."""
        left = Matches.none(len(self.rows), k)
        for line, counts in enumerate(~np.isin(self.rows, rows)):
            these = np.flatnonzero(counts)[:k]
            left.rows[line, : len(these)] = self.rows[line, these]
            left.scores[line, : len(these)] = self.scores[line, these]
        return left


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose index it is.

    Attributes:
        catalog: id of the catalog.
        gallery_pk: the gallery.
        model_digest: of the model that makes the gallery's vectors.
        dim: of the vectors.
    """

    catalog: str
    gallery_pk: int
    model_digest: str
    dim: int


class VectorIndex(Protocol):
    """Unit vectors under int64 rows, safe to use from threads.

    What `add` or `remove` did is seen by every search that begins after they returned; a search beside them sees each
    vector as it was before or after, never a mixture, and never a row's old and new vector both.
    """

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""

    @property
    def kept(self) -> int:
        """The revision that is kept: every change up to it, and maybe later ones; `NEVER` where nothing is."""

    def __len__(self) -> int:
        """How many rows can be found."""

    def require_room(self, count: int) -> None:
        """Refuse so many more vectors where they would not fit: asked before they are committed, as `add` takes all.

        Raises:
            IndexMemoryError: they would need more memory than is allowed.
        """

    def add(self, rows: Rows, embeddings: ArrayLike) -> None:
        """Add vectors; a row that exists is replaced, and of a row given twice the last counts.

        Args:
            rows: shape (n,), int64, none negative.
            embeddings: unit vectors, shape (n, dim).

        Raises:
            InvalidEmbeddingError: wrong dimension, NaN, infinity or not unit length; nothing is added.
        """

    def remove(self, rows: Rows) -> int:
        """Remove rows, shape (n,); those that do not exist are passed over. Returns how many were there."""

    @property
    def scan_share(self) -> float:
        """What a row costs where everybody is searched, over one that is scored by its number, as measured here."""

    def search(self, probes: ArrayLike, k: int, without: Rows | None = None) -> Matches:
        """Find the `k` nearest of each probe.

        Args:
            probes: unit vectors, shape (m, dim).
            k: may be 0 or larger than the index.
            without: these rows do not count, shape (n,), in no order, whether they are here or not; None counts all.

        Raises:
            InvalidEmbeddingError: as in `add`.
        """

    def score(self, probes: ArrayLike, rows: Rows) -> NDArray[np.float32]:
        """Score exactly these rows, shape (n,), repeats allowed; NaN where a row does not exist.

        Returns:
            Cosines, shape (m, n), float32: what `search` says of the same pair, up to what rows are off (`rows`).

        Raises:
            InvalidEmbeddingError: as in `add`.
        """

    def keep(self, revision: int) -> None:
        """Keep what the index shows now; every change up to `revision` was applied. Holds up no search.

        Where that fails, nothing is kept any longer that still holds a row which was removed.

        Raises:
            StorageError: it could not be kept.
        """

    def close(self) -> None:
        """Let go of everything without keeping it; the index is not used afterwards."""


class Indexes(Protocol):
    """Where the indexes of all galleries are kept; safe to use from threads."""

    def of(self, owner: Owner, newest: int) -> VectorIndex:
        """The gallery's index as it was kept, or an empty one where nothing good is.

        Args:
            owner: whose index.
            newest: the gallery's revision; what tells of a later one tells of changes that the catalog does not know.

        Raises:
            StorageError: it cannot be read or made.
        """

    def require_ready(self) -> None:
        """Refuse, before anything is committed, a change that could not be shown.

        Raises:
            IndexUnavailableError: the indexes are kept by a server that does not answer.
        """

    def drop(self, gallery_pk: int) -> None:
        """Delete what is kept of a gallery."""

    def close(self) -> None:
        """Let go of everything; called once, after every index was closed."""

    def sweep(self, alive: Collection[int]) -> None:
        """Delete what is kept of all galleries but these, and what a crash left behind; called before first use."""
