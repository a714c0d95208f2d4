"""Rows of a shard to what there is to decide about: photos are read and known again by digest, or looked at.

Most rows of a repeated import end here: a photo that its person has, or that was refused before under the same rules,
is read and not decoded. What is found out is only a shortcut and never the decision, because photos before it in the
same import may not be committed yet.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from service.errors import InvalidEmbeddingError
from service.gallery import bulk, galleries
from service.gallery.embeddings import STORED, TOLERANCE
from service.gallery.people import Indexed, by_pks
from service.gallery.records import GalleryRecord
from service.imports.entries import Done, Entry, duplicate, invalid, over_limit, refused
from service.imports.helpers import Helpers
from service.imports.manifests import QUALITY
from service.imports.sight import Photo, Sight
from service.imports.sources import Source, array_of
from service.recognition.product import Product

AT_ONCE: Final = 8
"""Photos that a helper gets at once, and whose faces are encoded together."""


class Seen(NamedTuple):
    """What is known of a row before it is decided.

    Attributes:
        entry: the row.
        digest: of the photo, empty where it could not be read.
        sight: what the photo shows; None where a look was spared.
        refusal: what was decided about the photo before.
        line: what becomes of the row in a gallery of this `revision`, where nothing has to be looked at for that.
        revision: see there.
    """

    entry: Entry
    digest: str = ""
    sight: Sight | None = None
    refusal: bulk.Refusal | None = None
    line: Done | None = None
    revision: int = -1


Vector = np.ndarray[tuple[int], np.dtype[np.float32]]

Part = tuple[list[int], Future[list[Sight]]]
"""Places of rows, and what a helper will say of their photos."""


class Looks:
    """Rows that are being looked at."""

    def __init__(self, begun: Future[tuple[list[Seen], list[Part]]]) -> None:
        self._begun = begun

    def ready(self) -> bool:
        """Whether `result` would not wait."""
        return self._begun.done() and all(answer.done() for _, answer in self._parts())

    def result(self, seconds: float) -> list[Seen]:
        """What was seen, row by row.

        Raises:
            TimeoutError: it is not known after so many seconds.
            VultusError: nothing could be found out, about any of them.
        """
        ends = time.monotonic() + seconds
        seen = list(self._begun.result(seconds)[0])
        for places, answer in self._parts():
            for place, sight in zip(places, answer.result(max(0.0, ends - time.monotonic())), strict=True):
                seen[place] = seen[place]._replace(digest=sight.digest or seen[place].digest, sight=sight)
        return seen

    def cancel(self) -> None:
        """Let what has not begun be."""
        if not self._begun.cancel() and self._begun.exception() is None:
            for _, answer in self._parts():
                answer.cancel()

    def _parts(self) -> Iterator[Part]:
        yield from self._begun.result()[1]


@dataclass(frozen=True)
class Looking:
    """Looks at rows of one import.

    Attributes:
        product: the parts.
        gallery: where its faces go.
        source: where the rows come from.
        rule: what a refusal depends on besides the photo.
        look_alikes: whether photos are refused for whom they resemble.
        helpers: read photos and look at them.
        pool: threads that wait for helpers and ask the catalog.
    """

    product: Product
    gallery: GalleryRecord
    source: Source
    rule: str
    look_alikes: bool
    helpers: Helpers
    pool: Executor

    def begin(self, entries: Sequence[Entry], *, spare: bool = True) -> Looks:
        """Begin to look at rows.

        Args:
            entries: the rows.
            spare: do not look at photos that are known; off where what was known turned out to be outdated.
        """
        if self.source.embeddings is not None:
            return Looks(self.pool.submit(self._ready, entries, self.source.embeddings))
        return Looks(self.pool.submit(self._photos, entries, spare=spare))

    def _ready(self, entries: Sequence[Entry], path: Path) -> tuple[list[Seen], list[Part]]:
        places = [entry.place[0] for entry in entries if entry.place is not None]
        vectors = array_of(path, self.gallery.dim)[places].astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
            vectors /= lengths.astype(np.float32)
        stored = vectors.astype(STORED, copy=False)
        whole = (np.abs(lengths[:, 0] - 1) <= TOLERANCE).tolist()
        return [
            _of_vector(entry, vector, data, good)
            for entry, vector, data, good in zip(entries, vectors, stored, whole, strict=True)
        ], []

    def _photos(self, entries: Sequence[Entry], *, spare: bool) -> tuple[list[Seen], list[Part]]:
        seen = self._read(entries)
        wanted = [place for place, item in enumerate(seen) if item.digest]
        if spare:
            wanted = self._unknown(seen)
        parts = [wanted[first : first + AT_ONCE] for first in range(0, len(wanted), AT_ONCE)]
        return seen, [(part, self.helpers.look([self._photo(entries[place]) for place in part])) for part in parts]

    def _read(self, entries: Sequence[Entry]) -> list[Seen]:
        seen = [Seen(entry) for entry in entries]
        usable = [place for place, entry in enumerate(entries) if entry.fault is None]
        sights = self.helpers.read([self._photo(entries[place]) for place in usable]).result() if usable else []
        for place, sight in zip(usable, sights, strict=True):
            seen[place] = Seen(entries[place], sight.digest, None if sight.error is None else sight)
        return seen

    def _photo(self, entry: Entry) -> Photo:
        if self.source.kind == "tar":
            return Photo(str(self.source.path), entry.place, crop=self.gallery.keep_crops)
        path = f"{self.source.base}/{entry.photo}" if not entry.photo.startswith("/") else entry.photo
        return Photo(path, crop=self.gallery.keep_crops)

    def _unknown(self, seen: list[Seen]) -> list[int]:
        """The places that must be looked at; what is known of the others is noted in `seen`."""
        gallery, limit = self.gallery.pk, self.product.policy.faces_per_person
        read = [item for item in seen if item.digest]
        with self.product.catalog.read() as reading:
            revision = galleries.by_pk(reading, gallery).revision
            enrolled = bulk.enrolled(reading, gallery, [item.digest for item in read])
            rest = [item for item in read if (item.digest, item.entry.person) not in enrolled]
            full = bulk.full(reading, gallery, [item.entry.person for item in rest], limit)
            refusals = bulk.refused(reading, gallery, [item.digest for item in rest], self.rule)
            rivals = by_pks(reading, [each.rival_pk for each in refusals.values() if each.rival_pk is not None])
        unknown = []
        for place, (entry, digest, sight, *_) in enumerate(seen):
            line = refusal = None
            if entry.fault is not None:
                line = invalid(entry)
            elif sight is None:
                face = enrolled.get((digest, entry.person))
                if face is not None:
                    line = duplicate(entry, face)
                elif entry.person in full:
                    line = over_limit(entry, limit)
                else:
                    refusal = refusals.get((digest, "")) or refusals.get((digest, entry.person))
                    line = None if refusal is None else self._refused(entry, refusal, rivals)
                    if line is None:
                        unknown.append(place)
            seen[place] = seen[place]._replace(refusal=refusal, line=line, revision=revision)
        return unknown

    def _refused(self, entry: Entry, refusal: bulk.Refusal, rivals: Mapping[int, Indexed]) -> Done | None:
        """The line of a photo that was refused before; None where that says nothing any more."""
        if refusal.rival_pk is None:
            return refused(entry, refusal)
        rival = rivals.get(refusal.rival_pk)
        return None if rival is None or not self.look_alikes else refused(entry, refusal, rival.person)


def _of_vector(entry: Entry, vector: Vector, stored: Vector, whole: bool) -> Seen:  # noqa: FBT001 - a helper of one place
    if entry.fault is None and not whole:
        code = InvalidEmbeddingError.code
        entry = entry._replace(fault=(code, "an embedding holds finite numbers and has length 1"))
    if entry.fault is not None:
        return Seen(entry)
    digest = hashlib.sha256(stored.data).hexdigest()
    return Seen(entry, digest, Sight(digest, vector, entry.known.get("quality", QUALITY)))
