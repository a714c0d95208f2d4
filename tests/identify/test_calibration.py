"""Calibration against slow re-derivations: counting, a general optimiser, and two Gaussians whose ratio is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from service.errors import FpirNotSupportedError
from service.identify.calibration import expit, fit

DRAW = np.random.default_rng(1)
MATED = DRAW.normal(0.55, 0.12, 400).clip(-1, 1)
IMPOSTOR = DRAW.normal(0.05, 0.1, 6000).clip(-1, 1)


@pytest.fixture(scope="module")
def calibration():
    return fit(MATED, IMPOSTOR)


def test_a_threshold_lets_at_most_the_stated_share_of_impostors_pass(calibration):
    for rate, threshold in zip(calibration.fmr, calibration.thresholds, strict=True):
        passing = sum(score >= threshold for score in IMPOSTOR.tolist())
        assert passing <= math.floor(rate * len(IMPOSTOR) + 1e-9)


def test_a_threshold_is_the_least_that_does_so(calibration):
    for rate, threshold in zip(calibration.fmr, calibration.thresholds, strict=True):
        just_under = math.nextafter(threshold, -2)
        passing = sum(score >= just_under for score in IMPOSTOR.tolist())
        assert passing > math.floor(rate * len(IMPOSTOR) + 1e-9)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=30, max_size=60))
def test_equal_scores_never_let_more_impostors_pass(scores):
    calibration = fit(np.array([0.5, 0.6, 0.7]), np.array(scores))
    for rate, threshold in zip(calibration.fmr, calibration.thresholds, strict=True):
        assert sum(score >= threshold for score in scores) <= rate * len(scores) + 1e-9


def test_the_misses_at_each_threshold_are_counted(calibration):
    for threshold, fnmr in zip(calibration.thresholds, calibration.fnmr, strict=True):
        assert fnmr == sum(score < threshold for score in MATED.tolist()) / len(MATED)


def test_rates_fall_evenly_from_one_half_to_what_the_rule_of_three_allows(calibration):
    assert calibration.fmr[0] == pytest.approx(0.5)
    assert calibration.fmr[-1] == pytest.approx(3 / len(IMPOSTOR))
    steps = np.diff(np.log(calibration.fmr))
    np.testing.assert_allclose(steps, steps[0])
    assert steps[0] >= -math.log(10) / 4 - 1e-12
    assert list(calibration.thresholds) == sorted(calibration.thresholds)


def objective(mated, impostor):
    """Cross entropy with both classes weighing the same (Brummer and du Preez 2006, eq. 16), and a trace of ridge."""

    def cost(beta):
        a, b = beta
        miss = sum(np.logaddexp(0, -(a + b * score)) for score in mated) / len(mated)
        alarm = sum(np.logaddexp(0, a + b * score) for score in impostor) / len(impostor)
        return (miss + alarm) / 2 + 1e-6 * b * b / 2

    return cost


def test_the_coefficients_are_those_that_a_general_optimiser_finds():
    mated, impostor = MATED[:80], np.concatenate([IMPOSTOR[:300], [0.6, 0.5]])
    given = fit(mated, impostor)
    cost = objective(mated.tolist(), impostor.tolist())
    found = minimize(cost, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13, "maxiter": 2000})
    assert (given.intercept, given.slope) == pytest.approx(tuple(found.x), rel=1e-3)
    assert cost((given.intercept, given.slope)) <= found.fun + 1e-10


def test_two_gaussians_of_one_variance_give_their_known_ratio():
    # log N(s; m1, v) / N(s; m0, v) = (m1 - m0)/v * s - (m1^2 - m0^2)/(2 v)
    draw, m1, m0, v = np.random.default_rng(2), 0.45, 0.05, 0.02
    given = fit(draw.normal(m1, v**0.5, 60_000), draw.normal(m0, v**0.5, 60_000))
    assert given.slope == pytest.approx((m1 - m0) / v, rel=0.03)
    assert given.intercept == pytest.approx(-(m1**2 - m0**2) / (2 * v), rel=0.04)


def test_the_share_of_the_classes_does_not_move_the_ratio():
    few, many = fit(MATED, IMPOSTOR), fit(MATED, np.tile(IMPOSTOR, 5))
    assert (many.intercept, many.slope) == pytest.approx((few.intercept, few.slope), rel=1e-6)


def test_classes_that_do_not_overlap_give_finite_numbers():
    given = fit(np.linspace(0.8, 0.9, 100), np.linspace(-0.1, 0.1, 1000))
    assert math.isfinite(given.intercept)
    assert 0 < given.slope < math.inf
    assert given.llr(0.85) == given.llr_ceiling
    assert given.llr(0.0) == given.llr_floor


def test_ratios_are_clipped_to_what_the_data_supports(calibration):
    assert calibration.llr_floor == -math.log(len(MATED) / 3)
    assert calibration.llr_ceiling == math.log(len(IMPOSTOR) / 3)
    np.testing.assert_allclose(calibration.llr([-1.0, 1.0]), [calibration.llr_floor, calibration.llr_ceiling])
    middle = -calibration.intercept / calibration.slope
    assert calibration.llr(middle) == pytest.approx(0, abs=1e-12)
    assert calibration.llr(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("similarity", [-1.0, 0.0, 0.2, 0.3, 0.4, 1.0])
def test_a_probability_is_the_ratio_at_even_odds(calibration, similarity):
    odds = math.exp(float(calibration.llr(similarity)))
    assert calibration.probability(similarity) == pytest.approx(odds / (1 + odds))


@given(st.floats(-800, 800))
def test_the_logistic_function_holds_everywhere(x):
    slowly = 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
    assert float(expit(x)) == pytest.approx(slowly, rel=1e-12, abs=1e-300)


def test_a_threshold_between_two_rates_is_interpolated_in_the_logarithm(calibration):
    for place in (0, 3, len(calibration.fmr) - 2):
        high, low = calibration.fmr[place : place + 2]
        a, b = calibration.thresholds[place : place + 2]
        assert calibration.threshold(high) == pytest.approx(a)
        assert calibration.threshold(math.sqrt(high * low)) == pytest.approx((a + b) / 2)


def test_the_lowest_rate_is_the_rule_of_three(calibration):
    assert calibration.least_fmr == 3 / len(IMPOSTOR)
    assert calibration.threshold(calibration.least_fmr) == calibration.thresholds[-1]


def test_a_lower_rate_is_refused_and_the_lowest_told(calibration):
    with pytest.raises(FpirNotSupportedError) as refusal:
        calibration.threshold(calibration.least_fmr * 0.99)
    assert refusal.value.extra == {"least": calibration.least_fmr}


@pytest.mark.parametrize(("mated", "impostor"), [(2, 1000), (1000, 29), (0, 0)])
def test_too_few_pairs_are_refused(mated, impostor):
    with pytest.raises(ValueError, match="too few"):
        fit(np.full(mated, 0.5), np.zeros(impostor))


def test_float32_scores_give_what_float64_scores_give():
    single = fit(MATED.astype(np.float32), IMPOSTOR.astype(np.float32))
    double = fit(MATED.astype(np.float32).astype(float), IMPOSTOR.astype(np.float32).astype(float))
    assert single.thresholds == double.thresholds
    assert single.slope == pytest.approx(double.slope)


def test_fitting_twice_gives_the_same():
    assert fit(MATED, IMPOSTOR) == fit(MATED, IMPOSTOR)
