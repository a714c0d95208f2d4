"""Bulk imports as the catalog keeps them: jobs, the shards that workers lease, what became of each row.

    begin -> planning -> (add_shard ..., planned) -> running -> (lease, decided, ...) -> done
                     any of these -> cancelled or failed

A shard is a run of rows of the manifest. Who holds its lease decides rows in their order, some at a time, and each such
part is committed together with the templates that came of it (`decided`), so a row is done exactly if its outcome is
kept. A lease ends by itself: the shard of a worker that died is taken over where its last commit left it. `decided`
fences: a worker whose lease was taken over meanwhile cannot commit.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import and_, func, insert, or_, select, update

from service.errors import ImportNotFoundError, LeaseLostError
from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.records import Page, columns
from service.gallery.schema import galleries, imports, outcomes, shards

State: TypeAlias = Literal["planning", "running", "done", "cancelled", "failed"]

UNENDED: Final = ("planning", "running")

Row: TypeAlias = Sequence[Any]
"""One row of a manifest, or what became of it: values that JSON has."""


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """A bulk job.

    Attributes:
        pk: in the catalog.
        gallery_pk: where its faces go.
        import_id: public id.
        request: what was asked for.
        state: where it stands.
        total: rows, None until the manifest was read.
        counts: rows decided, by outcome.
        error: code and detail, where it failed.
        created_at: when it was asked for.
        started_at: when its first row could be worked on.
        ended_at: when it was done, cancelled or failed.
    """

    pk: int
    gallery_pk: int
    import_id: str
    request: Mapping[str, Any]
    state: State
    total: int | None
    counts: Mapping[str, int]
    error: Mapping[str, str] | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in UNENDED


@dataclass(frozen=True, slots=True)
class Begun:
    """A job, and whether it is a new one."""

    record: ImportRecord
    created: bool


@dataclass(frozen=True, slots=True)
class Shard:
    """A leased run of rows, of whose `count` the first `done` are decided; `entries` are all of them, packed."""

    pk: int
    import_pk: int
    first: int
    count: int
    done: int
    entries: bytes

    def left(self) -> Sequence[Row]:
        """The rows that are not decided; unpacked here and not where they are leased, in a transaction."""
        return unpacked(self.entries)[self.done :]


COLUMNS = columns(imports, ImportRecord)


def begin(tx: WriteTransaction, gallery_pk: int, request: Mapping[str, Any]) -> Begun:
    """Begin a job, or find the one that was asked for in the same words and has not ended."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    under_way = select(*COLUMNS).where(
        imports.c.gallery_pk == gallery_pk, imports.c.request_digest == digest, imports.c.state.in_(UNENDED)
    )
    found = tx.connection.execute(under_way.order_by(imports.c.pk).limit(1)).one_or_none()
    if found is not None:
        return Begun(ImportRecord(*found), created=False)
    values = {
        "gallery_pk": gallery_pk,
        "import_id": f"i_{secrets.token_hex(10)}",
        "request_digest": digest,
        "request": dict(request),
        "state": "planning",
        "counts": {},
        "created_at": tx.now,
    }
    row = tx.connection.execute(insert(imports).values(values).returning(*COLUMNS)).one()
    return Begun(ImportRecord(*row), created=True)


def get(reading: Reading, gallery_pk: int, import_id: str) -> ImportRecord:
    """Return the job of this id.

    Raises:
        ImportNotFoundError: there is none in this gallery.
    """
    query = select(*COLUMNS).where(imports.c.gallery_pk == gallery_pk, imports.c.import_id == import_id)
    row = reading.connection.execute(query).one_or_none()
    if row is None:
        raise ImportNotFoundError(f"there is no import {import_id!r} in the gallery")
    return ImportRecord(*row)


