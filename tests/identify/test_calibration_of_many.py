from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import norm

from service.artifact.manifest import CalibrationRecord
from service.errors import FpirNotSupportedError
from service.identify.calibration import Calibration, deepen, expit, fit

MATES, DEVIATION = norm(0.6, 0.1), 0.09
SCORES = np.linspace(0.2, 0.4, 9)


def drawn(mated=20_000, impostor=2_000_000, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(0.6, 0.1, mated), random.normal(0, DEVIATION, impostor).astype(np.float32)


@pytest.fixture(scope="module")
def calibration():
    return fit(*drawn())


@pytest.fixture(scope="module")
def plain():
    return fit(*drawn(mated=200, impostor=5_000))


def test_llrs_are_the_log_of_the_ratio_of_the_densities(calibration):
    truth = MATES.logpdf(SCORES) - norm(0, DEVIATION).logpdf(SCORES)
    assert np.abs(calibration.llr(SCORES) - truth).max() < 1.3
    assert np.abs(calibration.llr(SCORES) - truth).mean() < 0.4


def test_llrs_rise_with_the_cosine_and_stay_within_what_the_data_supports(calibration):
    llrs = calibration.llr(np.linspace(-1, 1, 500))
    assert (np.diff(llrs) >= 0).all()
    assert llrs[0] == -np.log(20_000 / 3)
    assert llrs[-1] <= np.log(2_000_000 / 3)


@pytest.mark.parametrize("rate", [0.3, 1e-2, 1e-3, 1e-4, 1e-5, 2e-6])
def test_thresholds_keep_their_false_match_rate(calibration, rate):
    true_rate = norm.sf(calibration.threshold(rate) / DEVIATION)
    assert true_rate == pytest.approx(rate, rel=0.25)


@pytest.mark.parametrize("rate", [0.3, 1e-3, 1e-5, 2e-6])
def test_the_reach_of_impostors_is_the_inverse_of_the_threshold(calibration, rate):
    assert calibration.survival(calibration.threshold(rate)) == pytest.approx(rate)


def test_the_reach_of_impostors_is_never_stated_lower_than_the_data_vouches_for(calibration):
    assert calibration.survival(0.99) == pytest.approx(3 / 2_000_000)
    assert calibration.survival(-0.99) == 1


def test_a_rate_beyond_the_data_is_refused(calibration):
    with pytest.raises(FpirNotSupportedError, match="2,000,000 impostor pairs"):
        calibration.threshold(1e-6)


def test_the_score_of_an_llr_is_its_inverse(calibration):
    np.testing.assert_allclose(calibration.score(calibration.llr(SCORES)), SCORES, atol=1e-6)


def test_an_llr_beyond_the_data_asks_for_the_strictest_threshold_there_is(calibration, plain):
    assert calibration.score(99.0) == calibration.thresholds[-1]
    assert plain.score(99.0) == plain.thresholds[-1]


@pytest.mark.parametrize("place", [0, 8, 16, -1])
def test_intervals_hold_the_threshold_and_the_truth(calibration, place):
    low, high = calibration.thresholds_low[place], calibration.thresholds_high[place]
    assert low - 1e-4 <= calibration.thresholds[place] <= high + 1e-4
    assert low - 0.002 < norm.isf(calibration.fmr[place]) * DEVIATION < high + 0.002


def test_mates_are_found_as_often_as_it_says(calibration):
    np.testing.assert_allclose(calibration.found([0.3, 0.36, 0.4]), MATES.sf([0.3, 0.36, 0.4]), atol=0.01)


def test_the_mean_likelihood_of_impostors_is_not_above_one(calibration, plain):
    assert 0 < calibration.mean_likelihood() <= 1.05
    assert 0 < plain.mean_likelihood() <= 1.05


def test_the_calibration_itself_costs_hardly_anything(calibration):
    assert 0 <= calibration.cllr - calibration.min_cllr < 0.01


def test_few_pairs_give_a_straight_line_and_no_tail(plain):
    assert plain.tail == plain.knots == ()
    assert plain.llr(0.3) == pytest.approx(plain.intercept + plain.slope * 0.3)


@pytest.mark.parametrize(("mated", "impostor"), [(2, 1000), (1000, 29)])
def test_too_few_pairs_are_refused(mated, impostor):
    with pytest.raises(ValueError, match="too few"):
        fit(*drawn(mated, impostor))


def test_a_gallery_is_calibrated_on_the_models_mates_and_impostors_of_its_own(calibration):
    shifted = drawn()[1] + 0.05
    own = fit(np.array(calibration.mates), shifted, pairs=calibration.mated_pairs)
    assert own.threshold(1e-4) == pytest.approx(calibration.threshold(1e-4) + 0.05, abs=0.005)
    assert own.llr_floor == calibration.llr_floor


def test_mates_that_are_lent_say_of_doubtful_faces_what_they_said_themselves(calibration):
    """Whoever is in doubt has a cosine from the low tail: an error of 0.2 there is five points of a posterior."""
    low = np.linspace(0.3, 0.4, 11)
    own = fit(np.array(calibration.mates), drawn()[1], pairs=calibration.mated_pairs)
    np.testing.assert_allclose(own.llr(low), calibration.llr(low), atol=0.05)


def test_a_record_of_few_quantiles_is_read_no_more_sharply_than_they_tell(calibration):
    """Records of 201 are about; a kernel as narrow as their pairs allow would fall into the gap between the lowest."""
    low = np.linspace(0.3, 0.4, 11)
    few = np.quantile(calibration.mates, np.linspace(0, 1, 201))
    own = fit(few, drawn()[1], pairs=calibration.mated_pairs)
    np.testing.assert_allclose(own.llr(low), calibration.llr(low), atol=0.3)


def test_it_is_kept_in_the_manifests_record_and_comes_back_whole(calibration):
    record = CalibrationRecord(data="drawn", date="2026-01-02", people=2, **asdict(calibration))
    again = CalibrationRecord.model_validate_json(record.model_dump_json())
    assert Calibration(**again.model_dump(exclude={"data", "date", "people"})) == calibration


@pytest.mark.parametrize("fault", [{"knots": (0.1, 0.2), "llrs": (1.0,)}, {"knots": (0.2, 0.1), "llrs": (1.0, 2.0)}])
def test_a_record_whose_curve_does_not_hold_together_is_refused(plain, fault):
    with pytest.raises(ValueError, match="knots"):
        CalibrationRecord(data="drawn", date="2026-01-02", people=2, **(asdict(plain) | fault))


def test_the_logistic_function_does_not_overflow():
    assert expit([-1000.0, 0.0, 1000.0]).tolist() == [0, 0.5, 1]


# --- the far end of a large gallery ---


@pytest.fixture(scope="module")
def deep(calibration):
    """Of two billion pairs only the cosines above the share 1e-5 were kept: 20,000, drawn by inversion."""
    kept = norm.isf(np.random.default_rng(8).uniform(0, 1e-5, 20_000)) * DEVIATION
    return deepen(calibration, kept, 2_000_000_000)


@pytest.mark.parametrize("rate", [1e-3, 1e-5, 1e-7, 2e-9])
def test_billions_of_pairs_vouch_for_the_rates_of_a_large_gallery(deep, rate):
    assert norm.sf(deep.threshold(rate) / DEVIATION) == pytest.approx(rate, rel=0.5)
    assert deep.survival(deep.threshold(rate)) == pytest.approx(rate)


def test_llrs_go_on_as_far_as_the_pairs_do(calibration, deep):
    far = np.array([0.45, 0.5, 0.52])
    truth = MATES.logpdf(far) - norm(0, DEVIATION).logpdf(far)
    assert np.abs(deep.llr(far) - truth).max() < 0.6
    assert deep.llr(0.52) > calibration.llr(0.52) + 3
    np.testing.assert_allclose(deep.llr(SCORES[:6]), calibration.llr(SCORES[:6]), atol=0.01)


def test_what_billions_of_pairs_do_not_vouch_for_is_refused(deep):
    with pytest.raises(FpirNotSupportedError, match="2,000,000,000"):
        deep.threshold(1e-9)


def test_a_far_end_that_begins_beyond_the_calibration_is_refused(calibration, plain):
    with pytest.raises(ValueError, match="do not continue"):
        deepen(calibration, np.linspace(0.6, 0.7, 200), 2_000_000_000)
    with pytest.raises(ValueError, match="do not continue"):
        deepen(plain, np.linspace(0.3, 0.7, 20_000), 2_000_000_000)


def test_the_curve_goes_on_beyond_the_strictest_threshold_up_to_the_ceiling(deep):
    """Cut off at the threshold, the face of somebody whom nothing speaks for could never outweigh the unknown."""
    strictest = deep.thresholds[-1]
    assert deep.llr(strictest + 0.05) > deep.llr(strictest) + 1
    assert deep.llr(0.9) == pytest.approx(deep.llr_ceiling)
    assert deep.score(deep.llr_ceiling) == strictest
