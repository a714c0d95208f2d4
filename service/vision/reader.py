"""From a photo's bytes to faces and embeddings, for many callers at once.

Photos are seen (decoded, searched for faces, cut out, assessed) one at a time, by processes of their own
(`service.vision.seers`); faces are encoded here, in batches formed across requests (`service.vision.batching`). Both
wait in bounded queues that the urgent overtake. Nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from service.vision.batching import Batcher, Priority, Workers
from service.vision.encode import Encoder
from service.vision.process import Process
from service.vision.see import Crop, SeenPhoto
from service.vision.seeing import Setup
from service.vision.seers import Seers

Embedding = NDArray[np.float32]


class Reader:
    """Reads photos. Made by `reader`, which starts and stops its processes and batches."""

    def __init__(self, seeing: Seers, encoding: Batcher[Crop, Embedding]) -> None:
        self.seeing = seeing
        self.encoding = encoding

    async def see(self, data: bytes, priority: Priority = Priority.INTERACTIVE) -> SeenPhoto:
        """Decode a photo and find its faces.

        Raises:
            PhotoError: the photo cannot be used, or shows more faces than are looked at.
            OverloadedError: too many photos are waiting.
        """
        return await self.seeing.see(data, priority)

    async def encode(self, crops: Sequence[Crop], priority: Priority = Priority.INTERACTIVE) -> list[Embedding]:
        """Encode crops, one embedding each.

        Raises:
            OverloadedError: too many faces are waiting.
            EngineError: the network gave no usable embedding.
        """
        return list(await asyncio.gather(*(self.encoding.submit(crop, priority) for crop in crops)))


@asynccontextmanager
async def reader(
    setup: Setup,
    encoder: Encoder,
    *,
    max_batch: int,
    capacity: int,
    workers: int,
    started: Sequence[Process] = (),
) -> AsyncIterator[Reader]:
    """A reader whose processes and batches run as long as the context is open.

    Args:
        setup: what a process that sees photos needs to know.
        encoder: runs the recognition artifact.
        max_batch: most faces encoded at once.
        capacity: photos, and faces, that may wait.
        workers: photos that are open, and batches that run, at once.
        started: processes that will see photos, as far as they are started already.
    """
    # A photo that waits is its bytes; an open one is its pixels and canvases, up to a hundred times more. So a process
    # takes one photo from decoding to crops: sharing runs of the detector between photos was measured to gain 4 % of
    # its time at best (`tests.bench.encode`).
    async with (
        Seers(setup, count=workers, capacity=capacity, started=started) as seeing,
        Workers(workers, "encoding") as threads,
    ):
        encoding: Batcher[Crop, Embedding] = Batcher(
            lambda crops: list(encoder(crops)),
            threads,
            name="faces",
            max_batch=max_batch,
            capacity=capacity,
        )
        async with encoding:
            yield Reader(seeing, encoding)
