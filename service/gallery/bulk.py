"""Many faces of many people in one transaction: read who is concerned, decide elsewhere, write in a few statements.

    owners = read(tx, gallery.pk, persons, dim)     whoever exists, with photos and templates
    ...                                             the caller decides, row by row, and adds to them
    add(tx, gallery, owners, additions)

What is written is what `faces.add` would have written for the same templates in the same order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import JSON, Select, Text, bindparam, cast, func, insert, select, update

from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.embeddings import STORED, Embeddings, Rows, checked, from_bytes, to_bytes
from service.gallery.faces import keep_crops
from service.gallery.records import Box, GalleryRecord, NewTemplate, PersonFields
from service.gallery.schema import people, refusals, templates

AT_ONCE = 1_000
"""Values in one list of a query."""

FUSED = (
    update(people)
    .where(people.c.pk == bindparam("owner"))
    .values(
        fused=bindparam("new_fused"),
        faces=bindparam("new_faces"),
        revision=bindparam("new_revision"),
        updated_at=bindparam("new_time"),
    )
)


@dataclass(slots=True)
class Owner:
    """Somebody who has faces or is about to.

    Attributes:
        pk: None for somebody who does not exist yet.
        photos: the face of each photo that is enrolled, by digest.
        embeddings: of the templates, the oldest first, each (dim,).
        quality: of the templates.
    """

    pk: int | None = None
    photos: dict[str, str] = field(default_factory=dict)
    embeddings: list[Embeddings] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)


class Addition(NamedTuple):
    """A template to be kept under a face id that was drawn; `fields` count if the person has to be created."""

    person: str
    face: str
    template: NewTemplate
    fields: PersonFields


class Newcomers(NamedTuple):
    """People who do not exist and get one template each, column by column: what most of a large import is.

    Attributes:
        persons: their ids, each once.
        fields: what they are created with.
        faces: ids that were drawn for their faces.
        photo_digests: of the photos.
        embeddings: of the templates, each (dim,).
        quality: of the faces.
        boxes: where they are in the photos.
    """

    persons: list[str]
    fields: list[PersonFields]
    faces: list[str]
    photo_digests: list[str]
    embeddings: list[Embeddings]
    quality: list[float]
    boxes: list[Box]


@dataclass(frozen=True, slots=True, eq=False)
class Added:
    """What an addition changed: the gallery's revision, the people, (n,), and their vectors, (n, dim)."""

    revision: int
    rows: Rows
    embeddings: Embeddings


@dataclass(frozen=True, slots=True)
class Refusal:
    """A photo that need not be looked at again.

    Attributes:
        photo_digest: of its bytes.
        person: whom it was refused for, empty where that makes no difference.
        rule: digest of what the refusal depends on besides the photo.
        outcome: what is reported.
        code: why.
        detail: the same in words.
        rival_pk: whom the face resembles.
        similarity: how much.
    """

    photo_digest: str
    person: str
    rule: str
    outcome: str
    code: str
    detail: str
    rival_pk: int | None = None
    similarity: float | None = None


def read(reading: Reading, gallery_pk: int, persons: Iterable[str], dim: int) -> dict[str, Owner]:
    """Return those people who exist, with their photos and templates."""
    found: dict[str, Owner] = {}
    by_pk: dict[int, Owner] = {}
    for person, pk in keys_of(reading, gallery_pk, persons).items():
        found[person] = by_pk[pk] = Owner(pk)
    for keys in _parts(sorted(by_pk)):
        kept = (
            select(
                templates.c.person_pk,
                templates.c.photo_digest,
                templates.c.face,
                templates.c.embedding,
                templates.c.quality,
            )
            .where(templates.c.person_pk.in_(keys))
            .order_by(templates.c.pk)
        )
        rows = reading.connection.execute(kept).all()
        vectors = from_bytes((row.embedding for row in rows), dim)
        for row, vector in zip(rows, vectors, strict=True):
            owner = by_pk[row.person_pk]
            owner.photos[row.photo_digest] = row.face
            owner.embeddings.append(vector)
            owner.quality.append(row.quality)
    return found


def keys_of(reading: Reading, gallery_pk: int, persons: Iterable[str]) -> dict[str, int]:
    """Return the keys of those people who exist."""
    return dict(_ask(reading, _keys, gallery_pk, persons))


