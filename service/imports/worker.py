"""The worker: one thread a process that reads manifests, leases shards, keeps the helpers busy, and commits.

    leases -> slices of rows -> looked at, many at once -> decided and committed, strictly in order -> the next lease

Everything that a worker knows besides is in the catalog, so it may be killed at any moment: what was not committed is
looked at again, by the next worker that takes the lease.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from service.errors import (
    GalleryModelError,
    GalleryNotFoundError,
    ImportManifestError,
    ImportPathError,
    LeaseLostError,
    StorageError,
    VultusError,
)
from service.gallery import bulk, galleries, imports
from service.gallery.catalog import WriteTransaction
from service.gallery.imports import ImportRecord, Shard
from service.gallery.records import GalleryRecord
from service.gallery.view import GalleryView
from service.imports.entries import Entry
from service.imports.helpers import Helpers
from service.imports.looking import Looking, Looks, Seen
from service.imports.paths import Root
from service.imports.rate import Rate
from service.imports.sight import Setup
from service.imports.sources import Source, source_of
from service.imports.verdicts import LookAlikes, UnseenError, decide, settled
from service.recognition.product import Product


@dataclass(frozen=True)
class Cut:
    """How rows are cut.

    Attributes:
        shard: rows of a shard; it ends with a person, unless that person has as many again.
        together: rows that are looked at together.
        ahead: so many of these are under way at once: enough that helpers have work while one is committed.
        commit: most rows in one transaction.
    """

    shard: int
    together: int
    ahead: int
    commit: int


PHOTOS: Final = Cut(shard=1024, together=64, ahead=8, commit=1024)

READY: Final = Cut(shard=4096, together=8192, ahead=2, commit=8192)
"""Of ready embeddings, whose commits take longer than all the rest: a shard is one."""

LEASE_SECONDS: Final = 60.0
RENEW_SECONDS: Final = 15.0
"""A lease is renewed this often while nothing can be committed."""

LOOK_SECONDS: Final = 0.5
"""A worker that waits for a look is told to stop within this long."""

POLL_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 60.0
"""Helpers that had nothing to do for this long are ended."""

LONGEST_PAUSE: Final = 30.0

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Slice:
    """Rows of one shard that are looked at together; `place` counts the rows of the shard before them."""

    shard: Shard
    place: int
    entries: Sequence[Entry]
    looks: Looks


class _StoppingError(Exception):
    """The process is about to end."""


class Worker:
    """Works on every import of the galleries of one model; started and stopped once.

    Args:
        product: the parts.
        root: the import root.
        setup: what helpers need to know.
        rule: digest of what a refusal depends on besides the photo.
        helpers: processes that look at photos.
        alone: no other process works on the catalog, so leases found at the start are of the dead.
    """

    def __init__(self, product: Product, root: Root, setup: Setup, *, rule: str, helpers: int, alone: bool) -> None:
        self.root = root
        self._rates: dict[int, Rate] = {}
        self.trouble: dict[int, VultusError] = {}
        self._product = product
        self._setup = setup
        self._rule = rule
        self._count = helpers
        self._alone = alone
        self._name = f"w_{secrets.token_hex(8)}"
        self._helpers: Helpers | None = None
        self._poked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imports")

    def start(self) -> None:
        """Begin, with what an earlier process left unfinished."""
        self._thread.start()

    def poke(self) -> None:
        """There is something to do."""
        self._poked.set()

    def stop(self) -> None:
        """End; what is not committed is left to the next worker."""
        self._stopping.set()
        self._poked.set()
        if self._thread.is_alive():
            self._thread.join()

    def rate_of(self, job: ImportRecord) -> Rate:
        """How fast a job goes on that runs, here or in another process, as of this record of it and earlier ones."""
        rate = self._rates.setdefault(job.pk, Rate())
        rate.see(sum(job.counts.values()))
        return rate

    # --- which job ---

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(self._count, thread_name_prefix="import-read") as pool:
                self._attend_all(pool)
        except _StoppingError:
            pass
        finally:
            self._end_helpers()
            self._release(self._name)

    def _attend_all(self, pool: ThreadPoolExecutor) -> None:
        idle_since = time.monotonic()
        if self._alone:
            self._release(None)
        while not self._stopping.is_set():
            self._poked.clear()
            if any([self._attend(job, pool) for job in self._jobs()]):  # noqa: C419 - every one has its turn
                idle_since = time.monotonic()
                continue
            if time.monotonic() - idle_since > IDLE_SECONDS:
                self._end_helpers()
            self._poked.wait(POLL_SECONDS)

    def _release(self, worker: str | None) -> None:
        try:
            self._write(lambda tx: imports.release(tx, worker))
        except VultusError as error:
            log.warning("leases could not be given back and will run out: %s", error.detail)

    def _jobs(self) -> Sequence[ImportRecord]:
        def look() -> Sequence[ImportRecord]:
            with self._product.catalog.read() as reading:
                return imports.unended(reading, self._product.model.digest)

        found = self._patiently(None, look) or ()
        unended = {job.pk for job in found}
        for known in (self._rates, self.trouble):
            for pk in list(known.keys() - unended):
                known.pop(pk, None)
        for job in found:
            if job.state == "running":
                self.rate_of(job)
        return found

    def _attend(self, job: ImportRecord, pool: ThreadPoolExecutor) -> bool:
        """Work on a job as long as there is work for this worker; returns whether there was any."""
        try:
            with self._product.catalog.read() as reading:
                gallery = galleries.by_pk(reading, job.gallery_pk)
            if job.state == "planning":
                return self._plan(job, gallery)
            return self._work(job, gallery, pool)
        except (_StoppingError, LeaseLostError, GalleryNotFoundError):
            return False
        except VultusError as error:
            if job.state == "planning" and isinstance(error, ImportPathError | ImportManifestError):
                self._fail(job, error.code, error.detail)
                return False
            log.warning("import %s has to wait: %s", job.import_id, error.detail)
            self.trouble[job.pk] = error
            self._stopping.wait(POLL_SECONDS)
        except Exception:
            # Whatever it was, this import would meet it again and hold up all others.
            log.exception("import %s failed", job.import_id)
            self._fail(job, VultusError.code, "the import met an error that nobody foresaw; the log has it")
        return False

    def _fail(self, job: ImportRecord, code: str, detail: str) -> None:
        self._patiently(job, lambda: self._write(lambda tx: imports.fail(tx, job.pk, code=code, detail=detail)))

    # --- planning ---

    def _plan(self, job: ImportRecord, gallery: GalleryRecord) -> bool:
        def claim(*, anew: bool = False) -> bool:
            return self._write(lambda tx: imports.claim(tx, job.pk, self._name, seconds=LEASE_SECONDS, anew=anew))

        if not claim(anew=True):
            return False
        total = 0
        source = self._source(job)
        for rows in cut_into_shards(self._entries(source, gallery), _cut(source).shard):
            if self._stopping.is_set():
                raise _StoppingError

            def keep(tx: WriteTransaction, rows: list[Entry] = rows, first: int = total) -> bool:
                mine = imports.claim(tx, job.pk, self._name, seconds=LEASE_SECONDS, anew=False)
                if mine:
                    imports.add_shard(tx, job.pk, first, rows)
                return mine

            if not self._write(keep):
                return False
            total += len(rows)
        self._write(lambda tx: imports.planned(tx, job.pk, total))
        return True

    def _source(self, job: ImportRecord) -> Source:
        return source_for(self.root, job.request)

    def _entries(self, source: Source, gallery: GalleryRecord) -> Iterator[Entry]:
        return source.entries(lambda digits: self._product.catalog.digits_hash(gallery.pk, digits), gallery.dim)

    # --- work ---

    def _work(self, job: ImportRecord, gallery: GalleryRecord, pool: ThreadPoolExecutor) -> bool:
        if self._helpers is None:
            self._helpers = Helpers(self._setup, self._count)
        source = self._source(job)
        looking = Looking(
            self._product,
            gallery,
            source,
            self._rule,
            job.request["look_alikes"] == "refuse",
            self._helpers,
            pool,
        )
        rate = self.rate_of(job)
        cut = _cut(source)
        slices = self._slices(job, looking, cut.together)
        under_way: deque[_Slice] = deque()
        worked = False
        try:
            while True:
                under_way.extend(itertools.islice(slices, cut.ahead - len(under_way)))
                if not under_way:
                    return self._finished(job) or worked
                done = self._commit(job, gallery, looking, under_way, cut.commit)
                if done is not None:
                    rate.see(done)
                worked = True
        finally:
            for each in under_way:
                each.looks.cancel()
            if under_way:
                # Whatever ended this, the rows are free for the next try, of this worker or another.
                self._release(self._name)

    def _slices(self, job: ImportRecord, looking: Looking, rows: int) -> Iterator[_Slice]:
        while True:
            shard = self._patiently(
                job,
                lambda: self._write(lambda tx: imports.lease(tx, job.pk, self._name, seconds=LEASE_SECONDS)),
            )
            if shard is None:
                return
            entries = [Entry.of(row) for row in shard.left()]
            for first in range(0, len(entries), rows):
                part = entries[first : first + rows]
                yield _Slice(shard, shard.done + first, part, looking.begin(part))

    def _finished(self, job: ImportRecord) -> bool:
        # Two workers that commit the last two shards at once may each see the other's as not done.
        return self._write(lambda tx: imports.finish_if_done(tx, job.pk))

    def _commit(
        self, job: ImportRecord, gallery: GalleryRecord, looking: Looking, under_way: deque[_Slice], most: int
    ) -> int | None:
        """Decide and commit the first slice, and those right after it in its shard that are seen already.

        Returns:
            Rows of the job that are done, whoever did them; None where the slice has to be looked at once more.
        """
        group = [under_way[0]]
        seen = self._seen(under_way[0], under_way)
        for each in itertools.islice(under_way, 1, None):
            fits = each.shard is group[0].shard and len(seen) + len(each.entries) <= most
            if not fits or not each.looks.ready():
                break
            group.append(each)
            seen += self._seen(each, under_way)
        try:
            done = self._keep(job, gallery, group[0], seen)
        except UnseenError:
            again = looking.begin([item.entry for item in seen], spare=False)
            under_way[0] = replace(group[0], looks=again, entries=[item.entry for item in seen])
            for _ in group[1:]:
                del under_way[1]
            return None
        for _ in group:
            under_way.popleft()
        self.trouble.pop(job.pk, None)
        return done

    def _seen(self, wanted: _Slice, under_way: Sequence[_Slice]) -> list[Seen]:
        renewed = time.monotonic()
        while not self._stopping.is_set():
            try:
                return wanted.looks.result(LOOK_SECONDS)
            except TimeoutError:
                if time.monotonic() - renewed > RENEW_SECONDS:
                    self._renew(sorted({each.shard.pk for each in under_way}))
                    renewed = time.monotonic()
        raise _StoppingError

    def _renew(self, held: Sequence[int]) -> None:
        self._write(lambda tx: imports.renew(tx, held, self._name, seconds=LEASE_SECONDS))

    def _keep(self, job: ImportRecord, gallery: GalleryRecord, first: _Slice, seen: Sequence[Seen]) -> int:
        product = self._product
        limit = product.policy.faces_per_person

        def alike() -> tuple[GalleryView, LookAlikes | None]:
            view = product.views.of(gallery.pk)
            view.require_ready(len({item.entry.person for item in seen if item.entry.fault is None}))
            if job.request["look_alikes"] != "refuse":
                return view, None
            if any(item.line is None for item in seen):
                view.catch_up()
            return view, LookAlikes(product, gallery, view, seen)

        def keep() -> tuple[bulk.Added | None, int]:
            with product.catalog.write() as tx:
                now = galleries.by_pk(tx, gallery.pk)
                if now.model_digest != gallery.model_digest:
                    raise GalleryModelError(f"gallery {gallery.name!r} has moved to another model")
                before = imports.hold_counts(tx, job.pk)
                verdicts, added = settled(seen, now.revision), None
                if verdicts is None:
                    persons = {item.entry.person for item in seen if item.entry.fault is None}
                    owners = bulk.read(tx, gallery.pk, persons, gallery.dim)
                    verdicts = decide(tx, seen, owners, dim=gallery.dim, limit=limit, rule=self._rule, alike=rivals)
                    added = bulk.add(tx, gallery, owners, verdicts.additions, verdicts.newcomers)
                    keys = bulk.keys_of(tx, gallery.pk, verdicts.rivals.values())
                    bulk.remember(tx, gallery.pk, verdicts.refusals_with(keys))
                tally = verdicts.tally()
                imports.decided(
                    tx,
                    first.shard,
                    first.place,
                    verdicts.done,
                    tally,
                    before=before,
                    worker=self._name,
                    seconds=LEASE_SECONDS,
                )
            return added, sum(before.values()) + tally.total()

        view, rivals = self._patiently(job, alike)
        added, done = self._patiently(job, lambda: product.writing.submit(keep).result())
        if added is not None:
            self._patiently(job, lambda: view.show(added.revision, added.rows, added.embeddings))
        return done

    # --- storage that does not answer ---

    def _write(self, work: Callable[[WriteTransaction], Result]) -> Result:
        def write() -> Result:
            with self._product.catalog.write() as tx:
                return work(tx)

        return self._product.writing.submit(write).result()

    def _patiently(self, job: ImportRecord | None, work: Callable[[], Result]) -> Result:
        """Do something, again and again while the storage is full or away."""
        pause = 1.0
        while True:
            try:
                return work()
            except StorageError as error:
                log.warning("imports wait for the storage: %s", error.detail)
                if job is not None:
                    self.trouble[job.pk] = error
                if self._stopping.wait(pause):
                    raise _StoppingError from error
                pause = min(2 * pause, LONGEST_PAUSE)

    def _end_helpers(self) -> None:
        if self._helpers is not None:
            self._helpers.close()
            self._helpers = None


def source_for(root: Root, request: Mapping[str, object]) -> Source:
    """The source that a request names.

    Raises:
        ImportPathError: it is not under the import root, or not there.
        ImportManifestError: it is nothing that can be imported.
    """
    embeddings = request.get("embeddings")
    array: Path | None = None if embeddings is None else root.find(str(embeddings))
    return source_of(root.find(str(request["path"])), array)


def _cut(source: Source) -> Cut:
    return PHOTOS if source.embeddings is None else READY


def cut_into_shards(entries: Iterator[Entry], rows: int) -> Iterator[list[Entry]]:
    """Cut entries into shards that end with a person where that is possible."""
    part: list[Entry] = []
    for entry in entries:
        if len(part) >= 2 * rows or (len(part) >= rows and entry.person != part[-1].person):
            yield part
            part = []
        part.append(entry)
    if part:
        yield part
