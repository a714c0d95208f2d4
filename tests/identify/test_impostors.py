"""A gallery measured on its own people."""

import numpy as np
import pytest
from scipy.stats import norm

from service.errors import FpirNotSupportedError
from service.identify.calibration import fit
from service.identify.impostors import SAMPLE, Tally, chosen, looser, suffices

DEVIATION = 0.1


@pytest.fixture(scope="module")
def model():
    random = np.random.default_rng(0)
    return fit(random.normal(0.6, 0.1, 5_000), random.normal(0, DEVIATION, 300_000))


def tally(model, pairs, *, shift=0.0, seed=1, expected=None):
    counted, random = Tally(model, expected or pairs), np.random.default_rng(seed)
    for first in range(0, pairs, 500_000):
        counted.add(random.normal(shift, DEVIATION, min(500_000, pairs - first)).astype(np.float32))
    return counted


def test_a_gallery_whose_strangers_look_more_alike_asks_for_more_of_a_face(model):
    own = tally(model, 200_000, shift=0.05).fitted()
    assert own.threshold(1e-3) == pytest.approx(model.threshold(1e-3) + 0.05, abs=0.01)
    assert own.mates == pytest.approx(model.mates)
    assert own.mated_pairs == model.mated_pairs


def test_pairs_beyond_the_sample_make_it_reach_further(model):
    counted = tally(model, 6_000_000)
    own = counted.fitted()
    assert counted.total == 6_000_000
    assert own.impostor_pairs == 6_000_000 - SAMPLE
    assert own.least_fmr < model.least_fmr / 15
    assert norm.sf(own.threshold(1e-6) / DEVIATION) == pytest.approx(1e-6, rel=0.6)


def test_a_rate_beyond_the_pairs_is_refused(model):
    own = tally(model, 200_000).fitted()
    with pytest.raises(FpirNotSupportedError, match="200,000 impostor pairs"):
        own.threshold(1e-5)


def test_people_enrolled_twice_are_left_out_and_counted(model):
    counted = tally(model, 200_000)
    counted.add(np.full(7, 0.97))
    assert (counted.doubles, counted.total) == (7, 200_000)
    assert counted.fitted().threshold(1e-3) < 0.4


@pytest.mark.parametrize("pairs", [0, 1, 99_999])
def test_too_few_pairs_are_refused(model, pairs):
    with pytest.raises(ValueError, match="too few"):
        tally(model, pairs, expected=10).fitted()


def test_a_model_that_kept_no_mates_cannot_lend_them():
    bare = fit(np.full(9, 0.6), np.linspace(-0.3, 0.3, 90))
    with pytest.raises(ValueError, match="lend its mates"):
        tally(bare, 200_000).fitted()


def test_the_models_calibration_stays_until_the_gallerys_reaches_as_far(model):
    own = tally(model, 200_000).fitted()
    assert not suffices(own, 1_000, 0.003)
    assert chosen(model, own, 1_000, 0.003) is model
    assert chosen(model, None, 1_000, 0.003) is model
    assert suffices(own, 10, 0.003)
    assert chosen(model, own, 10, 0.003) is own


def test_it_goes_at_once_where_the_gallery_shows_that_it_accepts_too_many(model):
    own = tally(model, 200_000, shift=0.05).fitted()
    assert looser(model, own)
    assert chosen(model, own, 1_000, 0.003) is own
    assert not looser(model, tally(model, 200_000, shift=-0.05).fitted())
