"""From labelled photos on disk to batches on a rank.

    Folder, records.RecordFile, shards.Shards   where photos lie: labels, and encoded bytes by number
    open_source                                 picks one of them by what the path is
    Crops                                       decodes and augments
    batches                                     the batches of one epoch, on this rank, from any step on

Photos are crops already: 112x112 RGB, as `training.prepare` writes them; one of another size is scaled.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.augment import SIDE, Augmentation, augment, draws_of
from training.errors import DataError
from training.records import RecordFile, digest_of
from training.shards import Shards

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


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


# --- a folder of people ---


@dataclass(frozen=True)
class FolderReport:
    """What a folder holds, and what of it is not used.

    Attributes:
        people: folders that give at least one photo.
        photos: photos used.
        skipped: (path, reason) of the files that are no readable photo.
        shared: paths of photos whose exact bytes two or more people have; one label must be wrong, so all are left out.
        single: people with one photo; they make classes, and no pairs.
        empty: folders without a usable photo.
    """

    people: int
    photos: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    single: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for a log."""
        return (
            f"{self.photos} photos of {self.people} people; left out: {len(self.skipped)} unreadable files, "
            f"{len(self.shared)} photos that several people share, {len(self.empty)} empty folders; "
            f"{len(self.single)} people have one photo"
        )


class Folder:
    """PEOPLE/PERSON/PHOTO: a person's place among the sorted usable folders is the label.

    Every file is read and decoded once, in threads, before training starts: a broken file is found in minutes and not
    in the third night.

    Args:
        root: the folder of people.
        least: people with fewer photos are left out.
        only: names of the people to take; None takes all.
        threads: how many files are checked at once.

    Raises:
        DataError: there is no such folder, or nothing in it can be used.
    """

    def __init__(self, root: Path, *, least: int = 1, only: Sequence[str] | None = None, threads: int = 4) -> None:
        if not root.is_dir():
            raise DataError(f"there is no folder {root}")
        names = sorted(each.name for each in root.iterdir() if each.is_dir())
        if only is not None:
            wanted = set(only)
            names = [name for name in names if name in wanted]
        files = [(name, path) for name in names for path in sorted((root / name).iterdir()) if path.is_file()]
        with ThreadPoolExecutor(threads) as pool:
            checks = list(pool.map(lambda each: _check(each[1]), files))
        owners: dict[str, set[str]] = {}
        for (name, _), check in zip(files, checks, strict=True):
            owners.setdefault(check.digest, set()).add(name)
        skipped, shared, used = [], [], dict[str, list[Path]]()
        for (name, path), check in zip(files, checks, strict=True):
            if check.fault:
                skipped.append((str(path), check.fault))
            elif len(owners[check.digest]) > 1:
                shared.append(str(path))
            else:
                used.setdefault(name, []).append(path)
        digests = {path: check.digest for (_, path), check in zip(files, checks, strict=True)}
        self.people = [name for name in names if len(used.get(name, ())) >= max(least, 1)]
        self.paths = [path for name in self.people for path in used[name]]
        self.labels: NDArray[np.int64] = np.repeat(
            np.arange(len(self.people)), [len(used[name]) for name in self.people]
        ).astype(np.int64)
        self.report = FolderReport(
            people=len(self.people),
            photos=len(self.paths),
            skipped=skipped,
            shared=shared,
            single=[name for name in names if len(used.get(name, ())) == 1],
            empty=[name for name in names if name not in used],
        )
        if not self.paths:
            raise DataError(f"{root} holds no photo that can be used: {self.report.summary()}")
        self._digest = digest_of(self.labels, "".join(digests[path] for path in self.paths).encode())

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """Encoded bytes of a photo."""
        return self.paths[index].read_bytes()

    def place(self, index: int) -> str:
        """The photo's path."""
        return str(self.paths[index])

    def digest(self) -> str:
        """Of every photo's bytes and label."""
        return self._digest


@dataclass(frozen=True)
class _Check:
    digest: str
    fault: str


def _check(path: Path) -> _Check:
    if path.suffix.lower() not in ENDINGS:
        return _Check("", "not the name of a photo")
    return _look(path.read_bytes)


def _look(read: Callable[[], bytes]) -> _Check:
    try:
        data = read()
        decode(data)
    except OSError as error:
        return _Check("", f"cannot be read: {error.strerror}")
    except DataError as error:
        return _Check("", error.detail)
    return _Check(hashlib.sha256(data).hexdigest(), "")


# --- parts of a data set, and several as one ---


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
            for index, check in zip(
                numbers, pool.map(lambda each: _look(partial(source.read, each)), numbers), strict=True
            ):
                if check.fault:
                    faults[index] = check.fault
                else:
                    digests[index] = int(check.digest[:16], 16)
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


# --- batches ---


