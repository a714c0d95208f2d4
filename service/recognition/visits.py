"""Visits: take in that somebody came, on the word of something other than the face."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from service.errors import InvalidRequestError
from service.gallery import galleries, people
from service.gallery.catalog import WriteTransaction
from service.gallery.schema import EPOCH
from service.gallery.visits import NewVisit
from service.recognition.product import Product
from service.recognition.regions import CELL_RESOLUTION, REGION_RESOLUTION, coarser

log = logging.getLogger(__name__)

CLOCKS: Final = timedelta(minutes=5)
"""How far the clock of a device may be ahead."""

Remember = Callable[[WriteTransaction, int], None]


def checked_time(at: datetime | None, now: datetime) -> datetime:
    """The moment of a probe or a visit; now where none is given.

    Raises:
        InvalidRequestError: it lies before 1970 or in the future.
    """
    if at is None:
        return now
    if not EPOCH <= at <= now + CLOCKS:
        raise InvalidRequestError("a time lies between 1970 and now")
    return at


async def record(
    product: Product,
    gallery: str,
    person: str | None,
    *,
    device: str | None,
    cell: str | None,
    at: datetime | None,
    confirmed_by: str,
    remember: Remember,
) -> None:
    """Keep a visit that a second factor or a caller's explicit word has confirmed.

    Args:
        product: the parts.
        gallery: name of the gallery.
        person: who came; None for somebody who is confirmed to be nobody in the gallery.
        device: where.
        cell: H3 cell of that place.
        at: when; None is now.
        confirmed_by: what vouches for it.
        remember: called with the visit's key inside the transaction.

    Raises:
        InvalidRequestError: neither device nor place is given, or the time cannot be.
        GalleryNotFoundError: there is no such gallery.
        PersonNotFoundError: there is no such person.
    """
    if device is None and cell is None:
        raise InvalidRequestError("a visit needs a device, a region, or both")
    moment = checked_time(at, datetime.now(UTC))

    def keep() -> None:
        with product.catalog.write() as tx:
            pk = galleries.get(tx, gallery).pk
            who = None if person is None else people.get(tx, pk, person)
            visit = NewVisit(
                person_pk=None if who is None else who.pk,
                home=None if who is None else who.region,
                device=device,
                cell=None if cell is None else coarser(cell, CELL_RESOLUTION),
                region=None if cell is None else coarser(cell, REGION_RESOLUTION),
                at=moment,
                confirmed_by=confirmed_by,
            )
            remember(tx, product.visits.record(tx, pk, visit))

    await product.written(keep)


async def forget_old(product: Product) -> None:
    """Delete the visits that have outlived their time."""

    def work() -> int:
        with product.catalog.write() as tx:
            return product.visits.forget_before(tx, datetime.now(UTC) - timedelta(days=product.policy.visit_days))

    gone = await product.written(work)
    if gone:
        log.info("forgot %d visits that were too old", gone)
