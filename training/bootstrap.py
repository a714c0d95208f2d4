"""Intervals that take people, not pairs, as what was drawn: photos of one person are right or wrong together.

People are drawn again with repetition, every score counts as often as its people were drawn, and the threshold is found
anew each time, so that its own uncertainty is inside. All functions are pure; an interval is the middle 95 %.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

ROUNDS = 400

Scores = NDArray[np.floating]
People = NDArray[np.integer]


def tar_interval(
    mated: Scores, person: People, impostors: Scores, pairs: People, far: float, *, rounds: int = ROUNDS, seed: int = 0
) -> tuple[float, float]:
    """Ends of the interval of a TAR at a FAR.

    Args:
        mated: (n,) similarities of pairs of one person.
        person: (n,) whose.
        impostors: (m,) similarities of pairs of two people.
        pairs: (m, 2) whose.
        far: false-accept rate.
        rounds: times that people are drawn.
        seed: start of the draws.
    """
    everybody, places = np.unique(np.concatenate([person, pairs.ravel()]), return_inverse=True)
    own, first, second = places[: len(person)], *places[len(person) :].reshape(-1, 2).T
    order = np.argsort(-impostors, kind="stable")
    ranked, first, second = impostors[order], first[order], second[order]
    rates = []
    for weight in _drawn(len(everybody), rounds, seed):
        threshold = _threshold(ranked, weight[first] * weight[second], far)
        counted = weight[own]
        if counted.any():
            rates.append(counted[mated > threshold].sum() / counted.sum())
    return _middle(rates)


def fnir_interval(
    returned: Scores,
    person: People,
    strangers: Scores,
    stranger: People,
    fpir: float,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> tuple[float, float]:
    """Ends of the interval of an FNIR at an FPIR.

    Args:
        returned: (n,) similarity of each mated probe's mate, -inf where somebody else is nearer.
        person: (n,) whose probes they are.
        strangers: (m,) highest similarity of each non-mated probe.
        stranger: (m,) whose probes they are.
        fpir: false-positive identification rate.
        rounds: times that people are drawn.
        seed: start of the draws.
    """
    known, own = np.unique(person, return_inverse=True)
    unknown, theirs = np.unique(stranger, return_inverse=True)
    order = np.argsort(-strangers, kind="stable")
    ranked, theirs = strangers[order], theirs[order]
    rates = []
    draws = zip(_drawn(len(known), rounds, seed), _drawn(len(unknown), rounds, seed + 1), strict=True)
    for weight, other in draws:
        threshold = _threshold(ranked, other[theirs], fpir)
        counted = weight[own]
        rates.append(counted[returned <= threshold].sum() / counted.sum())
    return _middle(rates)


def _drawn(people: int, rounds: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each of some people is drawn, once a round."""
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        yield np.bincount(random.integers(people, size=people), minlength=people)


def _threshold(ranked: Scores, weights: NDArray[np.int64], rate: float) -> float:
    """The highest score that must be refused; `ranked` falls, and what lies above it weighs at most the rate."""
    above = np.cumsum(weights)
    place = int(np.searchsorted(above, rate * above[-1] * (1 + 1e-12), side="right"))
    return float(ranked[min(place, len(ranked) - 1)])


def _middle(rates: list[float]) -> tuple[float, float]:
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)
