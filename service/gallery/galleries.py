"""Galleries: create, look up, list, change, delete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy import update as change
from sqlalchemy.exc import IntegrityError

from service.errors import GalleryExistsError, GalleryNotFoundError
from service.gallery.catalog import Reading, ReadTransaction, WriteTransaction
from service.gallery.records import Attributes, GalleryChanges, GalleryRecord, Page, columns
from service.gallery.schema import crops, galleries, people, templates

COLUMNS = columns(galleries, GalleryRecord)
BY_PK = select(*COLUMNS).where(galleries.c.pk == bindparam("gallery_pk"))
EVERY = select(*COLUMNS)
HELD_BY_PK = BY_PK.with_for_update(key_share=True)
BY_NAME = select(*COLUMNS).where(galleries.c.name == bindparam("gallery_name"))
HELD_BY_NAME = BY_NAME.with_for_update(key_share=True)


@dataclass(frozen=True, slots=True)
class GallerySize:
    """How much a gallery holds."""

    people: int
    templates: int


def create(
    tx: WriteTransaction,
    name: str,
    *,
    model: str,
    model_digest: str,
    dim: int,
    fpir: float | None = None,
    observed: Mapping[str, Any] | None = None,
    keep_crops: bool = False,
    attributes: Attributes | None = None,
) -> GalleryRecord:
    """Create an empty gallery at revision 0.

    Args:
        tx: the transaction.
        name: unique among galleries.
        model: name of the recognition model that the gallery is bound to.
        model_digest: of that model's manifest.
        dim: of that model's embeddings.
        fpir: target false-positive identification rate; None leaves it to the service.
        observed: which attributes of people count as evidence, and how each is observed.
        keep_crops: whether the crops of its faces are kept too, so that another model can encode them.
        attributes: free JSON.

    Raises:
        GalleryExistsError: the name is taken.
    """
    values = {
        "name": name,
        "model": model,
        "model_digest": model_digest,
        "dim": dim,
        "revision": 0,
        "fpir": fpir,
        "observed": observed,
        "keep_crops": keep_crops,
        "attributes": attributes or {},
        "created_at": tx.now,
    }
    try:
        row = tx.connection.execute(insert(galleries).values(values).returning(*COLUMNS)).one()
    except IntegrityError as error:
        raise GalleryExistsError(f"a gallery named {name!r} exists already") from error
    return GalleryRecord(*row)


def get(reading: Reading, name: str) -> GalleryRecord:
    """Return the gallery of this name; a transaction that writes then holds it.

    Raises:
        GalleryNotFoundError: there is none.
    """
    query = BY_NAME if _alone(reading) else HELD_BY_NAME
    row = reading.connection.execute(query, {"gallery_name": name}).one_or_none()
    if row is None:
        raise GalleryNotFoundError(f"there is no gallery named {name!r}")
    return _held(reading, GalleryRecord(*row))


def by_pk(reading: Reading, gallery_pk: int) -> GalleryRecord:
    """Return the gallery of this key; a transaction that writes then holds it.

    Raises:
        GalleryNotFoundError: there is none.
    """
    query = BY_PK if _alone(reading) else HELD_BY_PK
    row = reading.connection.execute(query, {"gallery_pk": gallery_pk}).one_or_none()
    if row is None:
        raise GalleryNotFoundError("the gallery does not exist")
    return _held(reading, GalleryRecord(*row))


def page(reading: Reading, *, after: str | None = None, limit: int = 100) -> Page[GalleryRecord]:
    """List galleries by name.

    Args:
        reading: the transaction.
        after: cursor of the page before, None for the first.
        limit: most galleries returned, at least 1.
    """
    query = select(*COLUMNS).order_by(galleries.c.name).limit(limit + 1)
    if after is not None:
        query = query.where(galleries.c.name > after)
    found = [GalleryRecord(*row) for row in reading.connection.execute(query)]
    return Page(tuple(found[:limit]), found[limit - 1].name if len(found) > limit else None)


def size(reading: Reading, gallery_pk: int) -> GallerySize:
    """Count the people of a gallery and their templates."""
    counted = select(func.count(), func.coalesce(func.sum(people.c.faces), 0)).where(people.c.gallery_pk == gallery_pk)
    return GallerySize(*reading.connection.execute(counted).one())


def update(tx: WriteTransaction, gallery_pk: int, changes: GalleryChanges) -> GalleryRecord:
    """Set the fields given in `changes`; crops that are no longer to be kept are deleted.

    Raises:
        GalleryNotFoundError: there is no such gallery.
    """
    if changes:
        tx.revise(gallery_pk)
        tx.connection.execute(change(galleries).where(galleries.c.pk == gallery_pk).values(**changes))
        if changes.get("keep_crops") is False:
            gone = tx.connection.execute(crops.delete().where(crops.c.gallery_pk == gallery_pk)).rowcount
            tx.erased = tx.erased or gone > 0
    return by_pk(tx, gallery_pk)


def delete(tx: WriteTransaction, gallery_pk: int) -> GallerySize:
    """Delete a gallery with everybody in it; receipts of people forgotten earlier stay.

    Returns:
        What was deleted.

    Raises:
        GalleryNotFoundError: there is no such gallery.
    """
    by_pk(tx, gallery_pk)
    gone = size(tx, gallery_pk)
    # Two steps: left to the foreign keys alone, templates would be looked for person by person.
    tx.connection.execute(templates.delete().where(templates.c.gallery_pk == gallery_pk))
    tx.connection.execute(galleries.delete().where(galleries.c.pk == gallery_pk))
    tx.erased = True
    return gone


def every(reading: Reading) -> tuple[GalleryRecord, ...]:
    """Return all galleries, in no set order."""
    return tuple(GalleryRecord(*row) for row in reading.connection.execute(EVERY))


def every_pk(reading: Reading) -> tuple[int, ...]:
    """Return the keys of all galleries."""
    return tuple(reading.connection.execute(select(galleries.c.pk)).scalars())


def _alone(reading: Reading) -> bool:
    """Whether a gallery need not be held: nothing is decided by what is read, or nobody else can write."""
    return isinstance(reading, ReadTransaction) or reading.storage.single_writer


def _held(reading: Reading, gallery: GalleryRecord) -> GalleryRecord:
    if isinstance(reading, WriteTransaction):
        reading.holds(gallery.pk)
    return gallery
