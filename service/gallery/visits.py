"""Visits: who was where, confirmed by something other than the face. The raw material of history.

A visit is recorded because a card, a code or a person vouched for it; what identify says of its own accord never gets
here. A visit leaves with its person, and after some time in any case. For a history, visits of one person on one day
count together, so that a million visits of one person are no more to read than a year of them.

`Visits` is what the product asks of whoever keeps them; `CatalogVisits` keeps them beside the people, in the catalog.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, func, insert, select, type_coerce

from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.embeddings import Rows
from service.gallery.schema import visits

DAY: Final = 86_400_000_000
"""Microseconds."""

Place = Literal["device", "cell", "region"]


@dataclass(frozen=True, slots=True)
class NewVisit:
    """A visit to be kept.

    Attributes:
        person_pk: who came, None for somebody who is confirmed to be nobody in the gallery.
        home: the home cell of that person as it is on file now.
        device: where the visitor was seen.
        cell: a small cell of the map around it, an H3 index,
        region: and the larger one that holds it.
        at: when.
        confirmed_by: what vouches for it, such as `card`.
    """

    person_pk: int | None
    home: str | None
    device: str | None
    cell: str | None
    region: str | None
    at: datetime
    confirmed_by: str


@dataclass(frozen=True, slots=True, eq=False)
class DaysAtPlace:
    """Visits at one place, counted by person and day.

    Attributes:
        rows: who, -1 for strangers, (n,).
        days: days since 1970, (n,).
        counts: visits of that person on that day, (n,).
    """

    rows: Rows
    days: NDArray[np.int64]
    counts: NDArray[np.int64]


class Visits(Protocol):
    """Confirmed visits of every gallery; safe to use from threads.

    Each call is made inside a transaction of the catalog, which decides that the gallery and the person exist and, when
    it is committed, that a write happened. Whoever keeps visits elsewhere does its work within the call: a failure
    there undoes the transaction, and no visit is acknowledged or forgotten by half.
    """

    def record(self, tx: WriteTransaction, gallery_pk: int, visit: NewVisit) -> int:
        """Keep a visit, and return its number; numbers rise within a gallery and are never used twice."""
        ...

    def at_place(self, reading: Reading, gallery_pk: int, kind: Place, name: str) -> DaysAtPlace:
        """Everybody who was at a device, in a cell or in a region; in any order."""
        ...

    def last_of(self, reading: Reading, gallery_pk: int) -> int:
        """The number of the gallery's newest visit, 0 where there is none."""
        ...

    def place_of(self, reading: Reading, gallery_pk: int, device: str) -> tuple[str | None, str | None]:
        """The cell and the region of the last visit recorded at a device that named a region."""
        ...

    def devices(self, reading: Reading, gallery_pk: int, *, limit: int) -> list[str]:
        """The devices with the most visits; by name where they have as many."""
        ...

    def travels(self, reading: Reading, gallery_pk: int) -> list[tuple[str, str, int]]:
        """How many visits people of each home cell made in each region: (home, region, visits), in any order."""
        ...

    def forget_person(self, tx: WriteTransaction, gallery_pk: int, person_pk: int) -> None:
        """Delete every visit of a person."""
        ...

    def forget_gallery(self, tx: WriteTransaction, gallery_pk: int) -> None:
        """Delete every visit of a gallery."""
        ...

    def forget_before(self, tx: WriteTransaction, moment: datetime) -> int:
        """Delete every visit of any gallery before the day of a moment; returns how many there were."""
        ...


class CatalogVisits:
    """Visits kept in the catalog itself."""

    def record(self, tx: WriteTransaction, gallery_pk: int, visit: NewVisit) -> int:
        """Keep a visit; see `Visits`."""
        tx.hold(gallery_pk)  # so that numbers rise in the order of commits, which `last_of` relies on
        values = {
            "gallery_pk": gallery_pk,
            "person_pk": visit.person_pk,
            "home": visit.home,
            "device": visit.device,
            "cell": visit.cell,
            "region": visit.region,
            "at": visit.at,
            "confirmed_by": visit.confirmed_by,
        }
        return int(tx.connection.execute(insert(visits).values(values).returning(visits.c.pk)).scalar_one())

    def at_place(self, reading: Reading, gallery_pk: int, kind: Place, name: str) -> DaysAtPlace:
        """Everybody who was at a place; see `Visits`."""
        day = type_coerce(visits.c.at, BigInteger) // DAY
        who = func.coalesce(visits.c.person_pk, -1)
        # Grouped by name: to PostgreSQL, two parameters of the same value are two different expressions.
        query = (
            select(who.label("who"), day.label("day"), func.count())
            .where(visits.c.gallery_pk == gallery_pk, visits.c[kind] == name)
            .group_by("who", "day")
        )
        found = np.array([tuple(row) for row in reading.connection.execute(query)], np.int64).reshape(-1, 3)
        return DaysAtPlace(found[:, 0], found[:, 1], found[:, 2])

    def last_of(self, reading: Reading, gallery_pk: int) -> int:
        """The number of the newest visit; see `Visits`."""
        newest = select(func.max(visits.c.pk)).where(visits.c.gallery_pk == gallery_pk)
        return int(reading.connection.execute(newest).scalar_one() or 0)

    def place_of(self, reading: Reading, gallery_pk: int, device: str) -> tuple[str | None, str | None]:
        """Where a device is; see `Visits`."""
        query = (
            select(visits.c.cell, visits.c.region)
            .where(visits.c.gallery_pk == gallery_pk, visits.c.device == device, visits.c.region.is_not(None))
            .order_by(visits.c.pk.desc())
            .limit(1)
        )
        row = reading.connection.execute(query).one_or_none()
        return (None, None) if row is None else (row.cell, row.region)

    def devices(self, reading: Reading, gallery_pk: int, *, limit: int) -> list[str]:
        """The busiest devices; see `Visits`."""
        query = (
            select(visits.c.device)
            .where(visits.c.gallery_pk == gallery_pk, visits.c.device.is_not(None))
            .group_by(visits.c.device)
            .order_by(func.count().desc(), visits.c.device)
            .limit(limit)
        )
        return [str(device) for device in reading.connection.execute(query).scalars()]

    def travels(self, reading: Reading, gallery_pk: int) -> list[tuple[str, str, int]]:
        """Visits by home and region; see `Visits`."""
        query = (
            select(visits.c.home, visits.c.region, func.count())
            .where(visits.c.gallery_pk == gallery_pk, visits.c.home.is_not(None), visits.c.region.is_not(None))
            .group_by(visits.c.home, visits.c.region)
        )
        return [(home, region, int(count)) for home, region, count in reading.connection.execute(query)]

    def forget_person(self, tx: WriteTransaction, gallery_pk: int, person_pk: int) -> None:
        """Delete a person's visits; see `Visits`."""
        chosen = (visits.c.gallery_pk == gallery_pk) & (visits.c.person_pk == person_pk)
        tx.connection.execute(visits.delete().where(chosen))

    def forget_gallery(self, tx: WriteTransaction, gallery_pk: int) -> None:
        """Delete a gallery's visits; see `Visits`."""
        tx.connection.execute(visits.delete().where(visits.c.gallery_pk == gallery_pk))

    def forget_before(self, tx: WriteTransaction, moment: datetime) -> int:
        """Delete what is too old; see `Visits`."""
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        gone = tx.connection.execute(visits.delete().where(visits.c.at < midnight)).rowcount
        tx.erased = tx.erased or gone > 0
        return int(gone)
