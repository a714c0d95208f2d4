"""How a person leaves: everything about them is deleted, and a receipt is kept that does not say who they were.

The receipt holds a keyed hash of the person's id. Who still knows the id can check it
(`receipt.person_hash == catalog.person_hash(gallery_pk, person)`); who does not learns nothing from it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select

from service.errors import NotFoundError
from service.gallery import galleries, people
from service.gallery.catalog import Reading, WriteTransaction, keyed_hash
from service.gallery.records import columns
from service.gallery.schema import departures, receipts, refusals, templates
from service.gallery.schema import people as people_table


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """Proof that somebody was forgotten; `faces` counts the templates deleted, `revision` is the gallery's then."""

    receipt: str
    gallery_pk: int
    gallery: str
    revision: int
    forgotten_at: datetime
    person_hash: str
    faces: int


COLUMNS = columns(receipts, ReceiptRecord)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What forgetting a person did; `person_pk` is the row to take out of an index."""

    person_pk: int
    receipt: ReceiptRecord


def forget(tx: WriteTransaction, gallery_pk: int, person: str) -> Forgotten:
    """Delete a person with all templates, note the departure for those who follow the revisions, write a receipt.

    Raises:
        PersonNotFoundError: there is no such person.
    """
    tx.hold(gallery_pk)
    leaving = people.get(tx, gallery_pk, person)
    revision = tx.revise(gallery_pk)
    held = select(func.count()).select_from(templates).where(templates.c.person_pk == leaving.pk)
    faces = int(tx.connection.execute(held).scalar_one())
    tx.connection.execute(people_table.delete().where(people_table.c.pk == leaving.pk))
    claimed = (refusals.c.gallery_pk == gallery_pk) & (refusals.c.person == person)
    tx.connection.execute(refusals.delete().where(claimed))
    departure = {"gallery_pk": gallery_pk, "person_pk": leaving.pk, "revision": revision}
    tx.connection.execute(insert(departures).values(departure))
    receipt = {
        "receipt": f"r_{secrets.token_hex(12)}",
        "gallery_pk": gallery_pk,
        "gallery": galleries.by_pk(tx, gallery_pk).name,
        "revision": revision,
        "forgotten_at": tx.now,
        "person_hash": keyed_hash(tx.secret, "person", str(gallery_pk), person),
        "faces": faces,
    }
    kept = tx.connection.execute(insert(receipts).values(receipt).returning(*COLUMNS)).one()
    tx.erased = True
    return Forgotten(leaving.pk, ReceiptRecord(*kept))


def receipt_of(reading: Reading, receipt: str) -> ReceiptRecord:
    """Return a receipt.

    Raises:
        NotFoundError: no such receipt was written.
    """
    row = reading.connection.execute(select(*COLUMNS).where(receipts.c.receipt == receipt)).one_or_none()
    if row is None:
        raise NotFoundError("there is no such receipt")
    return ReceiptRecord(*row)
