"""What is measured, as records: one dict a figure, with `figure` and `value`, or `refused` and why.

Rates carry 95 % intervals: by bootstrap over people where it is known whose photos were compared, by Wilson over pairs
or probes taken as independent where it is not (`interval` says which).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.bootstrap import fnir_interval, tar_interval
from training.errors import EvaluationError, RateNotSupportedError
from training.identification import Rows, Search, det_points, fnir_at_fpir, rank_rates, search
from training.retrieval import k_means, nmi, retrieval
from training.verification import accuracy_of_scores, det_curve, drawn_pairs, pair_scores, tar_at_far

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FPIRS = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10)
CLUSTERED = 20_000
"""Photos that k-means is run on at most, those of drawn people: its work grows with photos times people."""

OVER_PEOPLE, OVER_PAIRS = "bootstrap over people", "Wilson"

Figure = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """A DET curve: the (k,) rates of one error against those of the other, and what they are called."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    labels: tuple[str, str]


Seen = Iterator[Figure | Curve]


# --- 1:1 ---


def verification(
    scores: NDArray[np.float32],
    same: NDArray[np.bool_],
    *,
    people: NDArray[np.int64] | None = None,
    folds: bool = False,
) -> Seen:
    """Accuracy, TARs, and the DET curve of scored pairs.

    Args:
        scores: (n,) similarities.
        same: (n,) whether a pair shows one person.
        people: (n, 2) whose photos were compared, if that is known.
        folds: whether the pairs are in the order of a protocol of ten folds; only then is an accuracy told.
    """
    if folds:
        accuracy = accuracy_of_scores(scores, same, folds=True)
        yield {"figure": "accuracy", "value": accuracy, "unit": "%", "pairs": len(same)}
    mated, impostors = scores[same], scores[~same]
    for far in FARS:
        try:
            rate = tar_at_far(mated, impostors, far)
        except RateNotSupportedError as error:
            yield {"figure": "tar", "far": far, "refused": error.detail}
            continue
        record = {"figure": "tar", "value": rate.tar, **asdict(rate), "interval": OVER_PAIRS}
        if people is not None:
            low, high = tar_interval(mated, people[same, 0], impostors, people[~same], far)
            record |= {"low": low, "high": high, "interval": OVER_PEOPLE}
        yield record
    if len(mated) and len(impostors):
        yield Curve("verification", *det_curve(mated, impostors), ("false-match rate", "false-non-match rate"))


def verification_of_people(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> Seen:
    """TARs over all pairs of one person and drawn pairs of two."""
    pairs, same = drawn_pairs(labels)
    if same.any() and not same.all():
        yield from verification(pair_scores(vectors, pairs), same, people=labels[pairs])


# --- 1:N ---


def identification_of_people(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> Seen:
    """Open-set search in two galleries of labelled photos.

    People with two or more photos are dealt in turn to gallery 1, gallery 2 and the strangers; of an enrolled person
    the first photo is the template and the others are probes. A stranger is in neither gallery; a person of the other
    gallery is neither a mate nor a stranger and is left out of the search.
    """
    _, person, counts = np.unique(labels, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    group = np.full(len(counts), -1)
    group[several] = np.arange(len(several)) % 3
    if not (group == 2).any():
        raise EvaluationError("open-set search needs three people with two photos each, or more")
    first = np.zeros(len(labels), np.bool_)
    first[np.unique(person, return_index=True)[1]] = True
    for number in (0, 1):
        gallery = np.flatnonzero(first & (group[person] == number))
        probes = np.flatnonzero(((group[person] == number) & ~first) | (group[person] == 2))
        found = search(Rows(vectors, probes), person[probes], Rows(vectors, gallery), person[gallery])
        names = {"gallery": number + 1, "enrolled": len(gallery)}
        yield from ranks(found, names)
        yield from open_set(found, person[probes], group[person[probes]] == 2, {**names, "strangers": IN_NEITHER})


IN_NEITHER, NOT_IN_THIS_ONE = "in neither gallery", "not in this gallery"


def ranks(found: Search, names: Figure) -> Seen:
    """Closed-set rates: how often the mate is among the first k people."""
    for k, value in zip(RANKS, rank_rates(found, RANKS), strict=True):
        yield {"figure": f"rank{k}", "value": value, **names}


def open_set(found: Search, people: NDArray[np.integer], strangers: NDArray[np.bool_], names: Figure) -> Seen:
    """FNIRs at FPIRs, and the DET curve, of the searches in one gallery."""
    mated = np.isfinite(found.mate)
    returned = np.where(found.best_person == people, found.best, -np.inf)
    for fpir in FPIRS:
        try:
            rate = fnir_at_fpir(found, people, strangers, fpir)
        except RateNotSupportedError as error:
            yield {"figure": "fnir", "fpir": fpir, "refused": error.detail, **names}
            continue
        low, high = fnir_interval(returned[mated], people[mated], found.best[strangers], people[strangers], fpir)
        record = {"figure": "fnir", "value": rate.fnir, **asdict(rate), **names}
        yield {**record, "low": low, "high": high, "interval": OVER_PEOPLE}
    if strangers.any():
        named = f"identification-{names['gallery']}"
        axes = ("false-positive identification rate", "false-negative identification rate")
        yield Curve(named, *det_points(found, people, strangers), axes)


# --- retrieval ---


def retrieval_of(vectors: NDArray[np.float32], labels: NDArray[np.int64], *, queries: int | None = None) -> Seen:
    """Recall@K, R-precision, MAP@R, and NMI of as many clusters as there are people."""
    found = retrieval(vectors, labels, most=queries)
    for k, value in found.recall.items():
        yield {"figure": f"recall@{k}", "value": value, "queries": found.queries}
    yield {"figure": "r_precision", "value": found.r_precision, "queries": found.queries}
    yield {"figure": "map@r", "value": found.map_at_r, "queries": found.queries}
    chosen = _of_some_people(labels, CLUSTERED)
    clusters = k_means(vectors[chosen], len(np.unique(labels[chosen])))
    yield {"figure": "nmi", "value": nmi(labels[chosen], clusters), "mean": "arithmetic", "photos": len(chosen)}


def _of_some_people(labels: NDArray[np.int64], photos: int) -> NDArray[np.intp]:
    """Numbers of the photos of drawn people, about as many as wanted; all where there are no more."""
    names, counts = np.unique(labels, return_counts=True)
    if len(labels) <= photos:
        return np.arange(len(labels))
    order: Sequence[int] = np.random.default_rng(0).permutation(len(names)).tolist()
    within = max(1, int(np.searchsorted(np.cumsum(counts[order]), photos, side="right")))
    return np.flatnonzero(np.isin(labels, names[order[:within]]))
