"""The far end of the impostors' scores: a generalised Pareto distribution (GPD) above a high threshold.

    y = (s - centre)^2,   P(y >= v | y >= u) = (1 + shape (v - u) / scale)^(-1 / shape)

By the theorem of Pickands, Balkema and de Haan this is what the tail of nearly every distribution looks like, but how
far out it begins to do so differs. Cosines of strangers are nearly Gaussian, and a Gaussian tail converges so slowly
that a GPD fitted above its 99.9 % quantile understates its reach four decades further out by a third. The squares of
Gaussians have a nearly exponential tail, to which the GPD fits almost at once; hence y.

The two parameters come from probability-weighted moments (Hosking and Wallis 1987), which are closed formulas and
steadier than maximum likelihood at a few hundred exceedances. The shape is signed as in `scipy.stats.genpareto`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

FEWEST: Final = 100
"""Exceedances under which no tail is fitted."""

FLAT: Final = 1e-6
"""A shape this near to zero is the exponential distribution."""


@dataclass(frozen=True)
class Tail:
    """A fitted tail.

    Attributes:
        centre: middle of the impostor scores.
        start: score above which it holds.
        share: share of all impostor scores above it.
        shape: negative where the scores have an end, positive where they have not.
        scale: in units of squared score, positive.
    """

    centre: float
    start: float
    share: float
    shape: float
    scale: float

    def survival(self, scores: ArrayLike) -> Numbers:
        """Share of all impostor scores at or above each of these, which lie above `start`."""
        inside = self._inside(scores)
        if abs(self.shape) < FLAT:
            return np.asarray(self.share * np.exp(-inside))
        with np.errstate(divide="ignore"):
            return np.asarray(self.share * inside ** (-1 / self.shape))

    def density(self, scores: ArrayLike) -> Numbers:
        """Density of the impostor scores, per unit of score."""
        inside = self._inside(scores)
        slope = 2 * (np.asarray(scores, np.float64) - self.centre) / self.scale
        if abs(self.shape) < FLAT:
            return np.asarray(self.share * slope * np.exp(-inside))
        with np.errstate(divide="ignore"):
            return np.asarray(self.share * slope * inside ** (-1 / self.shape - 1))

    def score(self, rates: ArrayLike) -> Numbers:
        """The score that a share `rates` of all impostor scores reaches; none is above `share`."""
        ratio = np.asarray(rates, np.float64) / self.share
        beyond = -np.log(ratio) if abs(self.shape) < FLAT else (ratio**-self.shape - 1) / self.shape
        return np.asarray(self.centre + np.sqrt((self.start - self.centre) ** 2 + self.scale * beyond))

    def _inside(self, scores: ArrayLike) -> Numbers:
        squares = (np.asarray(scores, np.float64) - self.centre) ** 2
        above = (squares - (self.start - self.centre) ** 2) / self.scale
        return above if abs(self.shape) < FLAT else np.maximum(1 + self.shape * above, 0.0)


def fit_tail(above: Numbers, *, centre: float, start: float, total: int) -> Tail:
    """Fit a tail by probability-weighted moments.

    Args:
        above: the scores above `start`, rising, (n,), n >= 2.
        centre: middle of the impostor scores, below `start`.
        start: the threshold.
        total: all impostor scores, those under the threshold too.
    """
    count = len(above)
    excess = (above - centre) ** 2 - (start - centre) ** 2
    whole = float(excess.mean())
    # The second moment weighs each excess by the share of the others that exceed it.
    weighted = float(np.mean(excess * (count - 1 - np.arange(count)) / (count - 1)))
    spread = max(whole - 2 * weighted, float(np.finfo(float).tiny))
    return Tail(centre, start, count / total, 2 - whole / spread, 2 * whole * weighted / spread)


def interval(
    above: Numbers, tail: Tail, total: int, rates: Numbers, *, draws: int, seed: int
) -> tuple[Numbers, Numbers]:
    """A 95 % interval of the scores that `rates` of the impostors reach, by bootstrap over the exceedances.

    Pairs that share a person depend on each other, so the true interval is somewhat wider.

    Args:
        above: as in `fit_tail`.
        tail: fitted on them.
        total: as in `fit_tail`.
        rates: none above the tail's share, (k,).
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        Lower and upper ends, (k,) each.
    """
    random = np.random.default_rng(seed)
    found = np.empty((draws, len(rates)))
    for draw in range(draws):
        chosen = np.sort(random.integers(0, len(above), max(2, random.poisson(len(above)))))
        again = fit_tail(above[chosen], centre=tail.centre, start=tail.start, total=total)
        found[draw] = again.score(np.minimum(rates, again.share))
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    return low, high