def page(reading: Reading, gallery_pk: int, *, after: str | None = None, limit: int = 100) -> Page[ImportRecord]:
    """List the jobs of a gallery, the newest first.

    Args:
        reading: the transaction.
        gallery_pk: whose jobs.
        after: cursor of the page before, None for the first.
        limit: most jobs returned, at least 1.

    Raises:
        ImportNotFoundError: the cursor is none.
    """
    query = select(*COLUMNS).where(imports.c.gallery_pk == gallery_pk).order_by(imports.c.pk.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(imports.c.pk < get(reading, gallery_pk, after).pk)
    found = [ImportRecord(*row) for row in reading.connection.execute(query)]
    return Page(tuple(found[:limit]), found[limit - 1].import_id if len(found) > limit else None)


def cancel(tx: WriteTransaction, gallery_pk: int, import_id: str) -> ImportRecord:
    """End a job; what it enrolled stays. One that has ended stays as it is.

    Raises:
        ImportNotFoundError: there is no such job.
    """
    found = get(tx, gallery_pk, import_id)
    if found.ended:
        return found
    _end(tx, found.pk, "cancelled")
    return get(tx, gallery_pk, import_id)


def fail(tx: WriteTransaction, import_pk: int, *, code: str, detail: str) -> None:
    """End a job that cannot go on; one that has ended stays as it is."""
    _end(tx, import_pk, "failed", error={"code": code, "detail": detail})


def forget_before(tx: WriteTransaction, moment: datetime) -> int:
    """Delete jobs that ended before a moment, with their reports; returns how many there were."""
    gone = int(tx.connection.execute(imports.delete().where(imports.c.ended_at < moment)).rowcount)
    tx.erased = tx.erased or gone > 0
    return gone


# --- planning ---


def unended(reading: Reading, model_digest: str) -> tuple[ImportRecord, ...]:
    """Return the jobs that wait for work, of galleries of this model, the oldest first."""
    query = (
        select(*COLUMNS)
        .join_from(imports, galleries, imports.c.gallery_pk == galleries.c.pk)
        .where(imports.c.state.in_(UNENDED), galleries.c.model_digest == model_digest)
        .order_by(imports.c.pk)
    )
    return tuple(ImportRecord(*row) for row in reading.connection.execute(query))


def claim(tx: WriteTransaction, import_pk: int, worker: str, *, seconds: float, anew: bool) -> bool:
    """Take, or keep, the reading of a job's manifest.

    Args:
        tx: the transaction.
        import_pk: the job.
        worker: who reads.
        seconds: for which nobody else may.
        anew: the reading begins; shards of one that did not end are dropped.

    Returns:
        False where another worker reads it, or it need not be read any more.
    """
    this = (imports.c.pk == import_pk) & (imports.c.state == "planning")
    holder = tx.connection.execute(
        select(imports.c.worker, imports.c.leased_until).where(this).with_for_update()
    ).one_or_none()
    if holder is None or (holder.worker not in (None, worker) and holder.leased_until > tx.now):
        return False
    if anew:
        tx.connection.execute(shards.delete().where(shards.c.import_pk == import_pk))
    lease_ends = tx.now + timedelta(seconds=seconds)
    tx.connection.execute(update(imports).where(this).values(worker=worker, leased_until=lease_ends))
    return True


def add_shard(tx: WriteTransaction, import_pk: int, first: int, rows: Sequence[Row]) -> None:
    """Keep the next rows of a job's manifest; `first` counts the rows before them."""
    values = {"import_pk": import_pk, "first": first, "count": len(rows), "done": 0, "entries": packed(rows)}
    tx.connection.execute(insert(shards).values(values))


def planned(tx: WriteTransaction, import_pk: int, total: int) -> None:
    """Open a job for work: all its shards are there."""
    values = {"state": "running" if total else "done", "total": total, "started_at": tx.now}
    if not total:
        values["ended_at"] = tx.now
    still = (imports.c.pk == import_pk) & (imports.c.state == "planning")
    tx.connection.execute(update(imports).where(still).values(worker=None, leased_until=None, **values))


# --- work ---


def lease(tx: WriteTransaction, import_pk: int, worker: str, *, seconds: float) -> Shard | None:
    """Take the first shard that nobody works on, or whose worker has not been heard of in time.

    Returns:
        None where there is none, or the job does not run.
    """
    running = select(imports.c.pk).where(imports.c.pk == import_pk, imports.c.state == "running").scalar_subquery()
    free = or_(shards.c.worker.is_(None), shards.c.leased_until <= tx.now)
    query = (
        select(shards.c.pk, shards.c.import_pk, shards.c.first, shards.c.count, shards.c.done, shards.c.entries)
        .where(shards.c.import_pk == running, shards.c.done < shards.c.count, free)
        .order_by(shards.c.first)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = tx.connection.execute(query).one_or_none()
    if row is None:
        return None
    _hold(tx, [row.pk], worker, seconds)
    return Shard(*row)


def renew(tx: WriteTransaction, pks: Sequence[int], worker: str, *, seconds: float) -> None:
    """Keep leases that this worker holds."""
    mine = select(shards.c.pk).where(shards.c.pk.in_(pks), shards.c.worker == worker)
    _hold(tx, list(tx.connection.execute(mine).scalars()), worker, seconds)


def release(tx: WriteTransaction, worker: str | None) -> None:
    """Give back all leases of a worker; None gives back everybody's, for a process that is alone on the catalog."""
    for table in (shards, imports):
        mine = table.c.worker.is_not(None) if worker is None else table.c.worker == worker
        tx.connection.execute(update(table).where(mine).values(worker=None, leased_until=None))


def hold_counts(tx: WriteTransaction, import_pk: int) -> Mapping[str, int]:
    """Take the job's turn to commit, first thing in a transaction that ends with `decided`; returns its counts.

    Raises:
        LeaseLostError: the job was cancelled, failed, or is gone with its gallery.
    """
    query = select(imports.c.state, imports.c.counts).where(imports.c.pk == import_pk).with_for_update()
    row = tx.connection.execute(query).one_or_none()
    if row is None or row.state != "running":
        raise LeaseLostError("the import does not run any more")
    counts: Mapping[str, int] = row.counts
    return counts


def decided(
    tx: WriteTransaction,
    shard: Shard,
    place: int,
    rows: Sequence[Row],
    tally: Counter[str],
    *,
    before: Mapping[str, int],
    worker: str,
    seconds: float,
) -> bool:
    """Keep what became of the next rows of a shard, within the transaction that keeps their templates.

    Args:
        tx: the transaction.
        shard: leased by this worker.
        place: rows of the shard that were decided before.
        rows: what became of the rows that follow.
        tally: the same by outcome.
        before: what `hold_counts` gave.
        worker: who commits.
        seconds: for which the lease holds from now.

    Returns:
        Whether that was the job's last row.

    Raises:
        LeaseLostError: the lease was taken over; the transaction must not be committed.
    """
    reached = place + len(rows)
    ended = reached == shard.count
    values: dict[str, object] = {
        "done": reached,
        "leased_until": None if ended else tx.now + timedelta(seconds=seconds),
    }
    if ended:
        # What a row said about a person has gone where it belongs, and stays nowhere else.
        values |= {"worker": None, "entries": packed([])}
    mine = (shards.c.pk == shard.pk) & (shards.c.worker == worker) & (shards.c.done == place)
    if tx.connection.execute(update(shards).where(mine).values(values)).rowcount != 1:
        raise LeaseLostError("the shard was taken over by another worker")
    kept = {"shard_pk": shard.pk, "first": place, "rows": packed(rows)}
    tx.connection.execute(insert(outcomes).values(kept))
    counts = dict(Counter(before) + tally)
    tx.connection.execute(update(imports).where(imports.c.pk == shard.import_pk).values(counts=counts))
    return ended and finish_if_done(tx, shard.import_pk)


def finish_if_done(tx: WriteTransaction, import_pk: int) -> bool:
    """End a running job of which every row is decided; returns whether it was one."""
    left = select(func.count()).where(shards.c.import_pk == import_pk, shards.c.done < shards.c.count)
    if tx.connection.execute(left).scalar_one():
        return False
    still = (imports.c.pk == import_pk) & (imports.c.state == "running")
    return bool(tx.connection.execute(update(imports).where(still).values(state="done", ended_at=tx.now)).rowcount)


# --- the report ---


def shards_of(reading: Reading, import_pk: int) -> list[int]:
    """Return the keys of a job's shards, in the order of the manifest."""
    query = select(shards.c.pk).where(shards.c.import_pk == import_pk).order_by(shards.c.first)
    return [int(pk) for pk in reading.connection.execute(query).scalars()]


def report(reading: Reading, shard_pk: int) -> list[tuple[int, Row]]:
    """Return what became of each row of a shard so far, as (number in the manifest from 0, outcome)."""
    query = (
        select(shards.c.first, outcomes.c.first.label("place"), outcomes.c.rows)
        .join_from(outcomes, shards, outcomes.c.shard_pk == shards.c.pk)
        .where(shards.c.pk == shard_pk)
        .order_by(outcomes.c.first)
    )
    parts = reading.connection.execute(query).all()
    return [line for part in parts for line in enumerate(unpacked(part.rows), part.first + part.place)]


def packed(rows: Sequence[Row]) -> bytes:
    """Rows as bytes."""
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1)


def unpacked(data: bytes) -> list[Row]:
    """The rows again."""
    rows: list[Row] = json.loads(zlib.decompress(data))
    return rows


def _hold(tx: WriteTransaction, pks: Sequence[int], worker: str, seconds: float) -> None:
    lease_ends = tx.now + timedelta(seconds=seconds)
    tx.connection.execute(update(shards).where(shards.c.pk.in_(pks)).values(worker=worker, leased_until=lease_ends))


def _end(tx: WriteTransaction, import_pk: int, state: State, *, error: Mapping[str, str] | None = None) -> None:
    still = and_(imports.c.pk == import_pk, imports.c.state.in_(UNENDED))
    values = {"state": state, "error": error, "ended_at": tx.now, "worker": None, "leased_until": None}
    if tx.connection.execute(update(imports).where(still).values(values)).rowcount:
        undone = (shards.c.import_pk == import_pk) & (shards.c.done < shards.c.count)
        tx.connection.execute(update(shards).where(undone).values(entries=packed([]), worker=None, leased_until=None))