def enrolled(reading: Reading, gallery_pk: int, digests: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return which of these photos are enrolled, and for whom: (digest, person) to face."""
    found = _ask(reading, _enrolled, gallery_pk, digests)
    return {(digest, person): face for digest, person, face in found}


def full(reading: Reading, gallery_pk: int, persons: Iterable[str], limit: int) -> set[str]:
    """Return which of these people have as many faces as are kept, or more."""
    return {person for (person,) in _ask(reading, _full, gallery_pk, persons, limit=limit)}


def refused(reading: Reading, gallery_pk: int, digests: Iterable[str], rule: str) -> dict[tuple[str, str], Refusal]:
    """Return which of these photos were refused under this rule, by (digest, person)."""
    found = [Refusal(*row) for row in _ask(reading, _refused, gallery_pk, digests, rule=rule)]
    return {(each.photo_digest, each.person): each for each in found}


def remember(tx: WriteTransaction, gallery_pk: int, given: Sequence[Refusal]) -> None:
    """Keep refusals; the last one about a photo and person counts."""
    latest = {(each.photo_digest, each.person): each for each in given}
    if not latest:
        return
    gone = refusals.delete().where(
        refusals.c.gallery_pk == gallery_pk,
        refusals.c.photo_digest == bindparam("old_digest"),
        refusals.c.person == bindparam("old_person"),
    )
    tx.connection.execute(gone, [{"old_digest": digest, "old_person": person} for digest, person in latest])
    values = [{"gallery_pk": gallery_pk, **dataclasses.asdict(each)} for each in latest.values()]
    tx.connection.execute(insert(refusals), values)


def add(
    tx: WriteTransaction,
    gallery: GalleryRecord,
    owners: Mapping[str, Owner],
    given: Sequence[Addition],
    newcomers: Newcomers | None = None,
) -> Added | None:
    """Keep templates, creating the people who do not exist.

    Args:
        tx: the transaction.
        gallery: where.
        owners: what `read` gave of the people concerned, in this transaction, with what is given added to it; who is
            new is among them.
        given: templates of photos that their person does not have yet.
        newcomers: who does not exist, and is neither in `owners` nor in `given`.

    Returns:
        What an index has to show; None where nothing was given.

    Raises:
        GalleryNotFoundError: the gallery does not exist.
        InvalidEmbeddingError: an embedding is not a unit vector of the gallery's dimension; nothing may be committed.
    """
    parts = []
    if given:
        parts.append(_add_to_owners(tx, gallery, owners, given))
    if newcomers is not None and newcomers.persons:
        parts.append(_add_newcomers(tx, gallery, newcomers))
    if not parts:
        return None
    rows, vectors = zip(*parts, strict=True)
    return Added(tx.revise(gallery.pk), np.concatenate(rows), np.concatenate(vectors))


def _add_to_owners(
    tx: WriteTransaction, gallery: GalleryRecord, owners: Mapping[str, Owner], given: Sequence[Addition]
) -> tuple[Rows, Embeddings]:
    vectors = checked([each.template.embedding for each in given], gallery.dim)
    concerned = {each.person: owners[each.person] for each in given}
    # Of somebody who is created the first row counts.
    fields = {each.person: each.fields for each in reversed(given)}
    fused = _fused(tx, concerned)
    made = {person: owner for person, owner in concerned.items() if owner.pk is None}
    changed = [
        {
            "owner": owner.pk,
            "new_fused": to_bytes(fused[person]),
            "new_faces": len(owner.quality),
            "new_revision": tx.revise(gallery.pk),
            "new_time": tx.now,
        }
        for person, owner in concerned.items()
        if person not in made
    ]
    if changed:
        tx.connection.execute(FUSED, changed)
    if made:
        pks = _create(
            tx,
            gallery,
            list(made),
            [fields[person] for person in made],
            [len(owner.quality) for owner in made.values()],
            [to_bytes(fused[person]) for person in made],
        )
        for owner, pk in zip(made.values(), pks, strict=True):
            owner.pk = pk
    _keep(
        tx,
        gallery,
        person_pk=[concerned[each.person].pk for each in given],
        face=[each.face for each in given],
        photo_digest=[each.template.photo_digest for each in given],
        embedding=[to_bytes(vector) for vector in vectors],
        quality=[float(each.template.quality) for each in given],
        box=_column([each.template.box for each in given]),
    )
    keep_crops(tx, gallery, {each.face: each.template.crop for each in given})
    return np.array([owner.pk for owner in concerned.values()], np.int64), np.stack(list(fused.values()))


def _add_newcomers(tx: WriteTransaction, gallery: GalleryRecord, given: Newcomers) -> tuple[Rows, Embeddings]:
    vectors, quality = checked(given.embeddings, gallery.dim), np.array(given.quality, np.float32)
    fused = np.asarray(tx.fuse(vectors[:, np.newaxis], quality[:, np.newaxis]), np.float32)
    pks = _create(tx, gallery, given.persons, given.fields, 1, _stored(fused))
    _keep(
        tx,
        gallery,
        person_pk=pks,
        face=given.faces,
        photo_digest=given.photo_digests,
        embedding=_stored(vectors),
        quality=_column(given.quality),
        box=_column(given.boxes),
    )
    return np.array(pks, np.int64), fused


def _create(
    tx: WriteTransaction,
    gallery: GalleryRecord,
    persons: list[str],
    fields: Sequence[PersonFields],
    faces: list[int] | int,
    fused: list[bytes],
) -> list[int]:
    """Create people, and return their keys."""
    pks = tx.draw(people, len(persons))
    tx.insert(
        people,
        len(persons),
        pk=pks,
        gallery_pk=gallery.pk,
        person=persons,
        **{name: _column([getattr(each, name) for each in fields]) for name in PERSON_FIELDS},
        created_at=tx.now,
        updated_at=tx.now,
        revision=tx.revise(gallery.pk),
        faces=faces,
        fused=fused,
    )
    return pks


def _keep(tx: WriteTransaction, gallery: GalleryRecord, *, face: list[str], **columns: Any) -> None:
    tx.insert(
        templates,
        len(face),
        gallery_pk=gallery.pk,
        face=face,
        **columns,
        created_at=tx.now,
        revision=tx.revise(gallery.pk),
    )


def _stored(vectors: Embeddings) -> list[bytes]:
    """Each of the vectors, (n, dim), as it is kept."""
    stored, size = vectors.astype(STORED, copy=False).tobytes(), vectors.shape[1] * STORED.itemsize
    return [stored[first : first + size] for first in range(0, len(stored), size)]


def _column(values: list[Any]) -> Any:
    """Values of a column, or the one value that stands in every row: most imports say little about a person."""
    return values[0] if values.count(values[0]) == len(values) else values


def _fused(tx: WriteTransaction, concerned: Mapping[str, Owner]) -> dict[str, Embeddings]:
    """The vector of each person, (dim,); their templates are put into one array, for most people have one or two."""
    embeddings = np.stack([vector for owner in concerned.values() for vector in owner.embeddings])
    quality = np.array([each for owner in concerned.values() for each in owner.quality], np.float32)
    fused, first = {}, 0
    for person, owner in concerned.items():
        end = first + len(owner.quality)
        fused[person] = np.asarray(tx.fuse(embeddings[first:end], quality[first:end]), np.float32)
        first = end
    return fused


PERSON_FIELDS = tuple(each.name for each in dataclasses.fields(PersonFields))


def _ask(
    reading: Reading,
    statement: Callable[[str], Select[Any]],
    gallery_pk: int,
    texts: Iterable[str],
    **values: object,
) -> Sequence[Any]:
    """The rows that a statement of this module finds about texts in a gallery."""
    given = sorted(set(texts))
    if not given:
        return ()
    values |= {"gallery": gallery_pk, "texts": json.dumps(given)}
    return reading.connection.execute(statement(reading.connection.dialect.name), values).all()


def _any_of(dialect: str) -> Select[tuple[str]]:
    """The given texts as a subquery: one value, where SQLAlchemy would name and bind each of a list by itself."""
    given = bindparam("texts", type_=Text)
    if dialect == "sqlite":
        each = func.json_each(given).table_valued("value")
    else:
        each = func.json_array_elements_text(cast(given, JSON)).table_valued("value")
    return select(each.c.value)


# Built once for each dialect: building one takes longer than the database takes to answer it.
@cache
def _keys(dialect: str) -> Select[Any]:
    mine = people.c.gallery_pk == bindparam("gallery")
    return select(people.c.person, people.c.pk).where(mine, people.c.person.in_(_any_of(dialect)))


@cache
def _enrolled(dialect: str) -> Select[Any]:
    return (
        select(templates.c.photo_digest, people.c.person, templates.c.face)
        .join_from(templates, people, templates.c.person_pk == people.c.pk)
        .where(templates.c.gallery_pk == bindparam("gallery"), templates.c.photo_digest.in_(_any_of(dialect)))
    )


@cache
def _full(dialect: str) -> Select[Any]:
    mine, many = people.c.gallery_pk == bindparam("gallery"), people.c.faces >= bindparam("limit")
    return select(people.c.person).where(mine, people.c.person.in_(_any_of(dialect)), many)


@cache
def _refused(dialect: str) -> Select[Any]:
    mine, same = refusals.c.gallery_pk == bindparam("gallery"), refusals.c.rule == bindparam("rule")
    kept = [refusals.c[each.name] for each in dataclasses.fields(Refusal)]
    return select(*kept).where(mine, refusals.c.photo_digest.in_(_any_of(dialect)), same)


def _parts(values: Sequence[int]) -> Iterable[Sequence[int]]:
    for first in range(0, len(values), AT_ONCE):
        yield values[first : first + AT_ONCE]
