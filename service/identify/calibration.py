"""What a cosine means: log-likelihood ratios, and thresholds for stated error rates.

Fitted on the cosines of labelled pairs, mated (one person) and impostor (two people), in this order:

    regression  LLR(s) = a + b s, all that few pairs support
    body        PAV up to the start of the tail: the best rising LLR whatever the true curve looks like
    tail        a generalised Pareto above the 99.9 % quantile of the impostors, for thresholds and LLR alike; a gallery
                that has compared billions of pairs adds a second one, further out (`deepen`)
    limits      LLRs are clipped to what the number of pairs supports

A rate is only ever stated where the data can vouch for it: with n impostor pairs and no error seen, the rule of three
bounds the true rate by 3/n at 95 % (Hanley and Lippman-Hand 1983), so a threshold for less than 3/n is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import FpirNotSupportedError
from service.identify.cost import cllr, min_cllr
from service.identify.isotonic import likelihood_ratios
from service.identify.tail import FEWEST, Tail, fit_tail, interval

RULE_OF_THREE: Final = 3.0
POINTS_PER_DECADE: Final = 4
NEWTON_STEPS: Final = 50
MOST_FITTED: Final = 1_000_000
"""Impostor pairs that the regression looks at; the tables of rates always use all."""

BLOCK: Final = 1 << 16
"""Pairs that the regression looks at together: all of them at once took 70 MB in the middle of serving."""

MOST_COSTED: Final = 200_000
"""Impostor pairs on which the cost is counted."""

TAIL_SHARE: Final = 1e-3
"""Share of the impostors in the tail."""

CELLS: Final = 100
"""Cells of the body in which either class is equally frequent."""

TAIL_KNOTS: Final = 96
MATES_KEPT: Final = 2001
"""Quantiles of the mated cosines that are kept, so that a gallery can be calibrated on impostors of its own. Doubtful
faces are among the lowest hundredth, which needs some tens of them to be told."""

DECIMALS: Final = 6
"""Of a quantile that is kept."""

DENSITY_POINTS: Final = 4000
"""Mated cosines that a density is made of."""

DRAWS: Final = 100
"""Of the bootstrap."""

Numbers = NDArray[np.float64]
Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Calibration:
    """A calibration of one model, or of one tier of a gallery.

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
        thresholds_low: lower end of a 95 % interval of each threshold,
        thresholds_high: and the upper end; both empty where there is no tail.
        knots: cosines, rising, between which the LLR is linear; empty where a + b s is all that the data supports.
        llrs: the LLR at each of them, rising.
        tail: centre, start, share, shape and scale of the impostors' tail; empty where there are too few.
        mates: quantiles of the mated cosines, evenly from the least to the greatest.
        cllr: cost of the LLRs on the pairs of the fit, in bits,
        min_cllr: and the least that any rising LLR reaches there.
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
    thresholds_low: tuple[float, ...] = ()
    thresholds_high: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()
    llrs: tuple[float, ...] = ()
    tail: tuple[float, ...] = ()
    mates: tuple[float, ...] = ()
    cllr: float | None = None
    min_cllr: float | None = None

    @property
    def least_fmr(self) -> float:
        """The lowest false-match rate that the data can vouch for."""
        return RULE_OF_THREE / self.impostor_pairs

    def llr(self, similarity: ArrayLike) -> Numbers:
        """Log-likelihood ratio (mated over impostor, natural logarithm) of cosines of any shape."""
        scores = np.asarray(similarity, np.float64)
        raw = np.interp(scores, *self._likelihoods) if self.knots else self.intercept + self.slope * scores
        return np.asarray(np.clip(raw, self.llr_floor, self.llr_ceiling))

    def score(self, llr: ArrayLike) -> Numbers:
        """The cosines whose LLR is this one: the inverse of `llr`, within the cosines that a rate is stated for.

        A demand that the data cannot vouch for is answered with the strictest threshold there is.
        """
        wanted = np.asarray(llr, np.float64)
        if self.knots:
            knots, llrs = self._likelihoods
            found = np.interp(wanted, llrs, knots, left=-1.0, right=self.thresholds[-1])
        else:
            found = (wanted - self.intercept) / self.slope
        return np.asarray(np.clip(found, -1.0, self.thresholds[-1]))

    def survival(self, similarity: ArrayLike) -> Numbers:
        """P(impostor >= s), never stated lower than the data can vouch for; the inverse of `threshold`."""
        scores = np.asarray(similarity, np.float64)
        falling, rising = self._table
        return np.asarray(np.exp(-np.interp(scores, rising, falling, left=0.0)))

    def found(self, similarity: ArrayLike) -> Numbers:
        """P(mate >= s)."""
        scores = np.asarray(similarity, np.float64)
        return np.asarray(1 - np.interp(scores, self._table[1], self._missed, left=0.0))

    def mean_likelihood(self) -> float:
        """E[L] over impostors: 1 by definition, somewhat off in what was fitted and clipped; counted from above."""
        edges = np.linspace(-1.0, self.thresholds[-1], 4001)
        reached = self.survival(edges)
        share = np.append(reached[:-1] - reached[1:], reached[-1])
        likelihood = np.exp(self.llr(np.append(edges[1:], 1.0)))
        return float(share @ likelihood)

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
        falling, rising = self._table
        return float(np.interp(-math.log(fmr), falling, rising))

    @cached_property
    def _table(self) -> tuple[Numbers, Numbers]:
        """-log(fmr) and thresholds, both rising."""
        return -np.log(self.fmr), np.array(self.thresholds)

    @cached_property
    def _missed(self) -> Numbers:
        """FNMR at each threshold."""
        return np.array(self.fnmr)

    @cached_property
    def _likelihoods(self) -> tuple[Numbers, Numbers]:
        """Knots and the LLR at each."""
        return np.array(self.knots), np.array(self.llrs)


