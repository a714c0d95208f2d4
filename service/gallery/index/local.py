"""The indexes of this process, each kept in a snapshot of its own in one folder."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import SnapshotError, StorageError
from service.gallery.embeddings import Rows
from service.gallery.index import snapshot
from service.gallery.index.flat import FlatIndex
from service.gallery.index.protocol import NEVER, Matches, Owner

SUFFIX = ".snapshot"

log = logging.getLogger(__name__)


class LocalIndex:
    """An exact index with its snapshot; see `VectorIndex`.

    Args:
        owner: whose index.
        path: where its snapshot lies, or shall lie.
        newest: the gallery's revision.
    """

    def __init__(self, owner: Owner, path: Path, newest: int) -> None:
        self._owner = owner
        self._path = path
        self._flat = FlatIndex(owner.dim)
        self._kept = NEVER
        self._owed = False
        try:
            found = snapshot.read(path, owner, newest=newest)
        except FileNotFoundError:
            return
        except SnapshotError as error:
            log.warning("index of gallery %d is rebuilt from the catalog: %s", owner.gallery_pk, error.detail)
            return
        self._flat.add(found.rows, found.embeddings)
        self._kept = found.header.revision

    @property
    def dim(self) -> int:
        """See `VectorIndex.dim`."""
        return self._owner.dim

    @property
    def kept(self) -> int:
        """See `VectorIndex.kept`."""
        return self._kept

    def __len__(self) -> int:
        """See `VectorIndex`."""
        return len(self._flat)

    def add(self, rows: Rows, embeddings: ArrayLike) -> None:
        """See `VectorIndex.add`."""
        self._flat.add(rows, embeddings)

    def remove(self, rows: Rows) -> int:
        """See `VectorIndex.remove`."""
        removed = self._flat.remove(rows)
        self._owed = self._owed or removed > 0
        return removed

    def search(self, probes: ArrayLike, k: int) -> Matches:
        """See `VectorIndex.search`."""
        return self._flat.search(probes, k)

    def score(self, probes: ArrayLike, rows: Rows) -> NDArray[np.float32]:
        """See `VectorIndex.score`."""
        return self._flat.score(probes, rows)

    def keep(self, revision: int) -> None:
        """See `VectorIndex.keep`."""
        owed, self._owed = self._owed, False
        rows, embeddings = self._flat.contents()
        try:
            snapshot.write(self._path, snapshot.Header(self._owner, revision, len(rows)), rows, embeddings)
        except StorageError:
            if owed:
                self._path.unlink(missing_ok=True)
                self._kept = NEVER
            raise
        self._kept = revision

    def close(self) -> None:
        """See `VectorIndex.close`."""


class LocalIndexes:
    """See `Indexes`.

    Args:
        folder: of the snapshots.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, owner: Owner, newest: int) -> LocalIndex:
        """See `Indexes.of`."""
        return LocalIndex(owner, self._path(owner.gallery_pk), newest)

    def require_ready(self) -> None:
        """See `Indexes.require_ready`; memory always answers."""

    def drop(self, gallery_pk: int) -> None:
        """See `Indexes.drop`."""
        self._path(gallery_pk).unlink(missing_ok=True)

    def close(self) -> None:
        """See `Indexes.close`."""

    def sweep(self, alive: Collection[int]) -> None:
        """See `Indexes.sweep`."""
        names = {self._path(pk).name for pk in alive}
        for path in self._folder.iterdir():
            if path.is_file() and SUFFIX in path.name and path.name not in names:
                log.info("deleting %s, which belongs to no gallery", path.name)
                path.unlink(missing_ok=True)

    def _path(self, gallery_pk: int) -> Path:
        return self._folder / f"{gallery_pk}{SUFFIX}"
