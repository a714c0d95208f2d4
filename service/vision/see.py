"""One photo seen: decoded, searched for faces, the faces cut out and assessed; all on the calling thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray

from service.errors import TooManyFacesError
from service.vision.align import align
from service.vision.decode import Photo, decode
from service.vision.detect import Canvas, Face, canvases, faces_from
from service.vision.engines import Engine, Outputs
from service.vision.quality import Quality, assess

Crop = NDArray[np.uint8]

CANVASES_AT_ONCE = 4
"""Canvases of one photo and shape that share a run of the detector."""

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


def see(data: bytes, detector: Engine, limits: Limits) -> SeenPhoto:
    """Decode a photo, find its faces, cut them out and assess them.

    Raises:
        PhotoError: the photo cannot be used, or shows more faces than are looked at.
    """
    photo = decode(data, max_bytes=limits.photo_bytes, max_pixels=limits.photo_pixels)
    looks = canvases(photo.pixels)
    height, width = photo.pixels.shape[:2]
    faces = faces_from(_heads(detector, looks), looks, (width, height), max_faces=limits.faces + 1)
    if len(faces) > limits.faces:
        raise TooManyFacesError(f"the photo shows more than {limits.faces} faces", limit=limits.faces)
    return SeenPhoto(photo.digest, width, height, tuple(_cut_out(photo, face) for face in faces))


def _heads(detector: Engine, looks: list[Canvas]) -> list[Outputs]:
    """Run the detector over canvases: neighbours that are small and of one shape together, large ones one by one.

    Large ones gain nothing by it, and their activations, many times the size of a canvas, would be in memory at once.
    """
    found: list[Outputs] = []
    for shape, group in groupby(looks, key=lambda look: look.pixels.shape):
        together = CANVASES_AT_ONCE if shape[0] * shape[1] <= BATCHED_PIXELS else 1
        for batch in batched(group, together):
            heads = detector(np.stack([look.pixels for look in batch]))
            found += [{name: values[place] for name, values in heads.items()} for place in range(len(batch))]
    return found


def batched(items: Iterable[Canvas], most: int) -> Iterator[tuple[Canvas, ...]]:
    """Cut items into tuples of at most so many."""
    rest = iter(items)
    while part := tuple(islice(rest, most)):
        yield part


def _cut_out(photo: Photo, face: Face) -> SeenFace:
    crop = align(photo.pixels, face.landmarks)
    return SeenFace(face, crop, assess(crop, face))
