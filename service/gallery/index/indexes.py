"""The folder of all indexes of this process, and what they share."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from service.gallery.index import memory
from service.gallery.index.builder import Builder
from service.gallery.index.building import Order
from service.gallery.index.devices import Device, parts_on
from service.gallery.index.local import LocalIndex, Means, Sizes
from service.gallery.index.protocol import Owner
from service.gallery.index.threads import Threads

OURS: Final = re.compile(r"\.?(\d+)\.(\d+\.segment|snapshot)(\..*)?")
"""Files of indexes, whole or half written, and the gallery that each belongs to."""

log = logging.getLogger(__name__)


class LocalIndexes:
    """See `Indexes`.

    Args:
        folder: where they are kept.
        threads: how many serve one search.
        device: where coarse codes lie; see `devices`.
        order: which rows shall lie together; see `building.Order`.
        sizes: when what is sealed and merged; None goes by the dimension.
        allowed: bytes of memory that the process may have; None asks the system.

    Raises:
        EngineAbsentError: the device is not there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 1,
        device: Device = "cpu",
        order: Order | None = None,
        sizes: Sizes | None = None,
        allowed: int | None = None,
    ) -> None:
        self._folder = folder
        parts = parts_on(device)
        self._means = Means(
            Threads(threads), Builder(), parts, order, sizes, memory.limit() if allowed is None else allowed
        )

    def of(self, owner: Owner, newest: int) -> LocalIndex:
        """See `Indexes.of`.

        Raises:
            IndexMemoryError: it does not fit into the memory that is allowed.
        """
        return LocalIndex(owner, self._folder, newest, self._means)

    def require_ready(self) -> None:
        """See `Indexes.require_ready`; there is no server that could be gone."""

    def drop(self, gallery_pk: int) -> None:
        """See `Indexes.drop`."""
        for path, pk in self._files():
            if pk == gallery_pk:
                path.unlink(missing_ok=True)

    def sweep(self, alive: Collection[int]) -> None:
        """See `Indexes.sweep`."""
        for path, pk in self._files():
            if pk not in alive or path.name.startswith("."):
                log.info("deleting %s, which belongs to no gallery", path.name)
                path.unlink(missing_ok=True)

    def settle(self) -> None:
        """Wait until all that has grown is sealed and merged."""
        self._means.builder.settle()

    def close(self) -> None:
        """See `Indexes.close`."""
        self._means.builder.close()
        self._means.threads.close()

    def _files(self) -> list[tuple[Path, int]]:
        found = ((path, OURS.fullmatch(path.name)) for path in self._folder.iterdir())
        return [(path, int(match[1])) for path, match in found if match]
