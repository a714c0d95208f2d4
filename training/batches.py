"""From labelled photos to batches on a rank: decoded, augmented, and the same again in a run that was resumed.

Photos are crops already: 112x112 RGB, as `training.prepare` writes them; one of another size is scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.augment import Augmentation, augment, draws_of
from training.errors import DataError
from training.photos import decode
from training.sources import Source

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
