"""The parts that every sentence of the product needs, and the few steps that several sentences share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.artifact.manifest import CalibrationRecord, Manifest
from service.errors import (
    GalleryModelError,
    ModelError,
    NoFaceError,
    NotFoundError,
    NotReadyError,
    RevisionError,
)
from service.gallery import galleries
from service.gallery.catalog import Catalog
from service.gallery.idempotency import Claims
from service.gallery.records import GalleryRecord
from service.gallery.view import GalleryView
from service.gallery.views import Views
from service.gallery.visits import Visits
from service.identify.calibration import Calibration
from service.recognition.asked import Asked
from service.recognition.calibrated import Calibrated
from service.recognition.expectations import Expectations
from service.recognition.following import Follower
from service.recognition.keeping import Kept, Wanted
from service.recognition.known import KnownGalleries
from service.shared.store import Shared
from service.vision.batching import Batcher
from service.vision.reader import Reader
from service.vision.see import SeenFace, SeenPhoto

REACH_SECONDS: Final = 5.0
"""How long a request waits for a revision that its caller has seen."""

Embedding = NDArray[np.float32]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Policy:
    """Defaults and limits of the sentences.

    Attributes:
        photos: most photos in one enrolment.
        faces_per_person: most faces kept for a person.
        min_quality: quality under which enrolment refuses.
        fpir: target false-positive identification rate where neither caller nor gallery names one.
        fmr: target false-match rate of verify where the caller names none.
        certainty: least posterior of a match where the caller names none.
        visit_days: days for which a visit is kept.
    """

    photos: int
    faces_per_person: int
    min_quality: float
    fpir: float
    fmr: float
    certainty: float
    visit_days: int


@dataclass(frozen=True)
class Product:
    """What the sentences work with.

    Attributes:
        model: the recognition model that is loaded.
        calibrated: what its cosines mean, gallery by gallery.
        reader: photos to faces and embeddings.
        catalog: the truth.
        views: the indexes.
        visits: who was where.
        known: galleries that were looked up before.
        expectations: who is expected where.
        asked: visitors who were asked for digits.
        claims: idempotency keys being worked on.
        shared: what replicas tell one another beside the catalog.
        follower: keeps the indexes in step with what other replicas change.
        storage: threads that read the catalog and search indexes, apart from those that compute.
        keeping: commits enrolments.
        writing: the thread for all other changes; the catalog takes one writer at a time, so more would only wait.
        policy: defaults and limits.
        ending: set once the service stops, for work that takes minutes.
    """

    model: Manifest
    calibrated: Calibrated
    reader: Reader
    catalog: Catalog
    views: Views
    visits: Visits
    known: KnownGalleries
    expectations: Expectations
    asked: Asked
    claims: Claims
    shared: Shared
    follower: Follower
    storage: Executor
    keeping: Batcher[Wanted[Any], Kept[Any]]
    writing: Executor
    policy: Policy
    ending: threading.Event = field(default_factory=threading.Event)

    def rest(self, seconds: float) -> None:
        """Rest between two pieces of work that takes minutes.

        Raises:
            NotReadyError: the service stops, and so shall the work.
        """
        if self.ending.wait(seconds):
            raise NotReadyError("the service is stopping")

    @property
    def calibration(self) -> Calibration:
        """What the model's cosines mean, by its own calibration."""
        return self.calibrated.model

    async def stored(self, work: Callable[[], Result]) -> Result:
        """Run something that reads the catalog or searches an index, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.storage, work)

    async def written(self, work: Callable[[], Result]) -> Result:
        """Run something that changes the catalog, off the event loop, in the order of the calls."""
        return await asyncio.get_running_loop().run_in_executor(self.writing, work)

    async def changed(self, work: Callable[[], Result]) -> Result:
        """The same for what an index must show: refused before anything is committed where it could not.

        Raises:
            IndexUnavailableError: the server that keeps the index does not answer.
        """

        def checked() -> Result:
            self.views.require_ready()
            return work()

        return await self.written(checked)

    async def gallery(self, name: str) -> tuple[GalleryRecord, GalleryView]:
        """A gallery that this model may search, with its index; the record's revision may be an old one.

        Raises:
            GalleryNotFoundError: there is none of this name.
            GalleryModelError: it is bound to another model.
        """

        def look() -> tuple[GalleryRecord, GalleryView]:
            with self.catalog.read() as reading:
                found = galleries.get(reading, name)
                self.require_own(found)
                self.calibrated.load(reading, found.pk)
            return found, self.views.of(found.pk)

        known = self.known.get(name)
        return known if known is not None else await self.stored(lambda: self.known.learn(name, look))

    def show(self, gallery: GalleryRecord, revision: int) -> None:
        """Let every search that begins from now on see a gallery as it is at a revision. Blocks.

        A gallery of another model has no index here, so nothing is done for it.
        """
        if gallery.model_digest == self.model.digest:
            self.views.of(gallery.pk).catch_up(revision)

    async def shown(self, gallery: str) -> int | None:
        """The revision at which a gallery is shown here; None for one that is not, or not searched by this model."""
        with suppress(NotFoundError, GalleryModelError):
            _, view = await self.gallery(gallery)
            return view.revision
        return None

    async def reach(self, gallery: str, revision: int) -> None:
        """Show a gallery at a revision that somebody has seen, at another replica perhaps.

        Raises:
            RevisionError: it is not there in time, or nowhere.
            StorageError: the catalog does not answer.
        """
        with suppress(NotFoundError, GalleryModelError):
            _, view = await self.gallery(gallery)
            if view.revision >= revision:
                return
            try:
                async with asyncio.timeout(REACH_SECONDS):
                    await self.stored(lambda: view.catch_up(revision))
            except TimeoutError as error:
                raise RevisionError(
                    f"revision {revision} of the gallery is not reached yet", revision=view.revision
                ) from error

    def require_own(self, gallery: GalleryRecord) -> None:
        """Refuse a gallery of another model: vectors of two models must never be compared.

        Raises:
            GalleryModelError: the gallery is bound to another model.
        """
        if gallery.model_digest != self.model.digest:
            raise GalleryModelError(
                f"gallery {gallery.name!r} is bound to model {gallery.model!r} of another digest; "
                f"{self.model.name} {self.model.version} is loaded",
                bound_to=gallery.model_digest,
                loaded=self.model.digest,
            )


def calibration_of(manifest: Manifest) -> Calibration:
    """The calibration that a manifest carries.

    Raises:
        ModelError: it carries none, so nothing could be said about any error rate.
    """
    record: CalibrationRecord | None = manifest.calibration
    if record is None:
        raise ModelError(
            f"model {manifest.name} has no calibration; `vultus calibrate {manifest.name} PHOTOS` makes one"
        )
    return Calibration(**record.model_dump(exclude={"data", "date", "people"}))


def largest(photo: SeenPhoto) -> SeenFace:
    """The largest face of a photo.

    Raises:
        NoFaceError: it shows none.
    """
    if not photo.faces:
        raise NoFaceError("no face was found in the photo")
    return photo.faces[0]
