"""1:1 measures from similarities of pairs: LFW's ten folds, TAR at a stated FAR, the DET curve.

TAR (true-accept rate) = 1 - FNMR, FAR = FMR in the words of ISO/IEC 19795-1. All functions are pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.errors import EvaluationError, RateNotSupportedError

Scores = NDArray[np.floating]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy over folds, each judged at the threshold that is best on all others.

    Attributes:
        mean: over the folds, in percent.
        deviation: between the folds, in points.
        folds: accuracy of each fold, in percent.
        thresholds: threshold used for each fold.
    """

    mean: float
    deviation: float
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]


def fold_accuracy(scores: Scores, same: Flags, folds: int = 10) -> FoldAccuracy:
    """Accuracy as LFW's protocol has it.

    Args:
        scores: (n,) similarity of each pair, higher for more alike; the folds follow one another, all of one size.
        same: (n,) whether a pair shows one person.
        folds: number of folds.

    Raises:
        EvaluationError: the pairs do not divide into the folds.
    """
    _check(scores, same)
    if folds < 2 or len(scores) % folds:
        raise EvaluationError(f"{len(scores)} pairs do not divide into {folds} folds")
    fold = np.repeat(np.arange(folds), len(scores) // folds)
    accuracies, thresholds = [], []
    for each in range(folds):
        rest = fold != each
        threshold = best_threshold(scores[rest], same[rest])
        accuracies.append(100.0 * float(np.mean((scores[~rest] >= threshold) == same[~rest])))
        thresholds.append(threshold)
    return FoldAccuracy(float(np.mean(accuracies)), float(np.std(accuracies)), tuple(accuracies), tuple(thresholds))


def accuracy_of_scores(scores: Scores, same: Flags, *, folds: bool) -> float:
    """Accuracy in percent of scored pairs, over ten folds or all at once.

    Args:
        scores: (n,) similarities.
        same: (n,) whether a pair shows one person.
        folds: whether the pairs are in the order of a protocol; over five or two, or by leaving each pair out, where
            they do not divide into ten. Otherwise both kinds weigh alike, however many there are of each, and the
            threshold is that of the pairs themselves.
    """
    _check(scores, same)
    if folds:
        parts = next(each for each in (10, 5, 2, len(same)) if len(same) % each == 0)
        return fold_accuracy(scores, same, parts).mean
    mated, impostors = np.sort(scores[same]), np.sort(scores[~same])
    if not len(mated) or not len(impostors):
        raise EvaluationError("an accuracy needs pairs of one person and of two")
    fnmr = np.searchsorted(mated, mated, side="left") / len(mated)
    fmr = 1 - np.searchsorted(impostors, mated, side="left") / len(impostors)
    return 100.0 * (1 - float(np.min(fnmr + fmr)) / 2)


def best_threshold(scores: Scores, same: Flags) -> float:
    """The threshold with the fewest errors: the middle between two neighbours, the lowest of several."""
    order = np.argsort(scores, kind="stable")
    ranked, flags = scores[order], same[order]
    # errors when everything from place i on is accepted: mates before i, impostors from i on
    errors = np.concatenate([[0], np.cumsum(flags)]) + np.concatenate([np.cumsum(~flags[::-1])[::-1], [0]])
    possible = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    place = int(np.flatnonzero(possible)[np.argmin(errors[possible])])
    low = ranked[place - 1] if place else ranked[0] - 1.0
    high = ranked[place] if place < len(ranked) else ranked[-1] + 1.0
    return float((low + high) / 2)


@dataclass(frozen=True)
class AcceptRate:
    """TAR at a FAR.

    Attributes:
        far: the asked FAR.
        tar: share of mated pairs at or above the threshold.
        low: lower end of the 95 % interval (Wilson) of the TAR, the pairs taken as independent.
        high: its upper end.
        threshold: least similarity that is accepted.
        mated: number of mated pairs.
        impostors: number of non-mated pairs.
    """

    far: float
    tar: float
    low: float
    high: float
    threshold: float
    mated: int
    impostors: int


def tar_at_far(mated: Scores, impostors: Scores, far: float) -> AcceptRate:
    """TAR at a FAR.

    The threshold lies just above the highest impostor that must be refused, so that the FAR is at most the asked one.

    Args:
        mated: (n,) similarities of pairs of one person.
        impostors: (m,) similarities of pairs of two people.
        far: false-accept rate.

    Raises:
        RateNotSupportedError: the FAR is below 3 / m, where no errors would be expected even at three times the rate.
        EvaluationError: there are no mated pairs.
    """
    if not len(mated):
        raise EvaluationError("there are no mated pairs")
    if not len(impostors) or far < 3 / len(impostors):
        raise RateNotSupportedError(
            f"a FAR of {far:g} needs at least {int(np.ceil(3 / far))} impostor pairs, there are {len(impostors)}"
        )
    allowed = int(np.floor(far * len(impostors) * (1 + 1e-12)))
    place = max(len(impostors) - allowed - 1, 0)
    threshold = float(np.nextafter(np.partition(impostors, place)[place], np.inf, dtype=impostors.dtype))
    accepted = int(np.count_nonzero(mated >= threshold))
    interval = stats.binomtest(accepted, len(mated)).proportion_ci(0.95, method="wilson")
    return AcceptRate(far, accepted / len(mated), interval.low, interval.high, threshold, len(mated), len(impostors))


def det_curve(mated: Scores, impostors: Scores, points: int = 200) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FMR and FNMR at thresholds spread evenly over the impostors' ranks on a logarithmic scale.

    Returns:
        (k,) FMRs, rising, from 3 / m to 1, and the (k,) FNMR at each.
    """
    _check(mated, np.ones(len(mated), np.bool_))
    ordered_impostors, ordered_mated = np.sort(impostors), np.sort(mated)
    count = len(ordered_impostors)
    accepted = np.unique(np.geomspace(min(3, count), count, points).astype(int))
    thresholds = ordered_impostors[count - accepted]
    fmr = 1 - np.searchsorted(ordered_impostors, thresholds, side="left") / count
    fnmr = np.searchsorted(ordered_mated, thresholds, side="left") / len(ordered_mated)
    return fmr, fnmr


def pair_scores(
    embeddings: NDArray[np.floating], pairs: NDArray[np.integer], *, block: int = 65_536
) -> NDArray[np.float32]:
    """(k,) cosines of (k, 2) pairs of (n, dim) unit vectors, a block of pairs at a time."""
    scores = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), block):
        first, second = pairs[start : start + block].T
        np.einsum("ij,ij->i", embeddings[first], embeddings[second], out=scores[start : start + block])
    return scores


def supported_far(impostors: int) -> float | None:
    """The least power of ten that so many impostor pairs can vouch for as a FAR; None below thirty pairs."""
    return float(10.0 ** -np.floor(np.log10(impostors / 3))) if impostors >= 30 else None


def drawn_pairs(
    labels: NDArray[np.integer], *, mated: int = 1_000_000, impostors: int = 1_000_000, seed: int = 0
) -> tuple[NDArray[np.int64], Flags]:
    """Pairs of labelled photos: all of one person, or so many drawn ones, and drawn ones of two people.

    Returns:
        (k, 2) numbers of photos, those of one person first, no pair twice; and (k,) whether it shows one person.
    """
    random = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ends = np.cumsum(counts * (counts - 1) // 2)  # pair number -> person; within a person, row by row
    total = int(ends[-1])
    numbers = np.arange(total) if total <= mated else np.sort(random.choice(total, mated, replace=False))
    person = np.searchsorted(ends, numbers, side="right")
    at = numbers - (ends[person] - counts[person] * (counts[person] - 1) // 2)
    high = ((1 + np.sqrt(1 + 8 * at)) // 2).astype(np.int64)
    low = at - high * (high - 1) // 2
    same = np.stack([order[starts[person] + low], order[starts[person] + high]], axis=1)
    drawn = np.sort(random.integers(0, len(labels), (2 * impostors, 2)), axis=1)
    drawn = np.unique(drawn[labels[drawn[:, 0]] != labels[drawn[:, 1]]], axis=0)
    other = random.permutation(drawn)[:impostors]
    return np.concatenate([same, other]).astype(np.int64), np.arange(len(same) + len(other)) < len(same)


def _check(scores: Scores, same: Flags) -> None:
    if not len(scores) or len(scores) != len(same):
        raise EvaluationError(f"{len(scores)} scores came with {len(same)} flags")
    if not np.isfinite(scores).all():
        raise EvaluationError("a score is not finite")
