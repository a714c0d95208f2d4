"""Galleries that were looked up before, so that a request need not ask the catalog again which gallery a name means.

Whoever changes a gallery in this process says so here (`forget`); what other replicas changed is noticed when the
catalog is looked at (`compare`). What may change with every enrolment, the revision, is asked of the gallery's index
and never of these records.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from service.gallery.records import GalleryRecord
from service.gallery.view import GalleryView


class KnownGalleries:
    """Galleries and their indexes by name; safe to use from threads."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[GalleryRecord, GalleryView]] = {}
        self._changes = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> tuple[GalleryRecord, GalleryView] | None:
        """A gallery that is known, or None. Never blocks."""
        return self._known.get(name)

    def learn(
        self, name: str, look: Callable[[], tuple[GalleryRecord, GalleryView]]
    ) -> tuple[GalleryRecord, GalleryView]:
        """Look a gallery up and remember it, unless something changed while it was being looked up."""
        before = self._changes
        found = look()
        with self._lock:
            if self._changes == before:
                self._known[name] = found
        return found

    def forget(self, name: str) -> None:
        """A gallery was changed or deleted; called after the commit."""
        with self._lock:
            self._changes += 1
            self._known.pop(name, None)

    def compare(self, there: Mapping[str, GalleryRecord]) -> None:
        """Forget what is otherwise in the catalog, or gone; `there` is all that it holds, by name."""
        for name, (record, _) in list(self._known.items()):
            found = there.get(name)
            if found is None or replace(found, revision=record.revision) != record:
                self.forget(name)
