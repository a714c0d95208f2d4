"""The application: every part is opened, handed to the others and closed here, and nowhere else."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from service import __version__
from service.api import calibration, documentation, faces, galleries, imports, operation, people, problems, visits
from service.api.access import Access
from service.api.metrics import Metrics
from service.api.middleware import Envelope, OwnNames, WholeIds
from service.artifact.store import ModelStore
from service.errors import VultusError
from service.gallery.catalog import Catalog
from service.gallery.folder import DataFolder
from service.gallery.galleries import page
from service.gallery.idempotency import Claims
from service.gallery.index.indexes import LocalIndexes
from service.gallery.index.protocol import Indexes
from service.gallery.people import homes_of
from service.gallery.records import GalleryRecord
from service.gallery.views import Views
from service.gallery.visits import CatalogVisits, Visits
from service.identify.fusion import fuse
from service.identify.prior import Habits
from service.identify.travel import Gravity
from service.imports.jobs import forget_reports
from service.imports.paths import Root
from service.imports.sight import Setup
from service.imports.worker import Worker
from service.loading import Ahead, Loaded, load_models
from service.memory import give_back
from service.recognition.asked import Asked
from service.recognition.calibrated import Calibrated
from service.recognition.expectations import Expectations
from service.recognition.following import Follower, follow
from service.recognition.forget import forget_expired
from service.recognition.keeping import Kept, Wanted, keep
from service.recognition.known import KnownGalleries
from service.recognition.own import measure_due
from service.recognition.portrait import DOMINANT
from service.recognition.product import Policy, Product, calibration_of
from service.recognition.visits import forget_old
from service.settings import Settings, SettingsError
from service.shared.store import InProcess, Shared
from service.vision.batching import Batcher, Workers
from service.vision.encode import Encoder
from service.vision.process import Process
from service.vision.reader import reader
from service.vision.see import Limits
from service.vision.seeing import Setup as Seeing

Result = TypeVar("Result")

log = logging.getLogger(__name__)

STORAGE_THREADS: Final = 2
"""More readers take the interpreter from one another: eight gave a sixth fewer faces a second on two cores."""

ENROLMENTS_AT_ONCE: Final = 32
"""Most enrolments in one commit: others wait for it."""

EXPIRY_SECONDS: Final = 30.0

DESCRIPTION: Final = """
Finds whose face a photo shows, among ten people or ten million, and says how sure it is.

