"""Who it is, at a stated error rate, when nothing is known beforehand: every person is as likely as the next.

One error budget alpha (the false-positive identification rate) is shared evenly among the N people of the gallery:
each may be accepted wrongly with probability alpha / N, and by the union bound an unknown visitor is then taken for
anybody at most with probability alpha, however the scores depend on one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import FpirNotSupportedError
from service.identify.calibration import Calibration

UNKNOWN_PRIOR: Final = 0.5
"""Probability, before the face is compared, that a visitor is nobody in the gallery."""


@dataclass(frozen=True)
class Threshold:
    """The least cosine for a match, and the false-positive identification rate that it stands for."""

    similarity: float
    fpir: float


@dataclass(frozen=True)
class Decision:
    """A decision about one probe.

    Attributes:
        decision: `match` or `unknown`.
        best: place of the accepted candidate, None for `unknown`.
        posteriors: probability of each candidate given the scores, (k,).
        prior_log_odds: log odds of each candidate before the face was compared; the same for all.
    """

    decision: Literal["match", "unknown"]
    best: int | None
    posteriors: NDArray[np.float64]
    prior_log_odds: float


def threshold(calibration: Calibration, people: int, fpir: float, *, insist: bool) -> Threshold:
    """The threshold of a plain full search.

    Args:
        calibration: of the model.
        people: in the gallery.
        fpir: target false-positive identification rate.
        insist: whether the caller asked for this very rate. A default that the calibration cannot vouch for in so
            large a gallery is answered with the strictest threshold there is and the rate that it does stand for.

    Raises:
        FpirNotSupportedError: the caller insists on a rate that the calibration cannot vouch for.
    """
    people = max(people, 1)
    fmr = fpir / people
    if fmr >= calibration.least_fmr:
        # Above one half the table ends; a single person may be accepted that easily, but no more so.
        return Threshold(calibration.threshold(min(fmr, calibration.fmr[0])), fpir)
    least = min(1.0, calibration.least_fmr * people)
    if insist:
        raise FpirNotSupportedError(
            f"with {people:,} people the calibration vouches for a rate of {least:.2g} at best, not {fpir:.2g}",
            least=least,
        )
    return Threshold(calibration.threshold(calibration.least_fmr), least)


def decide(
    similarities: NDArray[np.floating[Any]], *, people: int, calibration: Calibration, accept: Threshold
) -> Decision:
    """Decide about one probe.

    Posterior (PRIORS, "Posterior after examining the set E"): v_i = pi_i L_i / (pi_u + sum over E of pi_j L_j + R),
    with pi_j = (1 - pi_u)/N, E the candidates given, and R the prior mass of everybody else, whose likelihood ratios
    are at most 1 on average.

    Args:
        similarities: cosines of the best candidates, best first, (k,).
        people: in the gallery.
        calibration: of the model.
        accept: the threshold.
    """
    people = max(people, len(similarities), 1)
    each = (1 - UNKNOWN_PRIOR) / people
    likelihoods = np.exp(calibration.llr(similarities))
    rest = each * (people - len(similarities))
    posteriors = each * likelihoods / (UNKNOWN_PRIOR + each * likelihoods.sum() + rest)
    found = len(similarities) > 0 and float(similarities[0]) >= accept.similarity
    return Decision(
        decision="match" if found else "unknown",
        best=0 if found else None,
        posteriors=posteriors,
        prior_log_odds=float(np.log(each / (1 - each))),
    )
