"""Reindex: the crops of a gallery encoded by another model, beside the service or without one.

Whoever does it holds nothing but a model and the catalog: batch after batch is committed, so a process that is killed
is followed by one that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.gallery import reindexing
from service.gallery.catalog import Catalog
from service.gallery.embeddings import Embeddings, Rows
from service.vision.crops import unpack

SAMPLE: Final = 500
"""People who are compared."""

BATCH: Final = 32
PEOPLE_AT_ONCE: Final = 500

Encode: TypeAlias = Callable[[Sequence[NDArray[np.uint8]]], Embeddings]
"""n crops (112,112,3) uint8 -> (n,dim) float32, unit length."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same faces: how often the most similar other face is one of the same person.

    Attributes:
        people: compared, of whom each has several faces.
        faces: of them.
        in_use: share of faces for which the model in use finds the person, None where nobody could be compared.
        other: the same of the other model.
        both: share for which both do.
    """

    people: int
    faces: int
    in_use: float | None = None
    other: float | None = None
    both: float | None = None


def encode_pending(
    catalog: Catalog, gallery_pk: int, encode: Encode, *, told: Callable[[int], None] = lambda _: None
) -> None:
    """Encode what the other model has not seen, and make people's vectors of it, until nothing is left to do.

    Args:
        catalog: the truth.
        gallery_pk: a gallery that moves.
        encode: the other model.
        told: called with the number of faces of each batch, once they are kept.

    Raises:
        ReindexingError: the move was ended meanwhile.
        StorageError: a crop is damaged, or the catalog does not answer.
    """
    while True:
        with catalog.read() as reading:
            found = reindexing.pending(reading, gallery_pk, limit=BATCH)
        if not found:
            break
        embeddings = encode([unpack(crop) for _, crop in found])
        with catalog.write() as tx:
            reindexing.keep(tx, gallery_pk, [pk for pk, _ in found], embeddings)
        told(len(found))
    while True:
        with catalog.read() as reading:
            owners = reindexing.unfused(reading, gallery_pk, limit=PEOPLE_AT_ONCE)
        if not owners:
            return
        with catalog.write() as tx:
            reindexing.fuse(tx, gallery_pk, owners)


def compare(catalog: Catalog, gallery_pk: int) -> Comparison:
    """Compare the two models of a gallery that moves, on a sample of its people.

    Raises:
        ReindexingError: it does not move.
    """
    with catalog.read() as reading:
        owners, in_use, other = reindexing.sample(reading, gallery_pk, size=SAMPLE)
    named, counts = np.unique(owners, return_counts=True)
    several = np.isin(owners, named[counts > 1])
    people = len(np.unique(owners[several]))
    if people < 2:
        return Comparison(people, int(several.sum()))
    first = _finds(owners[several], in_use[several])
    second = _finds(owners[several], other[several])
    return Comparison(
        people, int(several.sum()), float(first.mean()), float(second.mean()), float((first & second).mean())
    )


def _finds(owners: Rows, embeddings: Embeddings) -> NDArray[np.bool_]:
    """For each face, whether the most similar other one is of the same person."""
    scores = embeddings @ embeddings.T
    np.fill_diagonal(scores, -np.inf)
    found: NDArray[np.bool_] = owners[scores.argmax(axis=1)] == owners
    return found
