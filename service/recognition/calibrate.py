"""Calibrate: a folder of people, photos of each, to what the cosines of a model mean.

    folder -> photos -> faces -> embeddings -> cosines of all pairs -> calibration

Faces go through the very reader that the service uses, so that what is measured is what will be asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.artifact.manifest import CalibrationRecord, Manifest
from service.errors import CalibrationError, GalleryModelError, PhotoError
from service.gallery import faces, galleries
from service.gallery.catalog import Catalog
from service.identify.calibration import fit
from service.identify.figures import Figures, figures
from service.recognition.product import Embedding, largest
from service.vision.batching import Priority
from service.vision.reader import Reader

AT_ONCE: Final = 16
"""Photos that are read at once."""

MOST_FACES: Final = 14_000
"""Faces that are paired; their hundred million pairs need 400 MB."""

ROWS: Final = 512
"""Rows of the matrix of cosines that are computed at once."""


@dataclass(frozen=True)
class PhotoOf:
    """A photo and the place of its person in the folder's order."""

    person: int
    path: Path


@dataclass(frozen=True)
class Labelled:
    """Embeddings with the people they are of.

    Attributes:
        embeddings: (n,dim) float32, unit length.
        people: (n,) int64.
        skipped: photos without a usable face, with the reason.
    """

    embeddings: NDArray[np.float32]
    people: NDArray[np.int64]
    skipped: dict[Path, str]


@dataclass(frozen=True)
class PairScores:
    """Cosines of all pairs: `mated` of one person, `impostor` of two."""

    mated: NDArray[np.float32]
    impostor: NDArray[np.float32]


def photos_in(folder: Path) -> list[PhotoOf]:
    """The photos of a folder that holds one folder a person.

    Raises:
        CalibrationError: it holds fewer than two people.
    """
    if not folder.is_dir():
        raise CalibrationError(f"there is no folder {folder}")
    people = [each for each in sorted(folder.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    found = [
        PhotoOf(person, file)
        for person, each in enumerate(people)
        for file in sorted(each.iterdir())
        if file.is_file() and not file.name.startswith(".")
    ]
    if len({photo.person for photo in found}) < 2:
        raise CalibrationError(f"{folder} must hold a folder of photos for each of two people or more")
    return found


async def label(reader: Reader, photos: Sequence[PhotoOf], *, read: Callable[[], object] = lambda: None) -> Labelled:
    """Encode the largest face of each photo.

    Args:
        reader: of the model that is calibrated.
        photos: in any order.
        read: called after each photo.
    """
    turn = asyncio.Semaphore(AT_ONCE)
    skipped: dict[Path, str] = {}

    async def one(photo: PhotoOf) -> tuple[int, Embedding] | None:
        async with turn:
            try:
                seen = await reader.see(photo.path.read_bytes(), Priority.BULK)
                (embedding,) = await reader.encode([largest(seen).crop], Priority.BULK)
            except PhotoError as error:
                skipped[photo.path] = error.detail
                return None
            finally:
                read()
            return photo.person, embedding

    found = [each for each in await asyncio.gather(*(one(photo) for photo in photos)) if each is not None]
    people = np.array([person for person, _ in found], np.int64)
    embeddings = np.stack([embedding for _, embedding in found]) if found else np.empty((0, 0), np.float32)
    return Labelled(embeddings, people, skipped)


def templates_of(catalog: Catalog, gallery: str, manifest: Manifest) -> Labelled:
    """The faces of a gallery's people who have several, as if they were labelled photos. Blocks.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        GalleryModelError: it is bound to another model.
    """
    with catalog.read() as reading:
        record = galleries.get(reading, gallery)
        if record.model_digest != manifest.digest:
            raise GalleryModelError(f"gallery {gallery!r} is bound to another model than {manifest.name}")
        people, embeddings = faces.of_several(reading, record.pk, record.dim, most=MOST_FACES)
    return Labelled(embeddings, people, {})


def pair_scores(embeddings: NDArray[np.float32], people: NDArray[np.int64]) -> PairScores:
    """The cosines of every pair of faces, each pair once.

    Args:
        embeddings: (n,dim) float32, unit length.
        people: (n,) int64.
    """
    count = len(embeddings)
    same = sum(int(size) * (int(size) - 1) // 2 for size in np.unique(people, return_counts=True)[1])
    mated = np.empty(same, np.float32)
    impostor = np.empty(count * (count - 1) // 2 - same, np.float32)
    filled = [0, 0]
    for first in range(0, count, ROWS):
        rows = np.arange(first, min(first + ROWS, count))
        cosines = embeddings[rows] @ embeddings.T
        later = np.arange(count)[None, :] > rows[:, None]
        equal = people[rows][:, None] == people[None, :]
        for kind, (scores, which) in enumerate(((mated, later & equal), (impostor, later & ~equal))):
            chosen = cosines[which]
            scores[filled[kind] : filled[kind] + len(chosen)] = chosen
            filled[kind] += len(chosen)
    return PairScores(mated, impostor)


def calibrate(labelled: Labelled, *, data: str, seed: int = 0) -> tuple[CalibrationRecord, Figures]:
    """Fit a calibration on all pairs of faces, of a random choice of them where there are very many; with its figures.

    Args:
        labelled: the faces.
        data: what they are, in a few words.
        seed: of the choice.

    Raises:
        CalibrationError: there are too few pairs to say anything.
    """
    embeddings, people = labelled.embeddings, labelled.people
    if len(embeddings) > MOST_FACES:
        kept = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:MOST_FACES])
        embeddings, people = embeddings[kept], people[kept]
    if len(embeddings) < 2:
        raise CalibrationError(f"only {len(embeddings)} of the photos show a face")
    scores = pair_scores(embeddings, people)
    try:
        fitted = fit(scores.mated, scores.impostor)
    except ValueError as error:
        raise CalibrationError(f"{error}; add people, and photos of each") from error
    record = CalibrationRecord(
        data=data, date=f"{datetime.now(UTC):%Y-%m-%d}", people=len(np.unique(people)), **asdict(fitted)
    )
    return record, figures(fitted, scores.mated, scores.impostor)
