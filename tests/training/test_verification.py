"""1:1 measures, counted again pair by pair."""

import numpy as np
import pytest

from training.errors import EvaluationError, RateNotSupportedError
from training.verification import best_threshold, det_curve, fold_accuracy, pair_scores, tar_at_far


def drawn(count=400, seed=0):
    random = np.random.default_rng(seed)
    same = random.random(count) < 0.5
    return np.round(random.normal(np.where(same, 0.6, 0.1), 0.25), 2).astype(np.float32), same


def errors(scores, same, threshold):
    return sum((score >= threshold) != flag for score, flag in zip(scores.tolist(), same.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_makes_fewer_errors_than_the_best(seed):
    scores, same = drawn(60, seed)
    found = errors(scores, same, best_threshold(scores, same))
    assert found == min(errors(scores, same, t) for t in np.arange(-2, 3, 0.005))


def test_each_fold_is_judged_at_the_threshold_of_the_others():
    scores, same = drawn()
    result = fold_accuracy(scores, same)
    for fold in range(10):
        here = np.arange(400) // 40 == fold
        threshold = best_threshold(scores[~here], same[~here])
        assert result.thresholds[fold] == threshold
        assert result.folds[fold] == pytest.approx(100 - 100 * errors(scores[here], same[here], threshold) / 40)
    assert result.mean == pytest.approx(np.mean(result.folds))


def test_pairs_that_do_not_divide_into_folds_are_refused():
    with pytest.raises(EvaluationError, match="401 pairs do not divide into 10 folds"):
        fold_accuracy(*drawn(401))


def test_a_score_that_is_no_number_is_refused():
    scores, same = drawn()
    scores[3] = np.nan
    with pytest.raises(EvaluationError, match="not finite"):
        fold_accuracy(scores, same)


@pytest.mark.parametrize("far", [0.01, 0.03, 0.1])
def test_the_threshold_keeps_the_far_and_no_lower_one_does(far):
    scores, same = drawn(2000)
    mated, impostors = scores[same], scores[~same]
    rate = tar_at_far(mated, impostors, far)
    assert np.mean(impostors >= rate.threshold) <= far
    lower = max(impostors[impostors < rate.threshold])
    assert np.mean(impostors >= lower) > far
    assert rate.tar == pytest.approx(np.mean(mated >= rate.threshold))
    assert rate.low < rate.tar < rate.high


def test_the_interval_is_wilson_s():
    rate = tar_at_far(np.array([0.0] * 10 + [1.0] * 90), np.full(1000, 0.5), 0.01)
    z, p, n = 1.959964, 0.9, 100
    middle, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / 4 / n**2) / (1 + z * z / n),
    )
    assert (rate.low, rate.high) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_a_far_that_the_impostors_cannot_vouch_for_is_refused():
    with pytest.raises(RateNotSupportedError, match="needs at least 3000 impostor pairs, there are 2999"):
        tar_at_far(np.ones(5), np.zeros(2999), 1e-3)
    assert tar_at_far(np.ones(5), np.zeros(3000), 1e-3).tar == 1.0


def test_the_det_curve_gives_the_share_of_errors_at_some_threshold_and_falls():
    scores, same = drawn(2000)
    mated, impostors = scores[same], scores[~same]
    fmr, fnmr = det_curve(mated, impostors)
    assert (np.diff(fmr) >= 0).all()
    assert (np.diff(fnmr) <= 0).all()
    points = {(np.mean(impostors >= t), np.mean(mated < t)) for t in np.unique(impostors)}
    assert all(min(abs(x - a) + abs(y - b) for a, b in points) < 1e-9 for x, y in zip(fmr, fnmr, strict=True))


def test_pair_scores_are_cosines():
    vectors = np.eye(3, dtype=np.float32)
    vectors[2] = [0.6, 0.8, 0]
    assert pair_scores(vectors, np.array([[0, 0], [0, 1], [0, 2]])).tolist() == pytest.approx([1, 0, 0.6])
