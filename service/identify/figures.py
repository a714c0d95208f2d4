"""What a calibration looks like: histograms of the scores, the trade-off of errors (DET), and its reliability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.identify.calibration import Calibration, expit

Numbers = NDArray[np.float64]

BINS: Final = 100
DECILES: Final = 10

BLOCK: Final = 1 << 16
"""Scores that are looked at together."""


@dataclass(frozen=True)
class Figures:
    """Points to plot.

    Attributes:
        edges: of the bins of the histograms, (b + 1,).
        mated: density of the mated cosines in each, (b,),
        impostor: and of the impostors'.
        fmr: false-match rates of the trade-off, falling, (k,),
        fnmr: and the share of mates missed at each.
        predicted: mean probability that the calibration gives in each tenth where both classes are as likely, (10,),
        observed: and the share of mates among them; NaN-free, tenths without a case are left out of all three.
        cases: pairs in each tenth, counted after weighing both classes alike.
    """

    edges: tuple[float, ...]
    mated: tuple[float, ...]
    impostor: tuple[float, ...]
    fmr: tuple[float, ...]
    fnmr: tuple[float, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    cases: tuple[int, ...]


def figures(calibration: Calibration, mated: NDArray[np.floating[Any]], impostor: NDArray[np.floating[Any]]) -> Figures:
    """The figures of a calibration on some scores, best ones that it has not seen.

    Args:
        calibration: what is looked at.
        mated: cosines of pairs of one person, or quantiles of them, (m,).
        impostor: cosines of pairs of two people, (n,).
    """
    edges = np.linspace(-0.4, 1.0, BINS + 1)
    histograms = [
        np.histogram(scores, edges)[0] / (len(scores) * (edges[1] - edges[0])) for scores in (mated, impostor)
    ]
    cases, mass, given, right = (np.zeros(DECILES) for _ in range(4))
    for scores, truth in ((mated, 1.0), (impostor, 0.0)):
        weight = 0.5 / len(scores)
        for first in range(0, len(scores), BLOCK):
            probability = expit(calibration.llr(scores[first : first + BLOCK]))
            tenth = np.minimum((probability * DECILES).astype(int), DECILES - 1)
            counted = np.bincount(tenth, minlength=DECILES)
            cases += counted
            mass += weight * counted
            given += weight * np.bincount(tenth, probability, minlength=DECILES)
            right += weight * truth * counted
    predicted, observed = given / np.maximum(mass, 1e-300), right / np.maximum(mass, 1e-300)
    filled = cases > 0
    return Figures(
        edges=_plain(edges),
        mated=_plain(histograms[0]),
        impostor=_plain(histograms[1]),
        fmr=calibration.fmr,
        fnmr=calibration.fnmr,
        predicted=_plain(predicted[filled]),
        observed=_plain(observed[filled]),
        cases=tuple(int(count) for count in cases[filled]),
    )


def _plain(values: Numbers) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
