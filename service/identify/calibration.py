"""What a cosine means: log-likelihood ratios, and thresholds for stated error rates.

Fitted on the cosines of labelled pairs, mated (one person) and impostor (two people). A rate is only ever stated
where the data can vouch for it: with n impostor pairs and no error seen, the rule of three bounds the true rate by
3/n at 95 % (Hanley and Lippman-Hand 1983), so a threshold for less than 3/n is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import FpirNotSupportedError

RULE_OF_THREE: Final = 3.0
POINTS_PER_DECADE: Final = 4
NEWTON_STEPS: Final = 50
MOST_FITTED: Final = 1_000_000
"""Impostor pairs that the regression looks at; the tables of rates always use all."""


@dataclass(frozen=True)
class Calibration:
    """A calibration of one model.

    Attributes:
        mated_pairs: pairs of one person that it was fitted on.
        impostor_pairs: pairs of two people.
        intercept: a of LLR(s) = a + b s, natural logarithm.
        slope: b, positive.
        llr_floor: LLRs are clipped to what the data supports, below
        llr_ceiling: and above.
        fmr: false-match rates, falling.
        thresholds: least cosine accepted at each of those rates, rising.
        fnmr: share of mated pairs under each threshold.
    """

    mated_pairs: int
    impostor_pairs: int
    intercept: float
    slope: float
    llr_floor: float
    llr_ceiling: float
    fmr: tuple[float, ...]
    thresholds: tuple[float, ...]
    fnmr: tuple[float, ...]

    @property
    def least_fmr(self) -> float:
        """The lowest false-match rate that the data can vouch for."""
        return RULE_OF_THREE / self.impostor_pairs

    def llr(self, similarity: ArrayLike) -> NDArray[np.float64]:
        """Log-likelihood ratio (mated over impostor, natural logarithm) of cosines of any shape."""
        raw = self.intercept + self.slope * np.asarray(similarity, np.float64)
        return np.clip(raw, self.llr_floor, self.llr_ceiling)

    def probability(self, similarity: float) -> float:
        """Probability that two faces are of one person, when both answers were equally likely beforehand."""
        return float(expit(self.llr(similarity)))

    def threshold(self, fmr: float) -> float:
        """The least cosine that is accepted at a false-match rate, interpolated in log(fmr).

        Raises:
            FpirNotSupportedError: the rate is lower than the data can vouch for.
        """
        if fmr < self.least_fmr * (1 - 1e-9):
            raise FpirNotSupportedError(
                f"{self.impostor_pairs:,} impostor pairs vouch for a false-match rate of {self.least_fmr:.1e} at best, "
                f"not for {fmr:.1e}",
                least=self.least_fmr,
            )
        return float(np.interp(-np.log(fmr), -np.log(self.fmr), self.thresholds))


def fit(mated: NDArray[np.floating[Any]], impostor: NDArray[np.floating[Any]], *, seed: int = 0) -> Calibration:
    """Fit a calibration.

    Args:
        mated: cosines of pairs of one person, (m,).
        impostor: cosines of pairs of two people, (n,).
        seed: of the choice of impostors for the regression, where there are very many.

    Raises:
        ValueError: too few pairs to say anything.
    """
    if len(mated) < RULE_OF_THREE or len(impostor) < 10 * RULE_OF_THREE:
        raise ValueError(f"{len(mated)} mated and {len(impostor)} impostor pairs are too few for a calibration")
    few = impostor
    if len(impostor) > MOST_FITTED:
        few = impostor[np.random.default_rng(seed).integers(0, len(impostor), MOST_FITTED)]
    intercept, slope = _logistic(mated.astype(np.float64), few.astype(np.float64))
    rates = _rates(RULE_OF_THREE / len(impostor))
    ordered = np.sort(impostor)
    # The threshold for a rate r lets at most floor(r n) impostors reach it: just above the next one down.
    allowed = np.floor(rates * len(impostor) + 1e-9).astype(np.int64)
    thresholds = np.nextafter(ordered[len(ordered) - 1 - allowed].astype(np.float64), 2.0)
    fnmr = np.searchsorted(np.sort(mated), thresholds, side="left") / len(mated)
    return Calibration(
        mated_pairs=len(mated),
        impostor_pairs=len(impostor),
        intercept=intercept,
        slope=slope,
        llr_floor=-float(np.log(len(mated) / RULE_OF_THREE)),
        llr_ceiling=float(np.log(len(impostor) / RULE_OF_THREE)),
        fmr=tuple(float(rate) for rate in rates),
        thresholds=tuple(float(value) for value in thresholds),
        fnmr=tuple(float(value) for value in fnmr),
    )


def _rates(least: float) -> NDArray[np.float64]:
    """Rates from 0.5 down to the least that may be stated, evenly in the logarithm."""
    decades = np.log10(0.5 / least)
    return np.geomspace(0.5, least, int(np.ceil(decades * POINTS_PER_DECADE)) + 1)


def expit(x: ArrayLike) -> NDArray[np.float64]:
    """The logistic function 1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))


def _logistic(mated: NDArray[np.float64], impostor: NDArray[np.float64]) -> tuple[float, float]:
    """Logistic regression of one cosine by Newton's method, both classes weighing the same.

    With equal weights the log odds that it fits are the log-likelihood ratio (Brummer and du Preez 2006, section 4).
    """
    x = np.concatenate([mated, impostor])
    target = np.concatenate([np.ones(len(mated)), np.zeros(len(impostor))])
    weight = np.concatenate([np.full(len(mated), 0.5 / len(mated)), np.full(len(impostor), 0.5 / len(impostor))])
    design = np.stack([np.ones_like(x), x], axis=1)
    beta = np.zeros(2)
    # A trace of ridge keeps perfectly separated classes from running off to infinity.
    ridge = np.diag([0.0, 1e-6])
    for _ in range(NEWTON_STEPS):
        p = expit(design @ beta)
        gradient = design.T @ (weight * (target - p)) - ridge @ beta
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + ridge
        step = np.linalg.solve(hessian, gradient)
        beta += step
        if np.abs(step).max() < 1e-9:
            break
    return float(beta[0]), float(beta[1])