def decode(data: bytes) -> Image.Image:
    """The crop in some encoded bytes: RGB, 112x112.

    Raises:
        DataError: the bytes are no whole image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            rgb = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"no readable photo: {error}") from error
    return rgb if rgb.size == (SIDE, SIDE) else rgb.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


Unreadable = tuple[tuple[int, str], ...]
"""Number of a photo that cannot be decoded, and why."""

Sample = tuple[NDArray[np.uint8], int, int, Unreadable]
"""A crop, its label, the number of its photo, and the photos in whose place it stands."""

STAND_INS = 8
"""Photos of the same person, and after them of anybody, that are tried in the place of one that cannot be decoded."""

Teach = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Batch:
    """(n, 112, 112, 3) uint8 crops, their (n,) labels, and the (n,) numbers of their photos.

    `taught` is what a teacher sees in them, (n, dim) float32 unit vectors; None where no teacher sees the crops.
    `unreadable` are photos that others stand in for.
    """

    crops: Tensor
    labels: Tensor
    numbers: Tensor
    taught: Tensor | None = None
    unreadable: Unreadable = ()

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU can read from directly; PyTorch's loader calls it."""
        taught = None if self.taught is None else self.taught.pin_memory()
        return Batch(self.crops.pin_memory(), self.labels.pin_memory(), self.numbers, taught, self.unreadable)


class Crops(Dataset[Sample]):
    """Photos as crops, each named by (number of the photo, number of the draw) so that augmentation repeats exactly.

    A photo that cannot be decoded is left out: another one of its person stands in for it, the same one whenever that
    draw is repeated.

    Args:
        source: where they lie.
        how: their augmentation.
        seed: start of all draws.
        mix: share of the crops that are mixed with another photo's (Zhang et al. 2018, the weights uniform).
        teach: gives (n, dim) unit vectors of (n, 112, 112, 3) crops, in the process that makes the batch.
    """

    def __init__(
        self, source: Source, how: Augmentation, seed: int, *, mix: float = 0.0, teach: Teach | None = None
    ) -> None:
        self.source, self.how, self.seed, self.mix, self.teach = source, how, seed, mix, teach

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, which: tuple[int, int]) -> Sample:
        index, draw = which
        random = draws_of(self.seed, draw)
        image, index, unreadable = self._decoded(index, draw)
        crop = augment(image, self.how, random)
        if self.mix and random.random() < self.mix:
            image, _, more = self._decoded(int(random.integers(len(self.source))), draw)
            other, share = augment(image, self.how, random), random.random()
            crop = np.rint(share * crop + (1 - share) * other).astype(np.uint8)
            unreadable += more
        return crop, int(self.source.labels[index]), index, unreadable

    def _decoded(self, index: int, draw: int) -> tuple[Image.Image, int, Unreadable]:
        """A photo or the one that stands in for it, that one's number, and what could not be decoded.

        Raises:
            DataError: neither the photo nor any that could stand in for it can be decoded.
        """
        unreadable: list[tuple[int, str]] = []
        for number in self._candidates(index, draw):
            try:
                return decode(self.source.read(number)), number, tuple(unreadable)
            except (DataError, OSError) as error:
                unreadable.append((number, error.detail if isinstance(error, DataError) else str(error)))
        raise DataError(
            f"{self.source.place(index)}: {unreadable[0][1]}; nor can {len(unreadable) - 1} in its place be read"
        )

    def _candidates(self, index: int, draw: int) -> Iterator[int]:
        yield index
        random = np.random.default_rng([self.seed, draw, index])  # a generator of its own: no other draw changes
        own = np.flatnonzero(self.source.labels == self.source.labels[index])
        yield from random.permutation(own[own != index])[:STAND_INS].tolist()
        yield from random.integers(len(self.source), size=STAND_INS).tolist()

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples as one batch, with what the teacher sees in it."""
        crops, labels, numbers, unreadable = zip(*samples, strict=True)
        pixels = np.stack(crops)
        taught = None if self.teach is None else torch.from_numpy(self.teach(pixels))
        return Batch(
            torch.from_numpy(pixels), torch.tensor(labels), torch.tensor(numbers), taught, tuple(chain(*unreadable))
        )


def batches(
    crops: Crops,
    plan: NDArray[np.int64],
    *,
    first_draw: int,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """This rank's batches of one epoch.

    Args:
        crops: the photos.
        plan: (steps, batch) numbers of photos over all ranks; `batch` is a multiple of `ranks`.
        first_draw: number of the epoch's first draw; the draws of different epochs must not meet.
        start: steps of this epoch that are done already.
        rank: this rank.
        ranks: how many there are.
        workers: processes that decode and augment; 0 does it between the steps.

    Yields:
        `batch / ranks` photos.
    """
    steps, size = plan.shape
    draws = first_draw + np.arange(steps * size).reshape(steps, size)
    mine = slice(size // ranks * rank, size // ranks * (rank + 1))
    named = [
        list(zip(plan[step, mine].tolist(), draws[step, mine].tolist(), strict=True)) for step in range(start, steps)
    ]
    loader = DataLoader(
        crops,
        batch_sampler=named,
        num_workers=workers,
        collate_fn=crops.collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # or it would draw from the run's own, once an epoch and once a resumed one
    )
    yield from loader
