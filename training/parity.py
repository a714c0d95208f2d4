"""The gate between a trained network and its file: how far apart they are, and what that costs.

`Proof` is what both are tried on: photos, and pairs of them that are known to show one person or two. `compared` tries
them, one crop at a time and 64 at a time; `check` closes the gate.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.artifact import sample
from training.embed import Embedder, crop, unit
from training.errors import ParityError
from training.records import PackedPairs
from training.sources import Part, Source, usable
from training.verification import (
    AcceptRate,
    accuracy_of_scores,
    drawn_pairs,
    pair_scores,
    supported_far,
    tar_at_far,
)

LARGEST_DIFFERENCE = 1e-4
LEAST_COSINE = 0.99999
LARGEST_LOSS = 0.1
"""Points of accuracy on the proof's pairs by which the file may be worse than the network."""
LARGEST_TAR_DIFFERENCE = 0.002
PHOTOS = 12_000
"""Photos of a proof at most; LFW's protocol shows 12,000."""


@dataclass(frozen=True)
class Proof:
    """What a network and its file are tried on.

    Attributes:
        name: of the set, a word; it names the measured figures.
        photos: encoded crops.
        pairs: (k, 2) numbers of photos.
        same: (k,) whether a pair shows one person.
        claimed: whether these people are unknown to the network, so that an accuracy may be told.
        folds: whether the pairs are in the order of a protocol of ten folds.
    """

    name: str
    photos: Sequence[bytes]
    pairs: NDArray[np.int64]
    same: NDArray[np.bool_]
    claimed: bool = True
    folds: bool = False


def proof_of_pairs(name: str, packed: PackedPairs) -> Proof:
    """A verification set as a proof."""
    photos, pairs = packed.distinct()
    return Proof(name, photos, pairs, packed.same, folds=True)


def proof_of_people(name: str, people: Source, *, claimed: bool = True, photos: int = PHOTOS) -> Proof:
    """Labelled crops as a proof: all pairs of one person, and as many drawn ones of two as a FAR of 1e-3 asks for.

    Args:
        name: of the set.
        people: the crops; of very many, whole people are drawn. What cannot be decoded and what several people have is
            named on stderr and left out.
        claimed: whether the network has not seen these people.
        photos: crops taken at most.

    Raises:
        DataError: not one crop can be used.
    """
    some, left_out = usable(Part(people, _some(people.labels, photos)))
    for place, reason in left_out:
        sys.stderr.write(f"left out {place}: {reason}\n")
    pairs, same = drawn_pairs(some.labels, impostors=100_000)
    return Proof(name, [some.read(index) for index in range(len(some))], pairs, same, claimed=claimed)


def _some(labels: NDArray[np.int64], photos: int) -> NDArray[np.int64]:
    """Numbers of the photos of drawn people, `photos` at most (more only where the first person alone has more)."""
    names, counts = np.unique(labels, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    within = max(1, int(np.searchsorted(np.cumsum(counts[order]), photos, side="right")))
    return np.flatnonzero(np.isin(labels, names[order[:within]]))


@dataclass(frozen=True)
class Shown:
    """What a proof's pairs say of some vectors: accuracy in percent, and TAR at the least FAR they can vouch for."""

    accuracy: float
    tar: AcceptRate | None


def shown(proof: Proof, vectors: NDArray[np.float32]) -> Shown:
    """Judge (n, dim) unit vectors of a proof's photos."""
    scores = pair_scores(vectors, proof.pairs)
    mated, impostors = scores[proof.same], scores[~proof.same]
    far = supported_far(len(impostors))
    rate = tar_at_far(mated, impostors, far) if far is not None and len(mated) else None
    return Shown(accuracy_of_scores(scores, proof.same, folds=proof.folds), rate)


@dataclass(frozen=True)
class Parity:
    """How near a file is to the network that it was made from.

    Attributes:
        difference: largest difference of any number of any embedding.
        cosine: least cosine between two embeddings of one crop.
        loss: points of accuracy that the file loses on the proof.
        tar_difference: how far the file's TAR is from the network's there.
        shown: what the proof says of the file.
    """

    difference: float
    cosine: float
    loss: float
    tar_difference: float
    shown: Shown


def compared(network: Embedder, exported: Embedder, proof: Proof) -> Parity:
    """Compare two embedders on the drawn crops and on a proof's photos."""
    drawn = len(sample.crops())
    crops = np.concatenate(
        [sample.crops(), np.stack([crop(proof.photos, number) for number in range(len(proof.photos))])]
    )
    expected, given = _embedded(network, crops, 64), _embedded(exported, crops, 64)
    singly = _embedded(exported, crops[:64], 1)
    cosines = [(unit(given) * unit(expected)).sum(axis=1).min(), (singly * expected[: len(singly)]).sum(axis=1).min()]
    before, after = (shown(proof, unit(each[drawn:])) for each in (expected, given))
    return Parity(
        difference=float(max(np.abs(given - expected).max(), np.abs(singly - expected[: len(singly)]).max())),
        cosine=float(np.min(cosines)),
        loss=before.accuracy - after.accuracy,
        tar_difference=abs(before.tar.tar - after.tar.tar) if before.tar and after.tar else 0.0,
        shown=after,
    )


def _embedded(embedder: Embedder, crops: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
    return np.concatenate([embedder(crops[start : start + batch]) for start in range(0, len(crops), batch)])


def check(found: Parity) -> None:
    """The gate.

    Raises:
        ParityError: the file is too far from the network; NaN is.
    """
    near = found.difference <= LARGEST_DIFFERENCE and found.cosine >= LEAST_COSINE
    if not (near and found.loss <= LARGEST_LOSS and found.tar_difference <= LARGEST_TAR_DIFFERENCE):
        raise ParityError(
            f"the exported file differs by {found.difference:.2g} (at most {LARGEST_DIFFERENCE:g}), its least cosine "
            f"is {found.cosine:.6f} (at least {LEAST_COSINE:g}), it loses {found.loss:.2f} points of accuracy "
            f"(at most {LARGEST_LOSS:g}), its TAR is off by {found.tar_difference:.4f} "
            f"(at most {LARGEST_TAR_DIFFERENCE:g})"
        )
