"""What spoils training, found among crops: copies, faces that disagree with their person, people of another set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from training.embed import unit

Vectors = NDArray[np.float32]

UNLABELLED = "unlabelled"
"""Folder of the crops of raw photos, which have no person's name."""
DISAGREES = 0.2
"""A photo whose median cosine with the others of its person is under this shows someone else, most likely."""
SIDE = 16
NEAR_COPY = 2.0
"""Two photos whose brightness, at 16 x 16 pixels of the whole photo, differs by less than this on average are one photo
saved twice; crops would not show it, as the landmarks of two sizes of a photo differ by a pixel."""
SAME_PERSON = 0.5
"""Two people whose mean embeddings are above this cosine are one person."""


def copies(looks: Mapping[str, str]) -> list[tuple[str, str]]:
    """(crop, earlier crop that it equals, exactly or nearly), of one person or of two; several faces of a photo do not.

    Photos are compared with those that are about as bright alone: the mean of differences is never under the
    difference of means. Coarser looks then leave few to be compared in full.

    Args:
        looks: brightness of the photo that each crop was cut from, 256 bytes in hex, by the crop's name.
    """
    names = sorted(looks)
    by_look: dict[str, str] = {}
    for name in names:  # faces of one raw photo share its look, and an exact copy has it too
        by_look.setdefault(looks[name], name)
    firsts = [(name, by_look[looks[name]]) for name in names]
    listed = [(name, first) for name, first in firsts if name != first and _photo(name) != _photo(first)]
    kept = sorted(by_look.values())
    if not kept:
        return listed
    pixels = np.stack([np.frombuffer(bytes.fromhex(looks[name]), np.uint8) for name in kept]).astype(np.float32)
    blocks = pixels.reshape(len(kept), 4, SIDE // 4, 4, SIDE // 4).mean(axis=(2, 4)).reshape(len(kept), -1)
    order = np.argsort(pixels.mean(axis=1), kind="stable")
    means = pixels.mean(axis=1)[order]
    earliest: dict[int, int] = {}
    for place, number in enumerate(order):
        near = order[place + 1 : np.searchsorted(means, means[place] + NEAR_COPY)]
        near = near[np.abs(blocks[near] - blocks[number]).mean(axis=1) < NEAR_COPY]
        for other in near[np.abs(pixels[near] - pixels[number]).mean(axis=1) < NEAR_COPY]:
            first, second = sorted((int(number), int(other)))
            earliest[second] = min(first, earliest.get(second, first))
    listed += [(kept[second], kept[first]) for second, first in earliest.items()]
    return sorted(listed)


def _photo(crop: str) -> str:
    """The name of a crop without its face's number: what the faces of one raw photo have in common."""
    return crop.rsplit(".", 2)[0] if crop.startswith(f"{UNLABELLED}/") else crop


def disagreeing(names: Sequence[str], vectors: Vectors, labels: NDArray[np.int64]) -> list[tuple[str, float]]:
    """(crop, median cosine with the rest), for people of three photos or more; of two, either may be wrong."""
    listed = []
    for label in range(int(labels.max()) + 1):
        of_person = np.flatnonzero(labels == label)
        if len(of_person) < 3:
            continue
        cosines = vectors[of_person] @ vectors[of_person].T
        np.fill_diagonal(cosines, np.nan)
        for i, median in zip(of_person, np.nanmedian(cosines, axis=1), strict=True):
            if median < DISAGREES:
                listed.append((names[int(i)], round(float(median), 3)))
    return listed


def means_of(vectors: Vectors, labels: NDArray[np.int64]) -> Vectors:
    """(people, dim) unit mean of each person's vectors."""
    sums = np.zeros((int(labels.max()) + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    return unit(sums)


def alike(
    mine: Sequence[str], vectors: Vectors, others: Sequence[str], theirs: Vectors, *, block: int = 4096
) -> list[tuple[str, str, float]]:
    """(one of mine, the nearest of the others, their cosine), where it says that they are one person."""
    listed = []
    for start in range(0, len(mine), block):
        cosines = vectors[start : start + block] @ theirs.T
        nearest = cosines.argmax(axis=1)
        for row in np.flatnonzero(cosines.max(axis=1) > SAME_PERSON).tolist():
            column = int(nearest[row])
            listed.append((mine[start + row], others[column], round(float(cosines[row, column]), 3)))
    return listed
