"""Forget: a person leaves the catalog and the index, and a receipt is kept that does not say who it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

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

    def work() -> Forgotten:
        with product.catalog.write() as tx:
            record = galleries.get(tx, gallery)
            gone = forgetting.forget(tx, record.pk, person)
            if remember is not None:
                remember(tx, gone)
        if record.model_digest == product.model.digest:
            product.views.of(record.pk).catch_up(gone.receipt.revision)
        return gone

    return await product.stored(work)


async def forget_expired(product: Product) -> int:
    """Delete everybody whose time has passed; they were not found any more since that moment.

    Returns:
        How many were forgotten.
    """

    def overdue() -> list[tuple[str, str]]:
        with product.catalog.read() as reading:
            late = people.expired(reading, at=datetime.now(UTC))
            return [(galleries.by_pk(reading, item.gallery_pk).name, item.person) for item in late]

    late = await product.stored(overdue)
    for gallery, person in late:
        await forget(product, gallery, person)
    if late:
        log.info("forgot %d people whose time had passed", len(late))
    return len(late)
