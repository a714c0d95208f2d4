"""An index of its own for a bench, in a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.gallery.index.indexes import LocalIndexes
from service.gallery.index.local import LocalIndex
from service.gallery.index.protocol import Owner


@contextmanager
def index_of(dim: int) -> Iterator[tuple[LocalIndex, Callable[[], None]]]:
    """An empty index, searched by one thread, and what waits until nothing is being sealed or merged any more."""
    with tempfile.TemporaryDirectory(prefix="vultus-bench-") as folder:
        indexes = LocalIndexes(Path(folder))
        index = indexes.of(Owner("bench", 1, "bench", dim), 0)
        try:
            yield index, indexes.settle
        finally:
            index.close()
            indexes.close()
