"""Following: how a replica keeps in step with a catalog that others change too.

A look at the catalog compares every gallery's revision with what is shown here, and catches up. It is made whenever
somebody tells that there is something new, and from time to time in any case, for a notice may be lost. What was
committed before the last complete look began is shown: that moment's age is how far behind a replica can be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from service.errors import IndexMemoryError, NotFoundError, VultusError
from service.gallery import calibrations, galleries
from service.gallery.catalog import Catalog
from service.gallery.views import Views
from service.recognition.calibrated import Calibrated
from service.recognition.known import KnownGalleries

LEAST_SECONDS: Final = 0.02
"""Between two looks: notices that come faster are answered by one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lag:
    """How far behind a replica is.

    Attributes:
        seconds: everything that was committed longer ago is shown.
        revisions: that are known to be missing, in all galleries together.
    """

    seconds: float
    revisions: int


class Follower:
    """Follows the catalog.

    Args:
        catalog: what is followed.
        views: the indexes that are kept in step.
        known: what this replica remembers of galleries,
        calibrated: and of their own calibrations.
        model_digest: of the model whose galleries are searched here.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        catalog: Catalog,
        views: Views,
        known: KnownGalleries,
        calibrated: Calibrated,
        model_digest: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._views = views
        self._known = known
        self._calibrated = calibrated
        self._model_digest = model_digest
        self._clock = clock
        self._as_of = clock()
        self._heads: dict[int, int] = {}

    def lag(self) -> Lag:
        """How far behind this replica is now; (0, 0) where nobody else can change the catalog."""
        if not self._catalog.shared:
            return Lag(0.0, 0)
        shown = self._views.revisions()
        missing = sum(max(0, head - shown.get(pk, 0)) for pk, head in self._heads.items())
        return Lag(self._clock() - self._as_of, missing)

    def look(self) -> None:
        """Look at the catalog once, and catch up. Blocks.

        Raises:
            StorageError: the catalog does not answer.
            IndexMemoryError: a gallery does not fit into memory; all others were caught up with.
        """
        began = self._clock()
        shown = self._views.revisions()
        with self._catalog.read() as reading:
            found = {record.pk: record for record in galleries.every(reading)}
            for pk, version in calibrations.newest_versions(reading).items():
                if self._calibrated.version(pk) != version:
                    self._calibrated.load(reading, pk)
        self._known.compare({record.name: record for record in found.values()})
        for pk in shown.keys() - found.keys():
            self._views.drop(pk)
        own = {pk: record for pk, record in found.items() if record.model_digest == self._model_digest}
        self._heads = {pk: record.revision for pk, record in own.items()}
        too_large: IndexMemoryError | None = None
        for pk, record in own.items():
            if record.revision < shown.get(pk, 0):
                # Only a restored backup takes revisions back.
                log.warning("gallery %r went back to revision %d; its index is rebuilt", record.name, record.revision)
                self._known.forget(record.name)
                self._views.drop(pk)
            try:
                with suppress(NotFoundError):  # deleted since
                    self._views.of(pk).catch_up(record.revision)
            except IndexMemoryError as error:
                # The other galleries are followed nevertheless.
                too_large = error
        if too_large is not None:
            raise too_large
        self._as_of = began


async def follow(follower: Follower, told: asyncio.Event, *, seconds: float) -> None:
    """Look whenever `told` is set, and at least every so many seconds, until cancelled."""
    loop, lost = asyncio.get_running_loop(), False
    with ThreadPoolExecutor(1, thread_name_prefix="following") as thread:
        while True:
            told.clear()
            try:
                await loop.run_in_executor(thread, follower.look)
            except VultusError as error:
                if not lost:
                    log.warning("the catalog cannot be followed for now: %s", error.detail)
                lost = True
            else:
                if lost:
                    log.warning("the catalog is followed again")
                lost = False
            await asyncio.sleep(LEAST_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), seconds)
