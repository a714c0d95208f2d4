"""One gallery's index, kept in step with the catalog.

It starts from what is kept of it if that is good and from the catalog otherwise, applies what was committed since, and
goes on whenever it is told to catch up. It is kept again in the background from time to time and at the end.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import RevisionError, StorageError, VultusError
from service.gallery import galleries
from service.gallery.catalog import Catalog
from service.gallery.changes import fused_vectors, since
from service.gallery.embeddings import Embeddings, Rows
from service.gallery.index.protocol import NEVER, Indexes, Matches, Owner

REST: Final = 10
"""Between two snapshots lies at least this many times what the first one took."""

LEAST_REST_SECONDS: Final = 1.0
REST_AFTER_FAILURE_SECONDS: Final = 60.0

log = logging.getLogger(__name__)


class GalleryView:
    """The index of one gallery and the revision that it shows; safe to use from threads.

    Args:
        catalog: where the truth is.
        gallery_pk: whose index.
        indexes: where it is kept.
        snapshot_every: revisions after which a snapshot is written.

    Raises:
        GalleryNotFoundError: the gallery does not exist.
        StorageError: the catalog does not answer, or the index does not fit.
    """

    def __init__(
        self,
        catalog: Catalog,
        gallery_pk: int,
        indexes: Indexes,
        *,
        snapshot_every: int,
    ) -> None:
        self._catalog = catalog
        with catalog.read() as reading:
            gallery = galleries.by_pk(reading, gallery_pk)
        self._gallery_pk, self._name, self._model_digest = gallery_pk, gallery.name, gallery.model_digest
        self._snapshot_every = snapshot_every
        self._applying = threading.Lock()
        self._keeping = threading.Lock()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._erased = False
        self._without_room = 0
        self._indexes = indexes
        self._index = indexes.of(
            Owner(catalog.id, gallery_pk, gallery.model_digest, gallery.dim), newest=gallery.revision
        )
        try:
            self._revision = self._index.kept if self._index.kept != NEVER else self._rebuild()
            self.catch_up()
        except VultusError:
            self._index.close()
            raise

    @property
    def revision(self) -> int:
        """The revision that every search shows at least."""
        return self._revision

    def __len__(self) -> int:
        """How many people can be found."""
        return len(self._index)

    @property
    def scan_share(self) -> float:
        """See `VectorIndex.scan_share`."""
        return self._index.scan_share

    def search(self, probes: ArrayLike, k: int, without: Rows | None = None) -> Matches:
        """See `VectorIndex.search`."""
        return self._index.search(probes, k, without)

    def score(self, probes: ArrayLike, rows: Rows) -> NDArray[np.float32]:
        """See `VectorIndex.score`."""
        return self._index.score(probes, rows)

    def catch_up(self, at_least: int | None = None) -> int:
        """Apply what was committed since the revision shown, in order.

        Args:
            at_least: the revision that is needed; where it is shown already nothing is asked of the catalog. None goes
                to the newest.

        Returns:
            The revision that is shown now.

        Raises:
            GalleryNotFoundError: the gallery was deleted.
            RevisionError: the catalog has not reached `at_least`.
            StorageError: the catalog does not answer, or what was committed does not fit into the index.
        """
        if at_least is None or self._revision < at_least:
            with self._applying:
                if at_least is None or self._revision < at_least:
                    self._apply()
            if at_least is not None and self._revision < at_least:
                raise RevisionError(
                    f"the catalog is at revision {self._revision}, before {at_least}", revision=self._revision
                )
            self._keep_if_due()
        return self._revision

    def require_ready(self, more: int) -> None:
        """Refuse, before they are committed, changes of so many people that could not be shown.

        Raises:
            IndexUnavailableError: the index is kept by a server that does not answer.
            IndexMemoryError: they would not fit, or what was committed before them does not.
        """
        self._indexes.require_ready()
        self._index.require_room(more + self._without_room)

    def show(self, revision: int, rows: Rows, embeddings: Embeddings) -> None:
        """Let searches show people who were just committed, without reading them again.

        Whether there is room for them `require_ready` told before the commit. Where an earlier revision is not shown
        yet everything is read instead, as `catch_up` does.

        Args:
            revision: of the commit, all of whose changes are given.
            rows: the people, shape (n,); of one who is given twice the last counts.
            embeddings: their fused vectors, shape (n, dim).

        Raises:
            GalleryNotFoundError: the gallery was deleted.
            StorageError: the catalog does not answer.
        """
        with self._applying:
            if self._revision == revision - 1:
                self._index.add(rows, embeddings)
                self._revision = revision
        self.catch_up(revision)
        self._keep_if_due()

    def close(self) -> None:
        """Write a last snapshot if anything changed since the one before; the view is not used afterwards."""
        self._stop()
        if self._revision != self._index.kept:
            self._keep()
        self._index.close()

    def abandon(self) -> None:
        """Stop without a last snapshot."""
        self._stop()
        self._index.close()

    def _stop(self) -> None:
        self._closing.set()
        with self._keeping:
            keeper = self._keeper
        if keeper is not None:
            keeper.join()

    def _rebuild(self) -> int:
        with self._catalog.read() as reading:
            revision = galleries.by_pk(reading, self._gallery_pk).revision
            for rows, embeddings in fused_vectors(reading, self._gallery_pk):
                self._replay(rows, embeddings)
        return revision

    def _replay(self, rows: Rows, embeddings: Embeddings) -> None:
        """Add what was committed before anybody asked here whether there is room."""
        self._without_room = len(rows)
        self._index.require_room(len(rows))
        self._without_room = 0
        self._index.add(rows, embeddings)

    def _apply(self) -> None:
        while True:
            with self._catalog.read() as reading:
                changes = since(reading, self._gallery_pk, self._revision, model_digest=self._model_digest)
            # Who is gone goes first, also where there is no room for who came.
            if changes.removed.size and self._index.remove(changes.removed):
                self._erased = True
            if changes.rows.size:
                self._replay(changes.rows, changes.embeddings)
            self._revision = changes.revision
            if changes.revision == changes.head:
                return

    def _due(self) -> bool:
        never_kept = self._index.kept == NEVER and self._revision > 0
        return self._erased or never_kept or self._revision - self._index.kept >= self._snapshot_every

    def _keep_if_due(self) -> None:
        with self._keeping:
            if self._keeper is None and self._due() and not self._closing.is_set():
                self._keeper = threading.Thread(target=self._keep_while_due, name="snapshot", daemon=True)
                self._keeper.start()

    def _keep_while_due(self) -> None:
        while True:
            began = time.monotonic()
            rest = REST * (time.monotonic() - began) if self._keep() else REST_AFTER_FAILURE_SECONDS
            if self._closing.wait(max(rest, LEAST_REST_SECONDS)):
                return
            with self._keeping:
                if not self._due():
                    self._keeper = None
                    return

    def _keep(self) -> bool:
        """Keep the index, and say whether that went well."""
        # Read first: what is applied while the index is being kept will be applied again.
        revision, self._erased = self._revision, False
        try:
            self._index.keep(revision)
        except StorageError as error:
            log.warning("no snapshot of gallery %r: %s", self._name, error.detail)
            return False
        return True
