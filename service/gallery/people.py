"""People of a gallery: put, patch, look up, list. How they leave is told in `forgetting`, their faces in `faces`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, insert, select, update

from service.errors import PersonNotFoundError
from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.embeddings import Embeddings, Rows, from_bytes, to_bytes
from service.gallery.records import Attributes, Page, PersonChanges, PersonFields, PersonRecord, columns
from service.gallery.schema import departures, people

COLUMNS = columns(people, PersonRecord)
FIND = select(*COLUMNS).where(people.c.gallery_pk == bindparam("its_gallery"), people.c.person == bindparam("its_id"))
CREATE = insert(people).returning(*COLUMNS)
BY_PKS = select(people.c.pk, people.c.person, people.c.expires_at, people.c.digits).where(
    people.c.pk.in_(bindparam("pks", expanding=True))
)

AT_ONCE: Final = 1_000
"""Keys in one list of a query."""

HASHED = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PutPerson:
    """What a put did."""

    person: PersonRecord
    created: bool


def put(tx: WriteTransaction, gallery_pk: int, person: str, fields: PersonFields) -> PutPerson:
    """Set all fields of a person, creating the person if absent; faces stay as they are.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        ValueError: `digits` is not a keyed hash.
    """
    tx.hold(gallery_pk)
    found = find(tx, gallery_pk, person)
    if found is None:
        return PutPerson(create(tx, gallery_pk, person, fields), created=True)
    changes = PersonChanges(
        name=fields.name,
        region=fields.region,
        device=fields.device,
        digits=fields.digits,
        attributes=fields.attributes,
        consent=fields.consent,
        expires_at=fields.expires_at,
    )
    return PutPerson(patch(tx, gallery_pk, person, changes), created=False)


def create(
    tx: WriteTransaction,
    gallery_pk: int,
    person: str,
    fields: PersonFields,
    *,
    faces: int = 0,
    fused: Embeddings | None = None,
) -> PersonRecord:
    """Create a person who is known to be absent.

    Args:
        tx: the transaction.
        gallery_pk: whose person.
        person: the caller's id.
        fields: what is stated about the person.
        faces: how many templates follow,
        fused: and the vector (dim,) that they make.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        ValueError: `digits` is not a keyed hash.
    """
    _refuse_plain(fields.digits)
    values = {each.name: getattr(fields, each.name) for each in dataclasses.fields(fields)}
    values |= {
        "gallery_pk": gallery_pk,
        "person": person,
        "created_at": tx.now,
        "updated_at": tx.now,
        "revision": tx.revise(gallery_pk),
        "faces": faces,
        "fused": None if fused is None else to_bytes(fused),
    }
    return PersonRecord(*tx.connection.execute(CREATE, values).one())


def patch(tx: WriteTransaction, gallery_pk: int, person: str, changes: PersonChanges) -> PersonRecord:
    """Set the fields given in `changes`.

    Raises:
        PersonNotFoundError: there is no such person.
        ValueError: `digits` is not a keyed hash.
    """
    tx.hold(gallery_pk)
    found = get(tx, gallery_pk, person)
    if not changes:
        return found
    _refuse_plain(changes.get("digits"))
    stamp = {"revision": tx.revise(gallery_pk), "updated_at": tx.now}
    query = update(people).where(people.c.pk == found.pk).values({**changes, **stamp}).returning(*COLUMNS)
    return PersonRecord(*tx.connection.execute(query).one())


def find(reading: Reading, gallery_pk: int, person: str) -> PersonRecord | None:
    """Return the person of this id, or None."""
    row = reading.connection.execute(FIND, {"its_gallery": gallery_pk, "its_id": person}).one_or_none()
    return None if row is None else PersonRecord(*row)


def get(reading: Reading, gallery_pk: int, person: str) -> PersonRecord:
    """Return the person of this id.

    Raises:
        PersonNotFoundError: there is none.
    """
    found = find(reading, gallery_pk, person)
    if found is None:
        raise PersonNotFoundError(f"there is no person {person!r} in the gallery")
    return found


def living(reading: Reading, gallery_pk: int, person: str) -> PersonRecord:
    """Return the person of this id whose time has not passed.

    Raises:
        PersonNotFoundError: there is none.
    """
    found = get(reading, gallery_pk, person)
    if found.expired(reading.now):
        raise PersonNotFoundError(f"there is no person {person!r} in the gallery")
    return found


@dataclass(frozen=True, slots=True)
class Indexed:
    """What a search needs to know of somebody: the caller's id, how long the person may be found, digits' hash."""

    person: str
    expires_at: datetime | None
    digits: str | None

    def expired(self, now: datetime) -> bool:
        """Tell whether the person must no longer be found at `now`."""
        return self.expires_at is not None and self.expires_at <= now


def by_pks(reading: Reading, pks: Sequence[int]) -> dict[int, Indexed]:
    """Return who stands behind index rows, in one query; those forgotten meanwhile are missing.

    Expired people are among them: `Indexed.expired` tells.

    Args:
        reading: the transaction.
        pks: at most some thousands.
    """
    rows = reading.connection.execute(BY_PKS, {"pks": list(pks)}).all()
    return {row[0]: Indexed(row[1], row[2], row[3]) for row in rows}


def page(reading: Reading, gallery_pk: int, *, after: str | None = None, limit: int = 100) -> Page[PersonRecord]:
    """List people by their id; those whose time has passed are left out.

    Args:
        reading: the transaction.
        gallery_pk: whose people.
        after: cursor of the page before, None for the first.
        limit: most people returned, at least 1.
    """
    living = people.c.expires_at.is_(None) | (people.c.expires_at > reading.now)
    query = select(*COLUMNS).where(people.c.gallery_pk == gallery_pk, living).order_by(people.c.person).limit(limit + 1)
    if after is not None:
        query = query.where(people.c.person > after)
    found = [PersonRecord(*row) for row in reading.connection.execute(query)]
    return Page(tuple(found[:limit]), found[limit - 1].person if len(found) > limit else None)


def expired(reading: Reading, *, at: datetime, limit: int = 1000) -> tuple[PersonRecord, ...]:
    """Return people of any gallery whose time has passed, the longest expired first."""
    query = select(*COLUMNS).where(people.c.expires_at <= at).order_by(people.c.expires_at, people.c.pk).limit(limit)
    return tuple(PersonRecord(*row) for row in reading.connection.execute(query))


def _refuse_plain(digits: str | None) -> None:
    if digits is not None and not HASHED.fullmatch(digits):
        raise ValueError("digits are kept as a keyed hash only; see Catalog.digits_hash")


# --- what the prior asks ---


@dataclass(frozen=True, slots=True)
class Changed:
    """People who changed, side by side.

    Attributes:
        rows: their keys, (n,).
        regions: their home cells.
        found: whether there is a face to find each by, (n,).
        attributes: of each; empty where they were not asked for.
    """

    rows: Rows
    regions: Sequence[str | None]
    found: NDArray[np.bool_]
    attributes: Sequence[Attributes]


def changed_since(
    reading: Reading, gallery_pk: int, after: int, *, attributes: bool, at_once: int = 50_000
) -> Iterator[Changed]:
    """Everybody who changed after a revision, so many at a time, with their attributes where these are asked for."""
    asked = [people.c.pk, people.c.region, people.c.fused.is_not(None)] + ([people.c.attributes] if attributes else [])
    query = select(*asked).where(people.c.gallery_pk == gallery_pk, people.c.revision > after)
    for part in reading.connection.execute(query).partitions(at_once):
        rows, regions, found, *more = zip(*part, strict=True)
        told = [each or {} for each in more[0]] if more else []
        yield Changed(np.array(rows, np.int64), regions, np.array(found, bool), told)


def vectors_after(reading: Reading, gallery_pk: int, after: int, *, dim: int, limit: int) -> tuple[Rows, Embeddings]:
    """The next people who have a face, by their key: keys, (n,), and fused vectors, (n, dim); n is 0 at the end."""
    query = (
        select(people.c.pk, people.c.fused)
        .where(people.c.gallery_pk == gallery_pk, people.c.pk > after, people.c.fused.is_not(None))
        .order_by(people.c.pk)
        .limit(limit)
    )
    found = reading.connection.execute(query).all()
    return np.array([row.pk for row in found], np.int64), from_bytes((row.fused for row in found), dim)


def homes_of(reading: Reading, gallery_pk: int, rows: Rows) -> NDArray[np.bytes_]:
    """The home cell of each of these people, shape (n,), empty where none is known or is not looked for.

    Where the first thousand have none, the others are not looked up.
    """
    homes = np.zeros(len(rows), "S16")
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE].tolist()
        query = select(people.c.pk, people.c.region).where(
            people.c.gallery_pk == gallery_pk, people.c.pk.in_(some), people.c.region.is_not(None)
        )
        found = {int(pk): region for pk, region in reading.connection.execute(query)}
        if not found and first == 0:
            break
        homes[first : first + len(some)] = [found.get(pk, "") for pk in some]
    return homes


def left_since(reading: Reading, gallery_pk: int, after: int) -> list[int]:
    """The keys of everybody who was forgotten after a revision."""
    query = select(departures.c.person_pk).where(departures.c.gallery_pk == gallery_pk, departures.c.revision > after)
    return [int(pk) for pk in reading.connection.execute(query).scalars()]


def with_digits(reading: Reading, gallery_pk: int, digits: str) -> list[int]:
    """The keys of everybody whose digits have this keyed hash, rising."""
    query = select(people.c.pk).where(people.c.gallery_pk == gallery_pk, people.c.digits == digits)
    return sorted(int(pk) for pk in reading.connection.execute(query).scalars())


def any_digits(reading: Reading, gallery_pk: int) -> bool:
    """Whether anybody's digits are kept."""
    query = select(people.c.pk).where(people.c.gallery_pk == gallery_pk, people.c.digits.is_not(None)).limit(1)
    return reading.connection.execute(query).first() is not None


def owners(reading: Reading, gallery_pk: int, device: str) -> list[int]:
    """The keys of everybody whose own device this is."""
    query = select(people.c.pk).where(people.c.gallery_pk == gallery_pk, people.c.device == device)
    return [int(pk) for pk in reading.connection.execute(query).scalars()]


def overdue(reading: Reading, gallery_pk: int, at: datetime) -> list[int]:
    """The keys of everybody in a gallery whose time has passed."""
    query = select(people.c.pk).where(people.c.gallery_pk == gallery_pk, people.c.expires_at <= at)
    return [int(pk) for pk in reading.connection.execute(query).scalars()]
