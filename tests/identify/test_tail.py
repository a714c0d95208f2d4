import numpy as np
import pytest
from scipy.stats import genpareto, norm

from service.identify.tail import Tail, fit_tail, interval

TAIL = Tail(centre=0.1, start=0.4, share=0.001, shape=-0.1, scale=0.02)
SCORES = np.linspace(0.41, 0.5, 7)


def in_squares(score, tail=TAIL):
    return (score - tail.centre) ** 2 - (tail.start - tail.centre) ** 2


@pytest.mark.parametrize("shape", [-0.1, 0.0, 0.2])
def test_its_reach_is_that_of_scipys_pareto_over_squares(shape):
    tail = Tail(0.1, 0.4, 0.001, shape, 0.02)
    expected = 0.001 * genpareto.sf(in_squares(SCORES), shape, scale=0.02)
    np.testing.assert_allclose(tail.survival(SCORES), expected)


@pytest.mark.parametrize("shape", [-0.1, 0.0, 0.2])
def test_its_density_is_the_slope_of_its_reach(shape):
    tail, h = Tail(0.1, 0.4, 0.001, shape, 0.02), 1e-6
    slope = (tail.survival(SCORES - h) - tail.survival(SCORES + h)) / (2 * h)
    np.testing.assert_allclose(tail.density(SCORES), slope, rtol=1e-5)


@pytest.mark.parametrize("shape", [-0.1, 0.0, 0.2])
def test_a_score_and_its_rate_belong_together(shape):
    tail = Tail(0.1, 0.4, 0.001, shape, 0.02)
    np.testing.assert_allclose(tail.score(tail.survival(SCORES)), SCORES)


def test_nobody_scores_beyond_the_end_of_a_bounded_tail():
    end = 0.1 + np.sqrt(0.3**2 + 0.02 / 0.1)
    assert TAIL.survival([end + 0.01]) == 0
    assert TAIL.density([end + 0.01]) == 0


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_the_fit_finds_the_parameters_that_made_the_scores(shape):
    squares = genpareto.rvs(shape, scale=0.02, size=200_000, random_state=1)
    scores = np.sort(0.1 + np.sqrt(0.3**2 + squares))
    fitted = fit_tail(scores, centre=0.1, start=0.4, total=2_000_000)
    assert fitted.shape == pytest.approx(shape, abs=0.02)
    assert fitted.scale == pytest.approx(0.02, rel=0.02)
    assert fitted.share == 0.1


def exceedances(count, seed, deviation=0.09, share=1e-3):
    """Gaussian scores above their 99.9 % quantile, drawn by inversion, so that few are needed."""
    chances = np.random.default_rng(seed).uniform(0, share, count)
    return np.sort(norm.isf(chances) * deviation), norm.isf(share) * deviation


def test_squares_reach_four_decades_further_where_plain_scores_fall_short():
    above, start = exceedances(1_000_000, seed=2)
    squared = fit_tail(above, centre=0.0, start=start, total=1_000_000_000)
    excess = above - start
    weighted = np.mean(excess * np.arange(len(excess))[::-1] / (len(excess) - 1))
    spread = excess.mean() - 2 * weighted
    plain = start + genpareto.isf(1e-4, 2 - excess.mean() / spread, scale=2 * excess.mean() * weighted / spread)
    assert norm.sf(plain / 0.09) > 1.4e-7
    assert norm.sf(squared.score(1e-7) / 0.09) == pytest.approx(1e-7, rel=0.2)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for seed in range(60):
        above, start = exceedances(2_000, seed)
        tail = fit_tail(above, centre=0.0, start=start, total=2_000_000)
        low, high = interval(above, tail, 2_000_000, np.array([1e-5]), draws=60, seed=seed)
        covered += low[0] <= norm.isf(1e-5) * 0.09 <= high[0]
    assert 51 <= covered <= 60
