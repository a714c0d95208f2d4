"""Labelled photos wherever they lie: which there are, whose they are, and their encoded bytes by number.

Folder, records.RecordFile, shards.Shards   where photos lie; `open_source` picks one of them by what the path is
Part, Joined                                some photos of a source, and several sources as one
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.folder import Folder
from training.photos import check
from training.records import RecordFile, digest_of
from training.shards import Shards


class Source(Protocol):
    """Labelled photos that can be read in any order."""

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of photos."""
        ...

    def read(self, index: int) -> bytes:
        """Encoded bytes of a photo."""
        ...

    def place(self, index: int) -> str:
        """Where a photo lies, for messages."""
        ...

    def digest(self) -> str:
        """Which photos these are and whose, in hexadecimal; it does not depend on where they lie."""
        ...


class Part:
    """Some photos of a source.

    Args:
        source: where they lie.
        chosen: (n,) their numbers there.
    """

    def __init__(self, source: Source, chosen: NDArray[np.int64]) -> None:
        if not len(chosen):
            raise DataError("no photo of the data set is left")
        self.source, self.chosen = source, chosen
        self.labels: NDArray[np.int64] = source.labels[chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> bytes:
        """Encoded bytes of a photo."""
        return self.source.read(int(self.chosen[index]))

    def place(self, index: int) -> str:
        """Where a photo lies, for messages."""
        return self.source.place(int(self.chosen[index]))

    def digest(self) -> str:
        """Of the whole source and of what is chosen of it."""
        return digest_of(self.labels, self.source.digest().encode(), self.chosen.tobytes())


def usable(source: Source, *, threads: int = 4, block: int = 10_000) -> tuple[Part, list[tuple[str, str]]]:
    """Decode every photo once and leave out those that cannot be, and those that several people share.

    Photos are compared by 64 bits of their digests: of 42 million, two that differ meet with a chance of 1 in 20,000.

    Returns:
        The photos that can be used, and (place, reason) of the others.

    Raises:
        DataError: not one photo can be used.
    """
    faults: dict[int, str] = {}
    digests = np.zeros(len(source), np.uint64)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(source), block):
            numbers = range(start, min(start + block, len(source)))
            for index, found in zip(
                numbers, pool.map(lambda each: check(partial(source.read, each)), numbers), strict=True
            ):
                if found.fault:
                    faults[index] = found.fault
                else:
                    digests[index] = int(found.digest[:16], 16)
    good = np.delete(np.arange(len(source)), list(faults))
    _, which = np.unique(digests[good], return_inverse=True)
    by_photo = np.lexsort((source.labels[good], which))
    starts = np.flatnonzero(np.diff(which[by_photo], prepend=-1))
    owners = source.labels[good][by_photo]
    lowest, highest = (each.reduceat(owners, starts) if len(good) else owners for each in (np.minimum, np.maximum))
    shared = (lowest != highest)[which]
    faults |= dict.fromkeys(good[shared].tolist(), "several people have it")
    return Part(source, good[~shared]), [(source.place(index), faults[index]) for index in sorted(faults)]


def frequent(source: Source, least: int) -> Source:
    """The people who have `least` photos or more.

    Raises:
        DataError: nobody has.
    """
    _, which, counts = np.unique(source.labels, return_inverse=True, return_counts=True)
    enough = counts[which] >= least
    return source if enough.all() else Part(source, np.flatnonzero(enough))


class Joined:
    """Several sources one after the other; the people of each are new classes, and gaps between labels are closed.

    Attributes:
        labels: (n,) 0 to `classes` - 1, without gaps.
        classes: number of people.
        counts: photos of each source.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise DataError("no data set is given")
        self.sources = list(sources)
        self.counts = [len(each) for each in sources]
        dense, self.classes = [], 0
        for each in sources:
            values, places = np.unique(each.labels, return_inverse=True)
            dense.append(places.astype(np.int64) + self.classes)
            self.classes += len(values)
        self.labels: NDArray[np.int64] = np.concatenate(dense)
        self._ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[Source, int]:
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[which], index - int(self._ends[which] - self.counts[which])

    def read(self, index: int) -> bytes:
        """Encoded bytes of a photo."""
        source, at = self._find(index)
        return source.read(at)

    def place(self, index: int) -> str:
        """Where a photo lies, for messages."""
        source, at = self._find(index)
        return source.place(at)

    def digest(self) -> str:
        """Of all sources, in their order."""
        return digest_of(self.labels, *(each.digest().encode() for each in self.sources))


def open_source(path: Path, *, least: int = 1) -> Source:
    """Open a folder of people, a folder of tar shards, one shard, or a .rec file.

    Raises:
        DataError: the path is none of them, or is damaged.
    """
    if path.suffix == ".rec":
        return RecordFile(path)
    if path.suffix == ".tar":
        return Shards([path])
    if path.is_dir() and (shards := sorted(path.glob("*.tar"))):
        return Shards(shards)
    return Folder(path, least=least)