def fit(
    mated: Scores,
    impostor: Scores,
    *,
    pairs: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit a calibration.

    Args:
        mated: cosines of pairs of one person, (m,).
        impostor: cosines of pairs of two people, (n,).
        pairs: independent mated pairs behind `mated` where those are quantiles of more; m where not given.
        seed: of the choice of impostors for the regression, where there are very many, and of the bootstrap.

    Raises:
        ValueError: too few pairs to say anything.
    """
    if len(mated) < RULE_OF_THREE or len(impostor) < 10 * RULE_OF_THREE:
        raise ValueError(f"{len(mated)} mated and {len(impostor)} impostor pairs are too few for a calibration")
    few = np.arange(len(impostor))
    if len(impostor) > MOST_FITTED:
        few = np.random.default_rng(seed).integers(0, len(impostor), MOST_FITTED)
    intercept, slope = (float(value) for value in logistic(mated[:, None], impostor[few][:, None]))
    mates = np.sort(mated.astype(np.float64))
    ordered = np.sort(impostor)
    rates = _rates(RULE_OF_THREE / len(impostor))
    thresholds, tail, (low, high) = _thresholds(ordered, rates, seed)
    bare = Calibration(
        mated_pairs=pairs or len(mates),
        impostor_pairs=len(impostor),
        intercept=intercept,
        slope=slope,
        llr_floor=-float(np.log((pairs or len(mates)) / RULE_OF_THREE)),
        llr_ceiling=float(np.log(len(impostor) / RULE_OF_THREE)),
        fmr=_plain(rates),
        thresholds=_plain(thresholds),
        fnmr=_plain(np.searchsorted(mates, thresholds, side="left") / len(mates)),
    )
    if tail is None:
        return bare
    centres, body = _body(mates, ordered, tail.start)
    knots, llrs = _curve(centres, body, mates, tail, bare)
    fitted = replace(
        bare,
        thresholds_low=_plain(low),
        thresholds_high=_plain(high),
        knots=_plain(knots),
        llrs=_plain(llrs),
        tail=(tail.centre, tail.start, tail.share, tail.shape, tail.scale),
        mates=_plain(np.quantile(mates, np.linspace(0, 1, MATES_KEPT)).round(DECIMALS)),
    )
    seen = ordered[np.random.default_rng(seed).integers(0, len(ordered), min(len(ordered), MOST_COSTED))]
    return replace(fitted, cllr=cllr(fitted.llr(mates), fitted.llr(seen)), min_cllr=min_cllr(mates, seen))


def deepen(calibration: Calibration, above: Scores, total: int, *, seed: int = 0) -> Calibration:
    """Add the far end of many more impostor pairs, of which only the greatest cosines were kept.

    A rate of 1e-3 among a million people stands for a false-match rate of 1e-9 each, which only billions of pairs can
    vouch for. A gallery of that size has them.

    Args:
        calibration: with a tail.
        above: every cosine above some point among `total` impostor pairs, (n,); the point lies within the rates that
            `calibration` vouches for.
        total: how many pairs were compared, more than those of `calibration`.
        seed: of the bootstrap.

    Raises:
        ValueError: too few cosines, or a point beyond what the calibration vouches for.
    """
    exceeding = np.sort(above.astype(np.float64))
    if len(exceeding) < FEWEST or len(exceeding) / total < calibration.least_fmr or not calibration.tail:
        raise ValueError(f"{len(exceeding)} of {total:,} cosines do not continue the calibration")
    tail = fit_tail(exceeding[1:], centre=calibration.tail[0], start=float(exceeding[0]), total=total)
    rates = _rates(RULE_OF_THREE / total)
    strict = rates < tail.share
    lines = []
    ends = interval(exceeding[1:], tail, total, rates[strict], draws=DRAWS, seed=seed)
    for line, end in zip(
        (calibration.thresholds, calibration.thresholds_low, calibration.thresholds_high),
        (tail.score(rates[strict]), *ends),
        strict=True,
    ):
        values = np.interp(-np.log(rates), -np.log(calibration.fmr), line)
        values[strict] = end
        lines.append(_plain(np.maximum.accumulate(values)))
    mates = np.array(calibration.mates)
    limits = replace(
        calibration,
        impostor_pairs=total,
        llr_ceiling=float(np.log(total / RULE_OF_THREE)),
        fmr=_plain(rates),
        thresholds=lines[0],
        thresholds_low=lines[1],
        thresholds_high=lines[2],
        fnmr=_plain(np.interp(lines[0], mates, np.linspace(0, 1, len(mates)))),
        tail=(tail.centre, tail.start, tail.share, tail.shape, tail.scale),
    )
    before = np.array(calibration.knots)
    under = before < tail.start
    knots, llrs = _curve(before[under], np.array(calibration.llrs)[under], mates, tail, limits)
    return replace(limits, knots=_plain(knots), llrs=_plain(llrs))


def _plain(values: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _rates(least: float) -> Numbers:
    """Rates from 0.5 down to the least that may be stated, evenly in the logarithm."""
    decades = np.log10(0.5 / least)
    return np.geomspace(0.5, least, int(np.ceil(decades * POINTS_PER_DECADE)) + 1)


def _thresholds(ordered: Scores, rates: Numbers, seed: int) -> tuple[Numbers, Tail | None, tuple[Numbers, Numbers]]:
    """Thresholds of the rates, the tail behind the strict ones, and a 95 % interval of each."""
    total = len(ordered)
    # The threshold for a rate r lets at most floor(r n) impostors reach it: just above the next one down.
    allowed = np.floor(rates * total + 1e-9).astype(np.int64)
    counted = np.nextafter(ordered[total - 1 - allowed].astype(np.float64), 2.0)
    above = int(TAIL_SHARE * total)
    if above < FEWEST:
        return counted, None, (counted, counted)
    start = float(ordered[total - above - 1])
    exceeding = ordered[np.searchsorted(ordered, start, side="right") :].astype(np.float64)
    if len(exceeding) < FEWEST:
        return counted, None, (counted, counted)
    tail = fit_tail(exceeding, centre=float(ordered[total // 2]), start=start, total=total)
    strict = rates < tail.share
    modelled = counted.copy()
    modelled[strict] = tail.score(rates[strict])
    # In the body the interval is that of an order statistic: 1.96 standard deviations of the count on either side.
    wide = 1.96 * np.sqrt(allowed * (1 - rates))
    places = total - 1 - np.stack([allowed + wide, allowed - wide]).round().astype(np.int64).clip(0, total - 1)
    low, high = ordered[places].astype(np.float64)
    if strict.any():
        low[strict], high[strict] = interval(exceeding, tail, total, rates[strict], draws=DRAWS, seed=seed)
    return np.maximum.accumulate(modelled), tail, (low, high)


def _body(mates: Numbers, ordered: Scores, start: float) -> tuple[Numbers, Numbers]:
    """The LLR under the tail by PAV: middles of cells of the score axis, rising, and the LLR of each."""
    levels = np.linspace(0, 1, CELLS + 1)[1:-1]
    edges = np.unique(np.concatenate([np.quantile(ordered, levels), np.quantile(mates, levels)]).astype(np.float64))
    edges = np.append(edges[edges < start], start)
    shares = [np.diff(np.searchsorted(scores, edges), prepend=0) / len(scores) for scores in (mates, ordered)]
    occupied = (shares[0] + shares[1]) > 0
    middles = edges - np.diff(edges, prepend=edges[0] - (edges[1] - edges[0])) / 2
    return middles[occupied], likelihood_ratios(shares[0][occupied], shares[1][occupied])


def _curve(middles: Numbers, body: Numbers, mates: Numbers, tail: Tail, limits: Calibration) -> tuple[Numbers, Numbers]:
    """Knots of the LLR: the body's, and above it the density of the mates over that of the tail."""
    # The curve goes on beyond the strictest threshold, up to the ceiling: cut off there, a clear face of somebody whom
    # nothing speaks for could never be certain enough in a large gallery.
    end = max(limits.thresholds[-1], float(np.quantile(mates, 0.95)))
    above = np.linspace(tail.start, end, TAIL_KNOTS)
    with np.errstate(divide="ignore"):
        beyond = np.log(_density(mates, above, limits.mated_pairs)) - np.log(tail.density(above))
    knots = np.concatenate([middles, above])
    llrs = np.maximum.accumulate(np.concatenate([body, beyond]))
    llrs = np.clip(llrs, limits.llr_floor, limits.llr_ceiling)
    # A flat stretch would leave the inverse undecided: only its ends are kept.
    flat = np.zeros(len(knots), bool)
    flat[1:-1] = (llrs[1:-1] == llrs[:-2]) & (llrs[1:-1] == llrs[2:])
    return knots[~flat], llrs[~flat]


def _density(scores: Numbers, at: Numbers, pairs: int) -> Numbers:
    """Gaussian kernel density of rising scores, (n,), at some points (Silverman 1986, equation 3.31).

    The width goes by the pairs that were compared, not by how many quantiles of them are left: it flattens the low
    tail, where doubtful faces are, by width^2 / 2 of its curvature. Of a record that keeps fewer than `MATES_KEPT` it
    goes by those, whose gaps in that tail are wider than it would be.
    """
    told = pairs if len(scores) >= MATES_KEPT else len(scores)
    quartiles = np.subtract(*np.quantile(scores, [0.75, 0.25])) / 1.34
    width = 0.9 * min(float(np.std(scores)), float(quartiles)) * told**-0.2
    points = np.quantile(scores, (np.arange(DENSITY_POINTS) + 0.5) / DENSITY_POINTS)
    z = (at[:, None] - points[None, :]) / width
    return np.asarray(np.exp(-0.5 * z * z).mean(axis=1) / (width * np.sqrt(2 * np.pi)))


def expit(x: ArrayLike) -> Numbers:
    """The logistic function 1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))


def logistic(mated: Scores, impostor: Scores) -> Numbers:
    """Logistic regression by Newton's method, both classes weighing the same.

    With equal weights the log odds that it fits are the log-likelihood ratio (Brummer and du Preez 2006, section 4).

    Args:
        mated: (m, features).
        impostor: (n, features).

    Returns:
        The intercept and the slope of each feature, (1 + features,).
    """
    features = mated.shape[1]
    beta = np.zeros(1 + features)
    # A trace of ridge keeps perfectly separated classes from running off to infinity.
    ridge = np.diag([0.0] + [1e-6] * features)
    for _ in range(NEWTON_STEPS):
        gradient, hessian = -ridge @ beta, ridge.copy()
        for scores, target in ((mated, 1.0), (impostor, 0.0)):
            weight = 0.5 / len(scores)
            for first in range(0, len(scores), BLOCK):
                x = scores[first : first + BLOCK].astype(np.float64)
                design = np.concatenate([np.ones((len(x), 1)), x], axis=1)
                p = expit(design @ beta)
                gradient += weight * (design.T @ (target - p))
                hessian += weight * ((design * (p * (1 - p))[:, None]).T @ design)
        step = np.linalg.solve(hessian, gradient)
        beta += step
        if np.abs(step).max() < 1e-9:
            break
    return beta
