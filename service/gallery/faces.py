"""Faces of a person: add templates, remove one, read them; the person's fused vector follows every change."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import bindparam, insert, select, update

from service.errors import FaceNotFoundError, GalleryFullError, PersonNotFoundError
from service.gallery import galleries, people
from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.embeddings import Embeddings, Rows, checked, from_bytes, to_bytes, vector_from_bytes
from service.gallery.records import GalleryRecord, NewTemplate, PersonFields, PersonRecord, TemplateRecord, columns
from service.gallery.schema import crops, templates
from service.gallery.schema import people as people_table

CROPS_AT_ONCE = 500

COLUMNS = columns(templates, TemplateRecord)
INSERT = insert(templates)
PHOTOS = select(templates.c.photo_digest, templates.c.face).where(templates.c.person_pk == bindparam("owner"))
KEPT = (
    select(templates.c.embedding, templates.c.quality)
    .where(templates.c.person_pk == bindparam("owner"))
    .order_by(templates.c.pk)
)
FUSED = (
    update(people_table)
    .where(people_table.c.pk == bindparam("owner"))
    .values(
        fused=bindparam("new_fused"),
        faces=bindparam("new_faces"),
        revision=bindparam("new_revision"),
        updated_at=bindparam("new_time"),
    )
    .returning(*people.COLUMNS)
)


@dataclass(frozen=True, slots=True)
class FaceOutcome:
    """What became of one template given to `add`.

    Attributes:
        photo_digest: of the photo it came from.
        face: public id of the face that was added, or of the one that already holds this photo.
        added: False where the person has the photo already.
    """

    photo_digest: str
    face: str
    added: bool


@dataclass(frozen=True, slots=True, eq=False)
class Added:
    """What an addition did.

    Attributes:
        person: as it is now.
        created: whether it was absent before.
        revision: the gallery's.
        outcomes: one for each template, in their order.
        fused: the person's vector, shape (dim,), None where nothing was added.
    """

    person: PersonRecord
    created: bool
    revision: int
    outcomes: tuple[FaceOutcome, ...]
    fused: Embeddings | None


@dataclass(frozen=True, slots=True)
class Removed:
    """The person after a face was removed, and the gallery's revision."""

    person: PersonRecord
    revision: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who has a face from a certain photo."""

    person: str
    face: str


def add(
    tx: WriteTransaction,
    gallery_pk: int,
    person: str,
    given: Sequence[NewTemplate],
    *,
    limit: int,
    fields: PersonFields | None = None,
) -> Added:
    """Add templates to a person; see `add_to`.

    Raises:
        GalleryNotFoundError: there is no such gallery.
    """
    return add_to(tx, galleries.by_pk(tx, gallery_pk), person, given, limit=limit, fields=fields)


def add_to(
    tx: WriteTransaction,
    gallery: GalleryRecord,
    person: str,
    given: Sequence[NewTemplate],
    *,
    limit: int,
    fields: PersonFields | None = None,
) -> Added:
    """Add templates to a person, creating the person if absent. A photo that the person has already is not an error.

    Where nothing is new the gallery's revision stays as it is.

    Args:
        tx: the transaction.
        gallery: whose person, as this transaction found it.
        person: the caller's id.
        given: templates, in any number.
        limit: most faces kept for a person.
        fields: of the person, if it has to be created.

    Raises:
        GalleryFullError: the person would have more than `limit` faces; nothing is added.
        InvalidEmbeddingError: an embedding is not a unit vector of the gallery's dimension; nothing is added.
    """
    embeddings = [checked(np.atleast_2d(each.embedding), gallery.dim)[0] for each in given]
    found = people.find(tx, gallery.pk, person)
    held = _faces_by_photo(tx, found.pk) if found else {}

    outcomes: list[FaceOutcome] = []
    new: list[dict[str, object]] = []
    vectors, quality = [], []
    for template, embedding in zip(given, embeddings, strict=True):
        known = held.get(template.photo_digest)
        face = known or f"f_{secrets.token_hex(10)}"
        outcomes.append(FaceOutcome(template.photo_digest, face, added=known is None))
        if known is None:
            held[template.photo_digest] = face
            new.append(_values(face, template, embedding))
            vectors.append(embedding)
            quality.append(template.quality)
    if len(held) > limit and new:
        raise GalleryFullError(f"a person keeps at most {limit} faces", limit=limit)

    fused = None
    if found is None:
        fused = _fuse(tx, vectors, quality, gallery.dim)
        owner = people.create(tx, gallery.pk, person, fields or PersonFields(), faces=len(new), fused=fused)
    else:
        owner = found
    if new:
        revision = tx.revise(gallery.pk)
        stamp = {"person_pk": owner.pk, "gallery_pk": gallery.pk, "created_at": tx.now, "revision": revision}
        tx.connection.execute(INSERT, [{**each, **stamp} for each in new])
        keep_crops(
            tx,
            gallery,
            {outcome.face: each.crop for outcome, each in zip(outcomes, given, strict=True) if outcome.added},
        )
        if found is not None:
            owner, fused = _fuse_anew(tx, owner, revision, gallery.dim)
    changed = bool(new) or found is None
    return Added(owner, found is None, owner.revision if changed else gallery.revision, tuple(outcomes), fused)


def keep_crops(tx: WriteTransaction, gallery: GalleryRecord, packed: Mapping[str, bytes | None]) -> None:
    """Keep the crops of faces that were just added, by face, where the gallery keeps crops."""
    given = {face: crop for face, crop in packed.items() if crop is not None}
    if not gallery.keep_crops or not given:
        return
    faces = list(given)
    for some in (faces[first : first + CROPS_AT_ONCE] for first in range(0, len(faces), CROPS_AT_ONCE)):
        rows = tx.connection.execute(select(templates.c.face, templates.c.pk).where(templates.c.face.in_(some)))
        values = [{"template_pk": row.pk, "gallery_pk": gallery.pk, "crop": given[row.face]} for row in rows]
        tx.connection.execute(insert(crops), values)


def remove(tx: WriteTransaction, gallery_pk: int, person: str, face: str) -> Removed:
    """Remove one face of a person; without faces a person stays, and is not found by a search.

    Raises:
        PersonNotFoundError: there is no such person.
        FaceNotFoundError: the person has no such face.
    """
    tx.hold(gallery_pk)
    owner = people.get(tx, gallery_pk, person)
    this = (templates.c.person_pk == owner.pk) & (templates.c.face == face)
    if tx.connection.execute(templates.delete().where(this)).rowcount == 0:
        raise FaceNotFoundError(f"the person has no face {face!r}")
    tx.erased = True
    revision = tx.revise(gallery_pk)
    changed, _ = _fuse_anew(tx, owner, revision, galleries.by_pk(tx, gallery_pk).dim)
    return Removed(changed, revision)


def of_person(reading: Reading, person_pk: int) -> tuple[TemplateRecord, ...]:
    """Return a person's templates, the oldest first."""
    query = select(*COLUMNS).where(templates.c.person_pk == person_pk).order_by(templates.c.pk)
    rows = reading.connection.execute(query).all()
    return tuple(
        TemplateRecord(
            pk=row.pk,
            person_pk=row.person_pk,
            face=row.face,
            photo_digest=row.photo_digest,
            embedding=vector_from_bytes(row.embedding),
            quality=row.quality,
            box=(row.box[0], row.box[1], row.box[2], row.box[3]),
            created_at=row.created_at,
            revision=row.revision,
        )
        for row in rows
    )


