"""The plain in-process loop that the service is measured against: decode, detect, align, encode, on every core."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from service.vision.align import align
from service.vision.choice import Chosen, choose
from service.vision.decode import decode
from service.vision.detect import Detector, Face
from service.vision.encode import Encoder
from service.vision.quality import assess

LIMITS = {"max_bytes": 1 << 26, "max_pixels": 100_000_000}


@dataclass
class Stages:
    """Seconds spent in each stage, summed over threads."""

    decode: float = 0.0
    detect: float = 0.0
    align: float = 0.0
    encode: float = 0.0
    faces: int = 0
    missed: list[int] = field(default_factory=list)


class Loop:
    """Photos to embeddings with the engines that the service would choose.

    Args:
        engine: of recognition, "auto" for the service's own choice.
        memory: where the choice is remembered.
        threads: one a core by default.
        models: the models folder.
    """

    def __init__(
        self, *, engine: str, memory: Path, threads: int | None = None, models: Path = CHECKOUT / "models"
    ) -> None:
        store = ModelStore(models)
        self.threads = threads or os.cpu_count() or 1
        self.manifest = store.manifest("sface")
        self.chosen: Chosen = choose(store, self.manifest, wanted=engine, streams=self.threads, memory=memory)
        detection = choose(store, store.manifest("yunet"), wanted="auto", streams=self.threads, memory=memory)
        self.detector = Detector(detection.engine)
        self.encoder = Encoder(self.chosen.engine)

    def crops(self, data: bytes) -> list[NDArray[np.uint8]]:
        """The aligned crops of a photo's faces."""
        photo = decode(data, **LIMITS)
        return [align(photo.pixels, face.landmarks) for face in self.detector.detect(photo.pixels)]

    def quality(self, data: bytes) -> float:
        """The quality of a photo's most central face; 0 where there is none."""
        photo = decode(data, **LIMITS)
        faces = self.detector.detect(photo.pixels)
        if not faces:
            return 0.0
        face = central(faces, photo.pixels.shape)
        return assess(align(photo.pixels, face.landmarks), face).score

    def embed(self, photos: Sequence[bytes]) -> tuple[NDArray[np.float32], Stages]:
        """Embed the most central face of each photo; where none is found the row is zero and `missed` names it."""
        stages = Stages()
        embeddings = np.zeros((len(photos), self.manifest.dim), np.float32)

        def work(place: int) -> None:
            started = time.perf_counter()
            photo = decode(photos[place], **LIMITS)
            decoded = time.perf_counter()
            faces = self.detector.detect(photo.pixels)
            detected = time.perf_counter()
            stages.decode += decoded - started
            stages.detect += detected - decoded
            if not faces:
                stages.missed.append(place)
                return
            crop = align(photo.pixels, central(faces, photo.pixels.shape).landmarks)
            aligned = time.perf_counter()
            embeddings[place] = self.encoder([crop])[0]
            stages.align += aligned - detected
            stages.encode += time.perf_counter() - aligned
            stages.faces += 1

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(work, range(len(photos))))
        return embeddings, stages


def central(faces: Sequence[Face], shape: tuple[int, ...]) -> Face:
    """The face nearest to the middle of the photo: in LFW, whom the photo is of."""
    middle = np.array([shape[1] / 2, shape[0] / 2])

    def distance(face: Face) -> float:
        box = face.box
        return float(np.linalg.norm([box.x + box.width / 2, box.y + box.height / 2] - middle))

    return min(faces, key=distance)
