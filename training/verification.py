"""1:1 measures from similarities of pairs: LFW's ten folds, TAR at a stated FAR, the DET curve.

TAR (true-accept rate) = 1 - FNMR, FAR = FMR in the words of ISO/IEC 19795-1. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def paired_accuracy(vectors: NDArray[np.floating], same: Flags) -> float:
    """Accuracy in percent of unit vectors that come in pairs, 2 i and 2 i + 1, as verification sets pack them.

    Measured over ten folds; over five or two, or by leaving each pair out, where the pairs do not divide into more.
    """
    scores = pair_scores(vectors, np.arange(len(vectors)).reshape(-1, 2))
    folds = next(each for each in (10, 5, 2, len(same)) if len(same) % each == 0)
    return fold_accuracy(scores, same, folds).mean


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


def pair_scores(embeddings: NDArray[np.floating], pairs: NDArray[np.integer]) -> NDArray[np.float32]:
    """(k,) cosines of (k, 2) pairs of (n, dim) unit vectors."""
    scores: NDArray[np.float32] = np.einsum(
        "ij,ij->i", embeddings[pairs[:, 0]], embeddings[pairs[:, 1]], dtype=np.float32
    )
    return scores


def read_pairs(text: str) -> tuple[list[tuple[str, str]], Flags]:
    """Read LFW's `pairs.txt`.

    Args:
        text: the file's content: a line of counts, then `name i j` or `name i other j`, separated by tabs.

    Returns:
        The pairs as file stems (`Name_0001`), and (n,) whether each shows one person.

    Raises:
        EvaluationError: a line has another form.
    """
    pairs: list[tuple[str, str]] = []
    same: list[bool] = []
    for number, line in enumerate(text.splitlines()[1:], 2):
        parts: Sequence[str] = line.split("\t")
        if len(parts) == 1:  # the training lists repeat a count between mates and impostors
            continue
        try:
            if len(parts) == 3:
                name, i, j = parts
                pairs.append((f"{name}_{int(i):04d}", f"{name}_{int(j):04d}"))
            else:
                name, i, other, j = parts
                pairs.append((f"{name}_{int(i):04d}", f"{other}_{int(j):04d}"))
        except ValueError as error:
            raise EvaluationError(f"line {number} of the pairs is of another form: {line!r}") from error
        same.append(len(parts) == 3)
    return pairs, np.array(same, np.bool_)


def _check(scores: Scores, same: Flags) -> None:
    if not len(scores) or len(scores) != len(same):
        raise EvaluationError(f"{len(scores)} scores came with {len(same)} flags")
    if not np.isfinite(scores).all():
        raise EvaluationError("a score is not finite")
