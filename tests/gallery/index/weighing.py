"""Grows, seals, merges and opens an index, and tells as JSON how many bytes of memory each takes.

Run as a program: FOLDER DIM.
"""

import ctypes
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from service.gallery.index import building, memory
from service.gallery.index.indexes import LocalIndexes
from service.gallery.index.local import Sizes
from service.gallery.index.protocol import Owner
from service.memory import give_back

COUNT = 10_000
APART = 10**9


def drawn(count: int, dim: int, seed: int):
    found = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


class Peak:
    """The most memory that was used while it was watched."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self.most = memory.used()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.most = max(self.most, memory.used())


def held() -> int:
    give_back()
    return memory.used()


class _Told(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "o", "s", "mapped", "large", "u", "f", "small", "d", "k")]


def allocated() -> int:
    """Bytes that the C library has given out: what is used besides may be left from earlier, and used again."""
    tell = ctypes.CDLL(None).mallinfo2
    tell.restype = _Told
    told = tell()
    return told.large + told.small


def main(folder: Path, dim: int) -> None:
    taken = {"count": COUNT}

    def grown(index: object, seed: int) -> None:
        for first in range(0, COUNT, 2000):
            index.add(seed * COUNT + first + np.arange(2000), drawn(2000, dim, seed * COUNT + first))

    def built(index: object, sizes: Sizes) -> int:
        index._sizes = sizes
        with Peak() as peak:
            index._means.builder.ask(index)
            index._means.builder.settle()
        return peak.most

    never = Sizes(flat=APART, growing=APART, waiting=APART)
    seal = Sizes(flat=1, growing=1, fan=9, waiting=APART)
    merge = Sizes(flat=1, growing=APART, fan=2, waiting=APART)
    indexes = LocalIndexes(folder)
    # Once over, so that what a process takes once is not counted.
    for gallery in (2, 1):
        index = indexes.of(Owner("c", gallery, "d", dim), 0)
        index._sizes = never
        index._measured = True
        time.sleep(0.2)
        empty = held()
        grown(index, 0)
        growing = held()
        taken["growing"] = growing - empty
        taken["sealing"] = built(index, seal) - growing
        index._sizes = never
        grown(index, 1)
        built(index, seal)
        sealed = held()
        # With two books everybody is coded anew, which takes the most.
        building.WORSE = 0.0
        taken["merging"] = built(index, merge) - sealed
        building.WORSE = 1.1
        assert [len(each.segment) for each in index._state.sealed] == [2 * COUNT]
        index.keep(1)
        index.close()
        del index
        closed = allocated()
        index = indexes.of(Owner("c", gallery, "d", dim), 1)
        indexes.settle()
        taken["sealed"] = allocated() - closed
        assert len(index) == 2 * COUNT
        index.close()
        del index
    indexes.close()
    print(json.dumps(taken))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
