"""Where the codes of segments are looked through: in main memory, or on GPUs.

On a GPU there are no coarse codes: a segment's vectors lie there in 16-bit floats, each segment on one of the GPUs in
turn, and what they find is scored exactly on the CPU like all else. It needs FAISS built for GPUs, and 2 bytes of GPU
memory a number.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from service.errors import EngineAbsentError
from service.gallery.index.codes import PART, Bits, FastScan, Part, Trust
from service.gallery.index.rows import Positions, Vectors, restored
from service.gallery.index.segment import BLOCK, Segment, unpacked
from service.memory import give_back

Device = Literal["auto", "cpu", "cuda"]

HALF: Final = Trust(1.0, 2e-4)
"""What cosines of 16-bit floats are worth: their rounding is 2^-11 of a number at most."""

MOST: Final = 2048
"""FAISS' GPU search gives no more than this many."""

log = logging.getLogger(__name__)


def parts_on(device: Device, library: Any = faiss) -> Callable[[Segment], Sequence[Part]]:
    """What makes a segment's codes ready to be looked through.

    Args:
        device: `cpu`, `cuda`, or `auto` for GPUs where there are any.
        library: FAISS.

    Raises:
        EngineAbsentError: `cuda` is asked for and there is no GPU, or FAISS is not built for it.
    """
    gpus = library.get_num_gpus() if device != "cpu" and hasattr(library, "StandardGpuResources") else 0
    if device == "cuda" and not gpus:
        raise EngineAbsentError("VULTUS_INDEX_DEVICE=cuda needs a GPU and faiss-gpu; one of them is not here")
    log.info("indexes are looked through on %s", f"{gpus} GPU" if gpus else "the CPU")
    if not gpus:
        return in_main_memory
    turns = itertools.cycle([(number, library.StandardGpuResources(), threading.Lock()) for number in range(gpus)])
    return lambda segment: [OnGpu(segment, *next(turns), library)]


def in_main_memory(segment: Segment) -> Sequence[Part]:
    """A segment's codes for the CPU."""
    parts = [
        FastScan(segment.book, segment.codes[first : first + PART], first, segment.trust)
        for first in range(0, len(segment), PART)
    ]
    give_back()
    return parts


class OnGpu:
    """A segment's vectors on a GPU; see `Part`.

    Args:
        segment: whose.
        number: of the GPU.
        resources: FAISS' for this GPU,
        alone: held while they are used, for they serve one search at a time.
        library: FAISS.
    """

    def __init__(self, segment: Segment, number: int, resources: Any, alone: threading.Lock, library: Any) -> None:
        self.first, self.count, self.trust = 0, len(segment), HALF
        wanted = library.GpuIndexFlatConfig()
        wanted.device, wanted.useFloat16 = number, True
        self._resources, self._alone = resources, alone
        self._index = library.GpuIndexFlatIP(resources, segment.numbers.shape[1], wanted)
        for first in range(0, len(segment), BLOCK):
            some = slice(first, first + BLOCK)
            with alone:
                self._index.add(restored(segment.numbers[some], segment.scales[some]))

    def nearest(self, probes: Vectors, depth: int, wanted: Bits | None) -> tuple[NDArray[np.float32], Positions]:
        """See `Part.nearest`; selectors were ignored on GPUs for long, so what does not count is passed over here."""
        flags = None if wanted is None else unpacked(wanted, self.count)
        for asked in self._depths(depth):
            with self._alone:
                found, positions = self._index.search(probes, asked)
            if flags is None:
                break
            counts = (positions >= 0) & flags[positions]
            if (counts.sum(axis=1) >= min(depth, int(flags.sum()))).all():
                break
        if flags is None:
            return found, positions
        first = np.argsort(~counts, axis=1, kind="stable")[:, :depth]
        kept = np.take_along_axis(counts, first, axis=1)
        return (
            np.where(kept, np.take_along_axis(found, first, axis=1), -np.inf).astype(np.float32),
            np.where(kept, np.take_along_axis(positions, first, axis=1), -1),
        )

    def above(self, probe: Vectors, least: float, wanted: Bits | None) -> tuple[NDArray[np.float32], Positions]:
        """See `Part.above`; of the highest `MOST` alone, for a GPU gives no more."""
        found, positions = self.nearest(probe, MOST, wanted)
        counts = (positions[0] >= 0) & (found[0] > least)
        return found[0][counts], positions[0][counts]

    def _depths(self, depth: int) -> Iterator[int]:
        """How many to ask for, more and more, as long as those that count are too few."""
        most = min(MOST, self.count)
        asked = min(depth, most)
        while asked < most:
            yield asked
            asked = min(4 * asked, most)
        yield most