Errors are `application/problem+json` with a stable `code`. Every answer carries `X-Request-Id`. Writes take an
`Idempotency-Key`.
"""


def create_app(settings: Settings, *, seeing: Sequence[Process] = (), ahead: Ahead | None = None) -> FastAPI:
    """The application over these settings; it opens its parts when its lifespan starts.

    Args:
        settings: the settings.
        seeing: processes that will see photos, started beforehand; it starts those that are missing.
        ahead: engines that are being loaded already.
    """
    app = FastAPI(
        title="Vultus",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        responses=problems.described(400, 429, 500, 503),
    )
    app.state.settings, app.state.seeing, app.state.ahead = settings, seeing, ahead
    app.state.metrics = Metrics()
    problems.install(app)
    for part in (galleries, people, faces, visits, calibration, imports, operation):
        app.include_router(part.router)
    documentation.complete(app)
    if is_loopback(settings.host):
        # A page in the operator's browser must not reach an open service under a name of its own (DNS rebinding).
        app.add_middleware(OwnNames, own=is_loopback)
    app.add_middleware(WholeIds)
    app.add_middleware(Envelope, metrics=app.state.metrics, max_body=settings.max_request_bytes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    async with AsyncExitStack() as stack:
        product = await _open(app, settings, stack)
        app.state.product = product
        try:
            yield
        finally:
            app.state.product = None


async def _open(app: FastAPI, settings: Settings, stack: AsyncExitStack) -> Product:
    streams = settings.streams
    folder = await asyncio.to_thread(DataFolder.open, settings.data, secret=settings.secret)
    stack.callback(folder.close)
    catalog = await asyncio.to_thread(Catalog.open, settings.catalog or folder.catalog, secret=folder.secret, fuse=fuse)
    stack.callback(catalog.close)
    shared = await asyncio.to_thread(_shared, settings.redis, catalog.id)
    stack.callback(shared.close)
    access = Access(catalog, shared, rate=settings.rate)
    await asyncio.to_thread(refuse_open_network, settings, access)

    recognition, detection = await asyncio.to_thread(load_models, settings, app.state.ahead)
    store = ModelStore(settings.models)
    app.state.access, app.state.models = access, store
    app.state.engines = {part.manifest.name: part.chosen for part in (recognition, detection)}

    storage = stack.enter_context(ThreadPoolExecutor(STORAGE_THREADS, thread_name_prefix="storage"))
    writing = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="writing"))
    indexes = await asyncio.to_thread(_indexes, settings, folder, catalog, streams)
    views = Views(catalog, indexes, snapshot_every=settings.snapshot_every)
    stack.callback(views.close)
    limits = Limits(settings.max_photo_bytes, settings.max_photo_pixels, settings.max_faces)
    seen = await stack.enter_async_context(
        reader(
            Seeing((detection.chosen.engine.name, store.file(detection.manifest)), limits),
            Encoder(recognition.chosen.engine),
            max_batch=settings.batch,
            capacity=settings.queue,
            workers=streams,
            started=app.state.seeing,
        )
    )
    committing = await stack.enter_async_context(Workers(1, "keeping"))
    keeping: Batcher[Wanted[Any], Kept[Any]] = Batcher(
        partial(keep, catalog),
        committing,
        name="enrolments",
        max_batch=ENROLMENTS_AT_ONCE,
        capacity=settings.queue,
        shape=lambda wanted: wanted.gallery.pk,
    )
    await stack.enter_async_context(keeping)
    calibrated, history = Calibrated(calibration_of(recognition.manifest)), _history(settings, shared)
    known = KnownGalleries()
    product = Product(
        model=recognition.manifest,
        calibrated=calibrated,
        reader=seen,
        catalog=catalog,
        views=views,
        known=known,
        visits=history,
        expectations=Expectations(catalog, history, calibrated, Habits(), Gravity()),
        asked=Asked(shared),
        claims=Claims(shared),
        shared=shared,
        follower=Follower(catalog, views, known, calibrated, recognition.manifest.digest),
        storage=storage,
        keeping=keeping,
        writing=writing,
        policy=Policy(
            photos=settings.max_photos,
            faces_per_person=settings.max_faces_per_person,
            min_quality=settings.min_quality,
            fpir=settings.fpir,
            fmr=settings.fmr,
            certainty=settings.certainty,
            visit_days=settings.visit_days,
        ),
    )
    await asyncio.to_thread(_open_views, product)
    # An index server may be gone while something is committed, and has to be caught up when it is back.
    if catalog.shared or settings.index == "milvus":
        await _keep_in_step(product, settings.poll, stack)
    app.state.imports = importer = _importer(product, settings, recognition, detection, limits, streams)
    if importer.root.path is not None:
        importer.start()
        stack.push_async_callback(asyncio.to_thread, importer.stop)
    preparing = asyncio.create_task(_prepare(product), name="preparing")
    stack.push_async_callback(_stop, preparing)
    expiry = asyncio.create_task(_forget_expired(product, settings.import_days), name="expiry")
    stack.push_async_callback(_stop, expiry)
    measuring = asyncio.create_task(_measure_grown(product, settings.measure_growth), name="measuring")
    stack.push_async_callback(_stop, measuring)
    stack.callback(product.ending.set)
    return product


def _importer(
    product: Product, settings: Settings, recognition: Loaded, detection: Loaded, limits: Limits, streams: int
) -> Worker:
    root = Root.of(settings.import_root)
    setup = Setup(
        root=root.path or Path("/nowhere"),
        models=settings.models,
        recognition=(recognition.manifest.name, recognition.chosen.engine.name),
        detection=(detection.manifest.name, detection.chosen.engine.name),
        limits=limits,
        min_quality=settings.min_quality,
    )
    decides = repr((recognition.manifest.digest, detection.manifest.digest, limits, settings.min_quality, DOMINANT))
    rule = hashlib.sha256(decides.encode()).hexdigest()
    return Worker(product, root, setup, rule=rule, helpers=streams, alone=not product.catalog.shared)


def _indexes(settings: Settings, folder: DataFolder, catalog: Catalog, streams: int) -> Indexes:
    if settings.index == "local":
        return LocalIndexes(
            folder.snapshots, threads=streams, device=settings.index_device, order=partial(_homes, catalog)
        )
    if not settings.milvus:
        raise SettingsError("VULTUS_INDEX=milvus needs the address of the server in VULTUS_MILVUS")
    try:
        # Its client takes a second to import, and only those who asked for it have it.
        from service.gallery.index.milvus import MilvusIndexes  # noqa: PLC0415
        from service.gallery.index.milvus_server import MilvusServer  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            "VULTUS_INDEX=milvus needs the extra `milvus`: pip install -c deploy/constraints.txt -e '.[milvus]'"
        ) from error
    return MilvusIndexes(MilvusServer(settings.milvus, settings.milvus_token), catalog)


def _history(settings: Settings, shared: Shared) -> Visits:
    if settings.visits == "catalog":
        return CatalogVisits()
    # Redis' client takes a tenth of a start to import, and only those who asked for it need it.
    from service.gallery.redis_visits import RedisVisits  # noqa: PLC0415
    from service.shared.redis_store import InRedis  # noqa: PLC0415

    if not isinstance(shared, InRedis):
        raise SettingsError("VULTUS_VISITS=redis needs the address of a Redis in VULTUS_REDIS")
    return RedisVisits(shared)


def _shared(url: str, space: str) -> Shared:
    if not url:
        return InProcess()
    from service.shared.redis_store import InRedis  # noqa: PLC0415 - as above

    return InRedis(url, space)


async def _keep_in_step(product: Product, seconds: float, stack: AsyncExitStack) -> None:
    """Follow what other replicas change, and tell them what is changed here."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    await asyncio.to_thread(product.follower.look)

    def hear(_notice: str) -> None:
        loop.call_soon_threadsafe(told.set)

    product.shared.listen(hear)
    product.catalog.after_commits(lambda: product.shared.tell("changed"))
    following = asyncio.create_task(follow(product.follower, told, seconds=seconds), name="following")
    stack.push_async_callback(_stop, following)