def fused(reading: Reading, person_pk: int) -> Embeddings | None:
    """Return a person's fused vector, shape (dim,), or None without faces.

    Raises:
        PersonNotFoundError: there is no such person.
    """
    row = reading.connection.execute(select(people_table.c.fused).where(people_table.c.pk == person_pk)).one_or_none()
    if row is None:
        raise PersonNotFoundError("the person does not exist")
    return None if row.fused is None else vector_from_bytes(row.fused)


def holders(reading: Reading, gallery_pk: int, photo_digest: str) -> tuple[Holder, ...]:
    """Return everybody in the gallery who has a face from this photo."""
    query = (
        select(people_table.c.person, templates.c.face)
        .join_from(templates, people_table, templates.c.person_pk == people_table.c.pk)
        .where(templates.c.gallery_pk == gallery_pk, templates.c.photo_digest == photo_digest)
        .order_by(templates.c.pk)
    )
    return tuple(Holder(row.person, row.face) for row in reading.connection.execute(query))


def _faces_by_photo(tx: WriteTransaction, person_pk: int) -> dict[str, str]:
    held = tx.connection.execute(PHOTOS, {"owner": person_pk})
    return {row.photo_digest: row.face for row in held}


def _values(face: str, template: NewTemplate, embedding: Embeddings) -> dict[str, object]:
    return {
        "face": face,
        "photo_digest": template.photo_digest,
        "embedding": to_bytes(embedding),
        "quality": float(template.quality),
        "box": [float(side) for side in template.box],
    }


def _fuse_anew(
    tx: WriteTransaction, owner: PersonRecord, revision: int, dim: int
) -> tuple[PersonRecord, Embeddings | None]:
    kept = tx.connection.execute(KEPT, {"owner": owner.pk}).all()
    embeddings = [*from_bytes((row.embedding for row in kept), dim)]
    vector = _fuse(tx, embeddings, [row.quality for row in kept], dim)
    values = {
        "owner": owner.pk,
        "new_fused": None if vector is None else to_bytes(vector),
        "new_faces": len(kept),
        "new_revision": revision,
        "new_time": tx.now,
    }
    return PersonRecord(*tx.connection.execute(FUSED, values).one()), vector


def _fuse(
    tx: WriteTransaction, embeddings: Sequence[Embeddings], quality: Sequence[float], dim: int
) -> Embeddings | None:
    """Return the vector (dim,) of a person with these templates, None where there are none."""
    if not embeddings:
        return None
    fused_vector = tx.fuse(np.stack(embeddings), np.array(quality, dtype=np.float32))
    vector: Embeddings = checked(fused_vector[np.newaxis], dim)[0]
    return vector


def of_several(reading: Reading, gallery_pk: int, dim: int, *, most: int) -> tuple[Rows, Embeddings]:
    """The templates of people who have two or more: whose each is, (n,), and the vectors, (n, dim)."""
    query = (
        select(templates.c.person_pk, templates.c.embedding)
        .join_from(templates, people_table, templates.c.person_pk == people_table.c.pk)
        .where(templates.c.gallery_pk == gallery_pk, people_table.c.faces > 1)
        .order_by(templates.c.person_pk, templates.c.pk)
        .limit(most)
    )
    found = reading.connection.execute(query).all()
    return np.array([row.person_pk for row in found], np.int64), from_bytes((row.embedding for row in found), dim)
