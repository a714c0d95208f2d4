"""The indexes of all galleries, each opened when it is needed first."""

from __future__ import annotations

import threading

from service.gallery import galleries
from service.gallery.catalog import Catalog
from service.gallery.index.protocol import Indexes
from service.gallery.view import GalleryView


class Views:
    """Every gallery's view; safe to use from threads.

    Args:
        catalog: where the truth is.
        indexes: where the indexes are kept.
        snapshot_every: revisions after which a view writes its snapshot.
    """

    def __init__(self, catalog: Catalog, indexes: Indexes, *, snapshot_every: int = 5_000) -> None:
        self._catalog = catalog
        self._indexes = indexes
        self._snapshot_every = snapshot_every
        self._open: dict[int, GalleryView] = {}
        self._opening: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def of(self, gallery_pk: int) -> GalleryView:
        """Return the gallery's view, opening it first if need be; other galleries are not held up.

        Raises:
            GalleryNotFoundError: the gallery does not exist.
            StorageError: the catalog does not answer.
        """
        with self._lock:
            if gallery_pk in self._open:
                return self._open[gallery_pk]
            opening = self._opening.setdefault(gallery_pk, threading.Lock())
        with opening:
            with self._lock:
                if gallery_pk in self._open:
                    return self._open[gallery_pk]
            view = GalleryView(self._catalog, gallery_pk, self._indexes, snapshot_every=self._snapshot_every)
            with self._lock:
                self._open[gallery_pk] = view
        return view

    def require_ready(self) -> None:
        """See `Indexes.require_ready`."""
        self._indexes.require_ready()

    def revisions(self) -> dict[int, int]:
        """What every open view shows, by its gallery's key."""
        with self._lock:
            return {pk: view.revision for pk, view in self._open.items()}

    def drop(self, gallery_pk: int) -> None:
        """Forget the view of a deleted gallery, and its snapshot; called after the commit, so that none opens later."""
        with self._lock:
            opening = self._opening.setdefault(gallery_pk, threading.Lock())
        # Whoever is opening it read the catalog before the commit, and would leave a view that nobody closes.
        with opening, self._lock:
            view = self._open.pop(gallery_pk, None)
            self._opening.pop(gallery_pk, None)
        if view is not None:
            view.abandon()
        self._indexes.drop(gallery_pk)

    def sweep(self) -> None:
        """Delete snapshots of galleries that are gone, and what a crash left half written; called before first use."""
        with self._catalog.read() as reading:
            alive = set(galleries.every_pk(reading))
        self._indexes.sweep(alive)

    def close(self) -> None:
        """Close every view; each writes its last snapshot."""
        with self._lock:
            views = list(self._open.values())
            self._open.clear()
        for view in views:
            view.close()
        self._indexes.close()
