"""Open-set 1:N measures in the words of NIST FRTE: FPIR, FNIR, rank, for one gallery of templates.

A probe is mated when its person is in the gallery that is searched, and non-mated when that person is in none of the
galleries searched: with two galleries, such as IJB-C's G1 and G2, people of the other one are no strangers to it, and
each gallery is measured apart. Similarities are computed in blocks, so that a million templates need no full matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.errors import EvaluationError, RateNotSupportedError

Vectors = NDArray[np.float32]
People = NDArray[np.integer]
PROBES = 1024
"""Probes searched at a time."""


class Table(Protocol):
    """Vectors by number: an array, or some rows of one."""

    def __len__(self) -> int:
        """Number of vectors."""
        ...

    def __getitem__(self, which: NDArray[np.intp], /) -> Vectors:
        """The vectors of these numbers."""
        ...


@dataclass(frozen=True)
class Rows:
    """Some rows of an array, gathered where they are asked for: probes and galleries of a million need no copies.

    Attributes:
        vectors: (n, dim).
        numbers: (k,) the rows.
    """

    vectors: Vectors
    numbers: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, which: NDArray[np.intp], /) -> Vectors:
        return self.vectors[self.numbers[which]]


@dataclass(frozen=True)
class Search:
    """What each probe's search in a gallery gave.

    Attributes:
        best: (n,) highest similarity to anyone.
        best_person: (n,) whose it is.
        mate: (n,) highest similarity to the probe's own person, -inf where it is not in the gallery.
        rank: (n,) 1 for a mate found first, 2 for one person before it, ...; 0 without a mate.
    """

    best: NDArray[np.float32]
    best_person: People
    mate: NDArray[np.float32]
    rank: NDArray[np.int64]


def search(probes: Table, people: People, gallery: Table, owners: People, *, block: int = 65_536) -> Search:
    """Search every probe in a gallery; a person's similarity is that of the best of its templates.

    Args:
        probes: (n, dim) unit vectors.
        people: (n,) whose they are.
        gallery: (m, dim) unit vectors.
        owners: (m,) whose they are.
        block: templates compared at once; a person's templates never fall into two blocks.

    Raises:
        EvaluationError: there are no probes or no templates.
    """
    if not len(probes) or not len(gallery):
        raise EvaluationError(f"{len(probes)} probes cannot be searched among {len(gallery)} templates")
    order = np.argsort(owners, kind="stable")
    names, starts = np.unique(owners[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    place = np.searchsorted(names, people)
    enrolled = (place < len(names)) & (names[np.minimum(place, len(names) - 1)] == people)
    best = np.full(len(probes), -np.inf, np.float32)
    best_person = np.full(len(probes), -1, names.dtype)
    mate = np.full(len(probes), -np.inf, np.float32)
    before = np.zeros(len(probes), np.int64)
    at = np.flatnonzero(enrolled)
    at = at[np.argsort(place[at], kind="stable")]
    for start in range(0, len(at), PROBES):  # first the mates, which the ranks are counted against
        rows = at[start : start + PROBES]
        for low, high in _spans(ends, block, int(place[rows[0]]), int(place[rows[-1]]) + 1):
            here = rows[(place[rows] >= low) & (place[rows] < high)]
            if len(here):
                scores = _by_person(probes[here], gallery, order, starts, ends, low, high)
                mate[here] = scores[np.arange(len(here)), place[here] - low]
    for low, high in _spans(ends, block, 0, len(names)):
        templates = gallery[order[starts[low] : ends[high - 1]]]
        for start in range(0, len(probes), PROBES):
            rows = np.arange(start, min(start + PROBES, len(probes)))
            scores = np.maximum.reduceat(probes[rows] @ templates.T, starts[low:high] - starts[low], axis=1)
            first = scores.argmax(axis=1)
            top = scores[np.arange(len(rows)), first]
            better = top > best[rows]
            best[rows[better]], best_person[rows[better]] = top[better], names[low + first[better]]
            own = np.flatnonzero(enrolled[rows] & (place[rows] >= low) & (place[rows] < high))
            scores[own, place[rows[own]] - low] = -np.inf  # rounding differs between blocks: nobody precedes himself
            before[rows] += (scores > mate[rows, None]).sum(axis=1)
    return Search(best, best_person, mate, np.where(enrolled, before + 1, 0))


def _spans(ends: NDArray[np.intp], block: int, first: int, last: int) -> list[tuple[int, int]]:
    """Ranges of the people `first` to `last` (exclusive) whose templates together are about a block."""
    spans, low, start = [], first, int(ends[first - 1]) if first else 0
    for person in range(first, last):
        if ends[person] - start >= block or person == last - 1:
            spans.append((low, person + 1))
            low, start = person + 1, int(ends[person])
    return spans


def _by_person(
    probes: Vectors,
    gallery: Table,
    order: NDArray[np.intp],
    starts: NDArray[np.intp],
    ends: NDArray[np.intp],
    low: int,
    high: int,
) -> NDArray[np.float32]:
    """(n, high - low) similarity of probes with people `low` to `high`."""
    first, last = int(starts[low]), int(ends[high - 1])
    scores = probes @ gallery[order[first:last]].T
    found: NDArray[np.float32] = np.maximum.reduceat(scores, starts[low:high] - first, axis=1)
    return found


@dataclass(frozen=True)
class IdentificationRate:
    """FNIR at an FPIR.

    Attributes:
        fpir: the asked FPIR.
        fnir: share of mated probes whose mate is not first at or above the threshold.
        low: lower end of the 95 % interval (Wilson) of the FNIR.
        high: its upper end.
        misidentified: share of mated probes for whom someone else is first at or above the threshold.
        threshold: least similarity that is returned.
        mated: number of mated probes.
        non_mated: number of non-mated probes.
    """

    fpir: float
    fnir: float
    low: float
    high: float
    misidentified: float
    threshold: float
    mated: int
    non_mated: int


def fnir_at_fpir(found: Search, people: People, strangers: NDArray[np.bool_], fpir: float) -> IdentificationRate:
    """FNIR(N, 1, T) at an FPIR.

    Args:
        found: the searches in one gallery.
        people: (n,) whose the probes are.
        strangers: (n,) whether a probe's person is in none of the galleries searched.
        fpir: false-positive identification rate.

    Raises:
        RateNotSupportedError: the FPIR is below 3 / (number of non-mated probes).
        EvaluationError: no probe has a mate.
    """
    mated = np.isfinite(found.mate)
    outside = found.best[strangers]
    if not len(outside) or fpir < 3 / len(outside):
        raise RateNotSupportedError(
            f"an FPIR of {fpir:g} needs at least {int(np.ceil(3 / fpir))} non-mated probes, there are {len(outside)}"
        )
    if not mated.any():
        raise EvaluationError("no probe's person is in the gallery")
    allowed = int(np.floor(fpir * len(outside) * (1 + 1e-12)))
    place = max(len(outside) - allowed - 1, 0)
    threshold = float(np.nextafter(np.partition(outside, place)[place], np.inf, dtype=outside.dtype))
    passed = found.best >= threshold
    hits = mated & passed & (found.best_person == people)
    count = int(mated.sum())
    misses = count - int(hits.sum())
    interval = stats.binomtest(misses, count).proportion_ci(0.95, method="wilson")
    return IdentificationRate(
        fpir=fpir,
        fnir=misses / count,
        low=interval.low,
        high=interval.high,
        misidentified=int((mated & passed & (found.best_person != people)).sum()) / count,
        threshold=threshold,
        mated=count,
        non_mated=len(outside),
    )


def rank_rates(found: Search, ranks: Sequence[int]) -> list[float]:
    """Share of mated probes whose mate is among the first k people, for each k.

    Raises:
        EvaluationError: no probe's person is in the gallery.
    """
    ranked = found.rank[found.rank > 0]
    if not len(ranked):
        raise EvaluationError("no probe's person is in the gallery")
    return [float(np.mean(ranked <= k)) for k in ranks]


def det_points(
    found: Search, people: People, strangers: NDArray[np.bool_], points: int = 100
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FPIR and FNIR at thresholds from the strictest that the non-mated probes can vouch for to none at all.

    Returns:
        (k,) FPIRs, rising, and the (k,) FNIR at each.
    """
    outside = np.sort(found.best[strangers])
    mated = np.isfinite(found.mate)
    if not len(outside) or not mated.any():
        raise EvaluationError("a curve needs mated and non-mated probes")
    right = np.sort(np.where(found.best_person == people, found.best, -np.inf)[mated])
    accepted = np.unique(np.geomspace(min(3, len(outside)), len(outside), points).astype(int))
    thresholds = outside[len(outside) - accepted]
    fpir = 1 - np.searchsorted(outside, thresholds, side="left") / len(outside)
    return fpir, np.searchsorted(right, thresholds, side="left") / len(right)
