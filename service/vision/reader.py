"""From a photo's bytes to faces and embeddings, for many callers at once.

Decoding, aligning and assessing run on a pool of threads; detection and encoding run in batches formed across
requests (`service.vision.batching`). Nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import TooManyFacesError
from service.vision.align import align
from service.vision.batching import Batcher, Priority
from service.vision.decode import Photo, decode
from service.vision.detect import Canvas, Face, canvases, faces_from
from service.vision.encode import Encoder
from service.vision.engines import Engine, Outputs
from service.vision.gate import Gate
from service.vision.quality import Quality, assess

Crop = NDArray[np.uint8]
Embedding = NDArray[np.float32]
Result = TypeVar("Result")

OPEN_PHOTOS = 3
"""Photos that are open at once for each worker: enough to keep it busy, few enough to bound memory."""

MOST_CANVASES = 1000
"""More than any photo within the limits is laid out on; the gate is what bounds the work."""

CANVASES_AT_ONCE = 4
"""Canvases of one shape that a worker takes at once."""

BATCHED_PIXELS = 384 * 384
"""Larger canvases are run one by one."""


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Attributes:
        photo_bytes: largest photo in bytes.
        photo_pixels: largest photo in pixels.
        faces: most faces in a photo.
    """

    photo_bytes: int
    photo_pixels: int
    faces: int


@dataclass(frozen=True)
class SeenFace:
    """A face, cut out and assessed."""

    face: Face
    crop: Crop
    quality: Quality


@dataclass(frozen=True)
class SeenPhoto:
    """A photo and the faces in it, largest first.

    Attributes:
        digest: SHA-256 of the photo's bytes, hexadecimal.
        width: in pixels, as shown (after the EXIF turn).
        height: the same.
        faces: none, one or several.
    """

    digest: str
    width: int
    height: int
    faces: tuple[SeenFace, ...]


class Reader:
    """Reads photos. Made by `reader`, which starts and stops its batches."""

    def __init__(
        self,
        gate: Gate,
        detection: Batcher[Canvas, Outputs],
        encoding: Batcher[Crop, Embedding],
        pool: Executor,
        limits: Limits,
    ) -> None:
        self.gate = gate
        self.detection = detection
        self.encoding = encoding
        self.limits = limits
        self._pool = pool

    async def see(self, data: bytes, priority: Priority = Priority.INTERACTIVE) -> SeenPhoto:
        """Decode a photo and find its faces.

        Raises:
            PhotoError: the photo cannot be used, or shows more faces than are looked at.
            OverloadedError: too many photos are waiting.
        """
        async with self.gate.passing(priority):
            photo, looks = await self._in_pool(lambda: self._open(data))
            heads = await asyncio.gather(*(self.detection.submit(look, priority) for look in looks))
            return await self._in_pool(lambda: self._cut(photo, looks, heads))

    async def encode(self, crops: Sequence[Crop], priority: Priority = Priority.INTERACTIVE) -> list[Embedding]:
        """Encode crops, one embedding each.

        Raises:
            OverloadedError: too many faces are waiting.
            EngineError: the network gave no usable embedding.
        """
        return list(await asyncio.gather(*(self.encoding.submit(crop, priority) for crop in crops)))

    def _open(self, data: bytes) -> tuple[Photo, list[Canvas]]:
        photo = decode(data, max_bytes=self.limits.photo_bytes, max_pixels=self.limits.photo_pixels)
        return photo, canvases(photo.pixels)

    def _cut(self, photo: Photo, looks: list[Canvas], heads: list[Outputs]) -> SeenPhoto:
        height, width = photo.pixels.shape[:2]
        most = self.limits.faces
        faces = faces_from(heads, looks, (width, height), max_faces=most + 1)
        if len(faces) > most:
            raise TooManyFacesError(f"the photo shows more than {most} faces", limit=most)
        return SeenPhoto(photo.digest, width, height, tuple(_cut_out(photo, face) for face in faces))

    async def _in_pool(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _cut_out(photo: Photo, face: Face) -> SeenFace:
    crop = align(photo.pixels, face.landmarks)
    return SeenFace(face, crop, assess(crop, face))


@asynccontextmanager
async def reader(
    detector: Engine, encoder: Encoder, pool: Executor, *, limits: Limits, max_batch: int, capacity: int, workers: int
) -> AsyncIterator[Reader]:
    """A reader whose batches run as long as the context is open.

    Args:
        detector: runs the detection artifact.
        encoder: runs the recognition artifact.
        pool: threads for everything that computes.
        limits: what is taken.
        max_batch: most faces encoded at once.
        capacity: photos, and faces, that may wait.
        workers: batches of each kind that run at once.
    """
    opened = OPEN_PHOTOS * workers
    gate = Gate(inside=opened, waiting=capacity, name="photos")
    detection: Batcher[Canvas, Outputs] = Batcher(
        lambda looks: _detect(detector, looks),
        pool,
        name="canvases",
        max_batch=CANVASES_AT_ONCE,
        capacity=opened * MOST_CANVASES,
        workers=workers,
        shape=lambda look: look.pixels.shape,
    )
    encoding: Batcher[Crop, Embedding] = Batcher(
        lambda crops: list(encoder(crops)), pool, name="faces", max_batch=max_batch, capacity=capacity, workers=workers
    )
    async with detection, encoding:
        yield Reader(gate, detection, encoding, pool, limits)


def _detect(detector: Engine, looks: list[Canvas]) -> list[Outputs]:
    """Run canvases of one shape: small ones as one batch, large ones one by one.

    Sharing a batch saves the small ones a tenth of their time. Large ones gain nothing, and their activations, many
    times the size of a canvas, would all be in memory at once (`tests.bench.encode`, `detection_batch_ratio`).
    """
    together = len(looks) if looks[0].pixels.size <= BATCHED_PIXELS * 3 else 1
    found: list[Outputs] = []
    for first in range(0, len(looks), together):
        heads = detector(np.stack([look.pixels for look in looks[first : first + together]]))
        found += [{name: values[place] for name, values in heads.items()} for place in range(len(heads["cls_8"]))]
    return found
