"""What can be said about imports: begin one, look it up, list, cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from service.gallery import galleries, imports
from service.gallery.catalog import WriteTransaction
from service.gallery.imports import Begun, ImportRecord
from service.gallery.records import GalleryRecord, Page
from service.imports.entries import HEADER, OUTCOMES, as_csv
from service.imports.worker import Worker, source_for
from service.recognition.product import Product

Remember = Callable[[WriteTransaction, "Progress", bool], None]
"""Keeps the answer; told whether the job is a new one."""


@dataclass(frozen=True)
class Progress:
    """Where a job stands.

    Attributes:
        record: the job.
        gallery: its name.
        done: rows decided.
        per_second: rows decided a second, by all processes together: lately, or since the first one where this process
            has not watched for long enough; over all where it has ended.
        seconds_left: until the last one, at that rate; None where it cannot be told.
        trouble: code and detail of what holds it up at the moment in this process; others may go on.
    """

    record: ImportRecord
    gallery: str
    done: int
    per_second: float
    seconds_left: float | None
    trouble: dict[str, str] | None

    @property
    def outcomes(self) -> dict[str, int]:
        """Rows by outcome, each outcome named."""
        return {name: self.record.counts.get(name, 0) for name in OUTCOMES}


async def begin(
    product: Product,
    worker: Worker,
    gallery: str,
    path: str,
    *,
    embeddings: str | None,
    look_alikes: Literal["refuse", "enroll"] | None,
    remember: Remember,
) -> None:
    """Begin an import, or find the one that was asked for in the same words and has not ended.

    Args:
        product: the parts.
        worker: will do it.
        gallery: where its faces go.
        path: of the folder, manifest or tar, under the import root.
        embeddings: of the array, where the manifest is one of ready embeddings.
        look_alikes: what becomes of a face that is likely another person's; by default photos are refused and ready
            embeddings, which are not searched for, are kept.
        remember: keeps the answer.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        GalleryModelError: the gallery is bound to another model.
        ImportPathError: the path is not under the import root, absent or not readable.
        ImportManifestError: it is nothing that can be imported.
    """
    record, _ = await product.gallery(gallery)
    request = {
        "path": path,
        "embeddings": embeddings,
        "look_alikes": look_alikes or ("refuse" if embeddings is None else "enroll"),
    }
    await product.stored(lambda: _look(product, worker, record, request))

    def work() -> Begun:
        with product.catalog.write() as tx:
            begun = imports.begin(tx, record.pk, request)
            remember(tx, _progress(worker, begun.record, gallery), begun.created)
        return begun

    await product.written(work)
    worker.poke()


def _look(product: Product, worker: Worker, gallery: GalleryRecord, request: dict[str, Any]) -> None:
    """Look at the beginning of a source, so that who asks for nonsense is told at once."""
    source = source_for(worker.root, request)
    next(source.entries(lambda digits: product.catalog.digits_hash(gallery.pk, digits), gallery.dim), None)


async def get(product: Product, worker: Worker, gallery: str, import_id: str) -> Progress:
    """Look an import up.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        ImportNotFoundError: there is no such import in it.
    """

    def work() -> ImportRecord:
        with product.catalog.read() as reading:
            return imports.get(reading, galleries.get(reading, gallery).pk, import_id)

    return _progress(worker, await product.stored(work), gallery)


async def page(product: Product, worker: Worker, gallery: str, *, after: str | None, limit: int) -> Page[Progress]:
    """List the imports of a gallery, the newest first.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        ImportNotFoundError: the cursor is none.
    """

    def work() -> Page[ImportRecord]:
        with product.catalog.read() as reading:
            return imports.page(reading, galleries.get(reading, gallery).pk, after=after, limit=limit)

    found = await product.stored(work)
    return Page(tuple(_progress(worker, record, gallery) for record in found.items), found.next)


async def cancel(
    product: Product,
    worker: Worker,
    gallery: str,
    import_id: str,
    *,
    remember: Callable[[WriteTransaction, Progress], None],
) -> None:
    """End an import; what it enrolled stays. One that has ended stays as it is.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        ImportNotFoundError: there is no such import in it.
    """

    def work() -> None:
        with product.catalog.write() as tx:
            record = imports.cancel(tx, galleries.get(tx, gallery).pk, import_id)
            remember(tx, _progress(worker, record, gallery))

    await product.written(work)


async def report(product: Product, record: ImportRecord) -> AsyncIterator[str]:
    """What became of each row so far, as CSV, shard by shard."""

    def shards() -> list[int]:
        with product.catalog.read() as reading:
            return imports.shards_of(reading, record.pk)

    def lines(shard: int) -> str:
        with product.catalog.read() as reading:
            return as_csv([[number + 1, *row] for number, row in imports.report(reading, shard)])

    yield as_csv([HEADER])
    for shard in await product.stored(shards):
        yield await product.stored(partial(lines, shard))


async def forget_reports(product: Product, days: int) -> int:
    """Delete imports that ended so many days ago, with their reports; returns how many there were."""

    def work() -> int:
        with product.catalog.write() as tx:
            return imports.forget_before(tx, tx.now - timedelta(days=days))

    return await product.written(work)


def _progress(worker: Worker, record: ImportRecord, gallery: str) -> Progress:
    done = sum(record.counts.values())
    per_second = _since_the_first(record, done)
    if record.state == "running":
        lately = worker.rate_of(record).per_second()
        per_second = per_second if lately is None else lately
    left = None if record.total is None or record.ended or not per_second else (record.total - done) / per_second
    error = worker.trouble.get(record.pk)
    trouble = None if error is None or record.ended else {"code": error.code, "detail": error.detail}
    return Progress(record, gallery, done, per_second, left, trouble)


def _since_the_first(record: ImportRecord, done: int) -> float:
    if record.started_at is None:
        return 0.0
    until = record.ended_at or datetime.now(UTC)
    return done / max((until - record.started_at).total_seconds(), 1e-3)