def _homes(catalog: Catalog, gallery_pk: int, rows: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Where people belong in an index, so that those of one region are scored together."""
    with catalog.read() as reading:
        return homes_of(reading, gallery_pk, rows)


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_open_network(settings: Settings, access: Access) -> None:
    """Refuse to serve everybody on a network without a key.

    Raises:
        SettingsError: the address is no loopback address and there is no API key.
    """
    if not is_loopback(settings.host) and not settings.open and not access.any_key():
        raise SettingsError(
            f"listening on {settings.host} without API keys would open the galleries to the network: make a key with "
            "`vultus keys create`, or set VULTUS_OPEN=1 if something else guards the service"
        )


def _open_views(product: Product) -> None:
    """Open every gallery of this model before the first request, so that none pays for it."""
    product.views.sweep()
    for gallery in _galleries(product):
        if gallery.model_digest == product.model.digest:
            product.views.of(gallery.pk)
        else:
            log.warning("gallery %s is bound to another model than %s", gallery.name, product.model.name)


def _galleries(product: Product) -> Iterator[GalleryRecord]:
    after: str | None = None
    while True:
        with product.catalog.read() as reading:
            found = page(reading, after=after)
        yield from found.items
        if found.next is None:
            return
        after = found.next


async def _prepare(product: Product) -> None:
    """Read who lives where, beside the first requests, so that the first with a context need not wait for it."""
    try:
        for gallery in await asyncio.to_thread(lambda: list(_galleries(product))):
            if gallery.model_digest == product.model.digest:
                await asyncio.to_thread(product.expectations.prepare, gallery.pk)
    except VultusError as error:
        log.warning("who lives where could not be read beforehand: %s", error.detail)


async def _measure_grown(product: Product, growth: float) -> None:
    """Measure galleries again that have grown, one at a time and resting as long as it works."""
    while growth:
        await asyncio.sleep(EXPIRY_SECONDS)
        try:
            measured = await _to_its_end(partial(measure_due, product, growth, rest=1.0))
        except VultusError as error:
            log.warning("a gallery could not be measured on its own people: %s", error.detail)
        else:
            if measured:
                await asyncio.to_thread(give_back)


async def _forget_expired(product: Product, import_days: int) -> None:
    while True:
        try:
            await forget_expired(product)
            await forget_old(product)
            await forget_reports(product, import_days)
        except VultusError as error:
            log.warning("people or visits whose time has passed could not be forgotten: %s", error.detail)
        await asyncio.sleep(EXPIRY_SECONDS)


async def _to_its_end(work: Callable[[], Result]) -> Result:
    """Run work on a thread. Where this is cancelled the thread is waited for: what it uses is closed afterwards."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with suppress(VultusError):
            await running
        raise


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
