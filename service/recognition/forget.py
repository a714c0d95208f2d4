"""Forget: a person leaves the catalog and the index, and a receipt is kept that does not say who it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from service.errors import NotFoundError
from service.gallery import forgetting, galleries, people
from service.gallery.catalog import WriteTransaction
from service.gallery.forgetting import Forgotten
from service.recognition.product import Product

log = logging.getLogger(__name__)

Remember = Callable[[WriteTransaction, Forgotten], None]


async def forget(product: Product, gallery: str, person: str, *, remember: Remember | None = None) -> Forgotten:
    """Delete a person everywhere. The next search no longer finds them.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        PersonNotFoundError: there is no such person.
    """
    return await product.changed(lambda: _forget(product, gallery, person, remember))


async def forget_expired(product: Product) -> int:
    """Delete everybody whose time has passed; they were not found any more since that moment.

    Returns:
        How many were forgotten.
    """

    def overdue() -> list[tuple[str, str]]:
        with product.catalog.read() as reading:
            late = people.expired(reading, at=datetime.now(UTC))
            return [(galleries.by_pk(reading, item.gallery_pk).name, item.person) for item in late]

    forgotten = 0
    for gallery, person in await product.stored(overdue):
        # Somebody may have been given more time, or have left, since the list was made.
        with suppress(NotFoundError, _StillWelcomeError):
            await product.changed(partial(_forget, product, gallery, person, None, only_expired=True))
            forgotten += 1
    if forgotten:
        log.info("forgot %d people whose time had passed", forgotten)
    return forgotten


class _StillWelcomeError(Exception):
    """The person's time has not passed after all."""


def _forget(
    product: Product, gallery: str, person: str, remember: Remember | None, *, only_expired: bool = False
) -> Forgotten:
    with product.catalog.write() as tx:
        record = galleries.get(tx, gallery)
        if only_expired and not people.get(tx, record.pk, person).expired(tx.now):
            raise _StillWelcomeError
        gone = forgetting.forget(tx, record.pk, person)
        product.visits.forget_person(tx, record.pk, gone.person_pk)
        if remember is not None:
            remember(tx, gone)
    product.show(record, gone.receipt.revision)
    return gone
