"""Enrol: photos of a person in, templates kept.

Photo by photo the answer says what became of it. What was enrolled is committed and can be found by the very next
search before the answer leaves; a photo that was refused leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from service.errors import DuplicatePhotoError, InvalidRequestError, NothingEnrolledError, PhotoError
from service.gallery.catalog import WriteTransaction
from service.gallery.faces import Added
from service.gallery.index.protocol import Matches
from service.gallery.people import by_pks
from service.gallery.records import GalleryRecord, NewTemplate
from service.gallery.view import GalleryView
from service.identify.decision import threshold
from service.recognition.keeping import Wanted
from service.recognition.portrait import portrait
from service.recognition.product import Embedding, Product
from service.vision.batching import Priority
from service.vision.crops import pack
from service.vision.detect import Box


@dataclass(frozen=True)
class ReadyEmbedding:
    """An embedding that the caller computed with the gallery's own model."""

    embedding: Embedding
    quality: float


@dataclass(frozen=True)
class Resemblance:
    """Somebody else in the gallery whom a new face resembles more than chance would have it."""

    person: str
    similarity: float


@dataclass(frozen=True)
class Enrolled:
    """A face that was kept.

    Attributes:
        face: public id.
        photo: place of its photo in the request.
        box: where it was found, None for a ready embedding.
        quality: in [0, 1].
        resembles: other people who are likely the same person.
    """

    face: str
    photo: int
    box: Box | None
    quality: float
    resembles: tuple[Resemblance, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A photo of which nothing was kept, and why."""

    photo: int
    code: str
    detail: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Enrolment:
    """The answer to an enrolment."""

    person: str
    revision: int
    enrolled: tuple[Enrolled, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True)
class _Ready:
    """A face on its way into the catalog."""

    photo: int
    digest: str
    embedding: Embedding
    quality: float
    box: Box | None
    crop: bytes | None = None


Remember = Callable[[WriteTransaction, Enrolment], None]
"""Called inside the transaction, so that an answer is remembered exactly if its faces are kept."""


async def enroll(
    product: Product,
    gallery: str,
    person: str,
    photos: Sequence[bytes],
    ready: Sequence[ReadyEmbedding] = (),
    *,
    remember: Remember | None = None,
) -> Enrolment:
    """Keep the faces of a person; the person is created if absent.

    Args:
        product: the parts.
        gallery: name of the gallery.
        person: the caller's id of the person.
        photos: bytes of photos, each of this person alone.
        ready: embeddings computed elsewhere.
        remember: keeps the answer under an idempotency key.

    Raises:
        InvalidRequestError: no photo, or more than are taken at once.
        GalleryNotFoundError: there is no such gallery.
        GalleryModelError: the gallery is bound to another model.
        NothingEnrolledError: every photo was refused; `refused` says why.
        GalleryFullError: the person would have too many faces; nothing is kept.
        InvalidEmbeddingError: a ready embedding is none of this model.
        StorageError: the catalog did not take it; nothing is kept.
    """
    count = len(photos) + len(ready)
    if not 1 <= count <= product.policy.photos:
        raise InvalidRequestError(f"an enrolment takes 1 to {product.policy.photos} photos, not {count}")
    record, view = await product.gallery(gallery)
    outcomes = await asyncio.gather(
        *(_read(product, place, data, keep_crop=record.keep_crops) for place, data in enumerate(photos))
    )
    found = [item for item in outcomes if isinstance(item, _Ready)]
    found += [_of_embedding(len(photos) + place, item) for place, item in enumerate(ready)]
    refused = [item for item in outcomes if isinstance(item, Refused)]
    if not found:
        raise _nothing(refused)
    templates = [
        NewTemplate(
            item.digest,
            item.embedding,
            item.quality,
            _sides(item.box) if item.box else (0.0, 0.0, 0.0, 0.0),
            item.crop,
        )
        for item in found
    ]

    def tell(tx: WriteTransaction, added: Added, alike: Matches) -> Enrolment:
        enrolment = _told(person, found, added, _resemblances(product, record, view, tx, added, alike), refused)
        if remember is not None:
            remember(tx, enrolment)
        return enrolment

    wanted = Wanted(record, view, person, templates, product.policy.faces_per_person, tell)
    kept = await product.keeping.submit(wanted)
    if kept.fault is not None:
        raise kept.fault
    enrolment: Enrolment = kept.result
    return enrolment


async def _read(product: Product, place: int, data: bytes, *, keep_crop: bool) -> _Ready | Refused:
    try:
        photo = await product.reader.see(data, Priority.INTERACTIVE)
        face = portrait(photo, product.policy.min_quality)
    except PhotoError as error:
        return Refused(place, error.code, error.detail, error.extra)
    (embedding,) = await product.reader.encode([face.crop])
    crop = await product.stored(partial(pack, face.crop)) if keep_crop else None
    return _Ready(place, photo.digest, embedding, face.quality.score, face.face.box, crop)


def _of_embedding(place: int, item: ReadyEmbedding) -> _Ready:
    digest = hashlib.sha256(np.ascontiguousarray(item.embedding, "<f4").tobytes()).hexdigest()
    return _Ready(place, digest, item.embedding, item.quality, None)


def _resemblances(
    product: Product, gallery: GalleryRecord, view: GalleryView, tx: WriteTransaction, added: Added, alike: Matches
) -> list[tuple[Resemblance, ...]]:
    """Whom each new face would be taken for at the gallery's own error rate, the person itself left out."""
    accept = threshold(product.calibration, len(view), gallery.fpir or product.policy.fpir, insist=False)
    rows = {int(row) for row in alike.rows[alike.scores >= accept.similarity]} - {added.person.pk}
    people = {pk: other for pk, other in by_pks(tx, sorted(rows)).items() if not other.expired(tx.now)} if rows else {}
    return [
        tuple(
            Resemblance(people[int(row)].person, float(score))
            for row, score in zip(line_rows, line_scores, strict=True)
            if int(row) in people and score >= accept.similarity
        )
        for line_rows, line_scores in zip(alike.rows, alike.scores, strict=True)
    ]


def _told(
    person: str,
    found: Sequence[_Ready],
    added: Added,
    resemblances: Sequence[tuple[Resemblance, ...]],
    refused: Sequence[Refused],
) -> Enrolment:
    """What became of each photo.

    Raises:
        NothingEnrolledError: nothing was new.
    """
    enrolled: list[Enrolled] = []
    left = list(refused)
    for item, outcome, alike in zip(found, added.outcomes, resemblances, strict=True):
        if outcome.added:
            enrolled.append(Enrolled(outcome.face, item.photo, item.box, item.quality, alike))
        else:
            again = DuplicatePhotoError("this person has a face from the same photo already", face=outcome.face)
            left.append(Refused(item.photo, again.code, again.detail, again.extra))
    left.sort(key=lambda item: item.photo)
    if not enrolled:
        raise _nothing(left)
    return Enrolment(person, added.revision, tuple(enrolled), tuple(left))


def _sides(box: Box) -> tuple[float, float, float, float]:
    return box.x, box.y, box.width, box.height


def _nothing(refused: Sequence[Refused]) -> NothingEnrolledError:
    documents = [{"photo": item.photo, "code": item.code, "detail": item.detail, **item.extra} for item in refused]
    return NothingEnrolledError(f"none of {len(refused)} photos could be enrolled", refused=documents)
