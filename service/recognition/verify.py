"""Verify: whether two faces, or a face and a person, are the same, at a stated false-match rate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from service.errors import PersonWithoutFaceError
from service.gallery import faces, people
from service.gallery.records import GalleryRecord
from service.recognition.product import Embedding, Product, largest
from service.vision.see import SeenFace


@dataclass(frozen=True)
class Verification:
    """The answer to a verify request.

    Attributes:
        same: whether the similarity reaches the threshold.
        similarity: cosine.
        probability: that it is the same person, had both answers been equally likely beforehand.
        threshold: least cosine accepted.
        fmr: false-match rate that the threshold stands for.
        faces: the faces compared, in the order of the photos.
    """

    same: bool
    similarity: float
    probability: float
    threshold: float
    fmr: float
    faces: tuple[SeenFace, ...]


async def verify_photos(product: Product, photo_a: bytes, photo_b: bytes, *, fmr: float | None = None) -> Verification:
    """Compare the largest faces of two photos.

    Raises:
        NoFaceError: one of them shows no face.
        PhotoError: one of them cannot be used.
        FpirNotSupportedError: the calibration cannot vouch for the rate asked for.
        OverloadedError: too much is waiting.
    """
    # What cannot be vouched for is refused before any work is done.
    rate = fmr or product.policy.fmr
    accept = product.calibration.threshold(rate)
    first, second = await asyncio.gather(_probe(product, photo_a), _probe(product, photo_b))
    return _compared(product, first[1], second[1], (first[0], second[0]), accept, rate)


async def verify_person(
    product: Product, gallery: str, person: str, photo: bytes, *, fmr: float | None = None
) -> Verification:
    """Compare the largest face of a photo with a person of a gallery.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        GalleryModelError: it is bound to another model.
        PersonNotFoundError: there is no such person, or the person has expired.
        PersonWithoutFaceError: the person has no face to compare with.
        NoFaceError: the photo shows no face.
        PhotoError: the photo cannot be used.
        FpirNotSupportedError: the calibration cannot vouch for the rate asked for.
        OverloadedError: too much is waiting.
    """
    rate = fmr or product.policy.fmr
    accept = product.calibration.threshold(rate)
    record, _ = await product.gallery(gallery)
    template = await product.stored(lambda: _template(product, record, person))
    face, probe = await _probe(product, photo)
    return _compared(product, template, probe, (face,), accept, rate)


def _template(product: Product, record: GalleryRecord, person: str) -> Embedding:
    with product.catalog.read() as reading:
        found = people.living(reading, record.pk, person)
        fused = faces.fused(reading, found.pk)
    if fused is None:
        raise PersonWithoutFaceError(f"person {person!r} has no enrolled face")
    return fused


async def _probe(product: Product, photo: bytes) -> tuple[SeenFace, Embedding]:
    face = largest(await product.reader.see(photo))
    (embedding,) = await product.reader.encode([face.crop])
    return face, embedding


def _compared(
    product: Product, a: Embedding, b: Embedding, faces_: tuple[SeenFace, ...], accept: float, rate: float
) -> Verification:
    similarity = float(np.clip(np.dot(a, b), -1, 1))
    probability = product.calibration.probability(similarity)
    return Verification(similarity >= accept, similarity, probability, accept, rate, faces_)
