"""The process that looks at photos, for imports; its argument is the descriptor of a socket.

It is a process of its own for three reasons. Its priority is the lowest there is, so that whoever waits for an answer
goes first; a decoder that a hostile photo brings down takes no service with it; and it shares no interpreter lock. It
is told over a socket what to look at, answers in that order, and ends with the socket.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.artifact.store import ModelStore
from service.errors import PhotoError, VultusError
from service.imports.paths import read
from service.recognition.portrait import portrait
from service.vision.choice import load
from service.vision.crops import pack
from service.vision.encode import Encoder
from service.vision.see import Limits, SeenFace, see

READ_AHEAD: Final = 2
"""Tasks whose photos are read while the one before them is looked at."""


@dataclass(frozen=True)
class Setup:
    """What a helper needs to know.

    Attributes:
        root: the import root.
        models: folder of the artifacts.
        recognition: name of the recognition model, and of the engine that runs it.
        detection: the same of the detection model.
        limits: what is taken.
        min_quality: quality under which a face is refused.
    """

    root: Path
    models: Path
    recognition: tuple[str, str]
    detection: tuple[str, str]
    limits: Limits
    min_quality: float


@dataclass(frozen=True)
class Photo:
    """A photo to look at: a file, or the part of one from the first byte on of so many bytes; with its crop or not."""

    path: str
    place: tuple[int, int] | None = None
    crop: bool = False


@dataclass(frozen=True)
class Task:
    """Photos to look at, or only to read: then of each sight there is the digest alone, or why it cannot be read."""

    photos: Sequence[Photo]
    look: bool


@dataclass(frozen=True)
class Sight:
    """What a photo shows.

    Attributes:
        digest: SHA-256 of its bytes, empty where they could not be read.
        embedding: of the face that it is of, (dim,) float32; None where it is refused.
        quality: of that face.
        box: where it is, x, y, width, height.
        error: why it is refused.
        crop: of the face, packed, where it was asked for.
    """

    digest: str
    embedding: NDArray[np.float32] | None = None
    quality: float = 0.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    error: PhotoError | None = None
    crop: bytes | None = None


Answer = list[Sight] | VultusError
"""To a task; to the set-up, an empty list or why it failed."""


class Looker:
    """Looks at photos, some at a time: faces of photos that come together are encoded together."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        store = ModelStore(setup.models)
        self._detector = load(store, *setup.detection)
        self._encoder = Encoder(load(store, *setup.recognition))

    def read(self, photo: Photo) -> bytes | PhotoError:
        """The bytes of a photo."""
        try:
            return read(self._setup.root, photo.path, self._setup.limits.photo_bytes, photo.place)
        except PhotoError as error:
            return error

    def look(self, photos: Sequence[bytes | PhotoError], *, crops: bool) -> list[Sight]:
        """What photos show, with the crops of their faces or without.

        Raises:
            EngineError: the network gave no usable embedding.
        """
        found: list[tuple[str, SeenFace] | Sight] = [self._face(photo) for photo in photos]
        faces = [item[1] for item in found if isinstance(item, tuple)]
        embeddings = iter(self._encoder([face.crop for face in faces]))
        return [item if isinstance(item, Sight) else _sight(*item, next(embeddings), crops) for item in found]

    def _face(self, data: bytes | PhotoError) -> tuple[str, SeenFace] | Sight:
        if isinstance(data, PhotoError):
            return Sight("", error=data)
        try:
            photo = see(data, self._detector, self._setup.limits)
        except PhotoError as error:
            return Sight("", error=error)
        try:
            return photo.digest, portrait(photo, self._setup.min_quality)
        except PhotoError as error:
            return Sight(photo.digest, error=error)


def unseen(photos: Sequence[bytes | PhotoError]) -> list[Sight]:
    """What there is to say of photos without a look."""
    return [
        Sight("", error=photo) if isinstance(photo, PhotoError) else Sight(hashlib.sha256(photo).hexdigest())
        for photo in photos
    ]


def _sight(digest: str, face: SeenFace, embedding: NDArray[np.float32], with_crop: bool) -> Sight:  # noqa: FBT001 - from one place
    box = face.face.box
    crop = pack(face.crop) if with_crop else None
    return Sight(digest, embedding, face.quality.score, (box.x, box.y, box.width, box.height), crop=crop)


def main() -> None:
    """Serve one socket until it closes."""
    _stand_back()
    channel = Connection(int(sys.argv[1]))
    try:
        looker = Looker(channel.recv())
    except VultusError as error:
        channel.send(error)
        return
    channel.send([])
    waiting: queue.Queue[_Read | None] = queue.Queue(READ_AHEAD)
    threading.Thread(target=_read_all, args=(channel, looker, waiting), daemon=True).start()
    while (task := waiting.get()) is not None:
        try:
            answer: Answer = looker.look(task.photos, crops=task.crops) if task.look else unseen(task.photos)
        except VultusError as error:
            answer = error
        try:
            channel.send(answer)
        except BrokenPipeError:
            return


def _stand_back() -> None:
    """Take the lowest priority there is."""
    os.nice(19)
    # Where Linux shares the processor out among sessions first, it is the session's priority that counts.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


@dataclass(frozen=True)
class _Read:
    """Photos that were read, whether they are looked at, and whether their crops are asked for."""

    photos: list[bytes | PhotoError]
    look: bool
    crops: bool


def _read_all(channel: Connection, looker: Looker, waiting: queue.Queue[_Read | None]) -> None:
    try:
        while True:
            task: Task = channel.recv()
            photos = [looker.read(photo) for photo in task.photos]
            waiting.put(_Read(photos, task.look, any(photo.crop for photo in task.photos)))
    except (EOFError, OSError):
        waiting.put(None)
