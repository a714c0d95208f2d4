import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import FpirNotSupportedError
from service.identify.calibration import Calibration, fit
from service.identify.decision import Threshold, decide, threshold

DRAW = np.random.default_rng(1)
CALIBRATION = fit(DRAW.normal(0.6, 0.1, 500), DRAW.normal(0.0, 0.1, 30_000))
LEAST = 3 / 30_000


@pytest.mark.parametrize("people", [1, 2, 7, 100])
def test_the_error_budget_is_shared_evenly(people):
    given_one = threshold(CALIBRATION, people, 0.02, insist=True)
    assert given_one == Threshold(CALIBRATION.threshold(0.02 / people), 0.02)


def test_strangers_are_taken_for_somebody_as_rarely_as_promised():
    # An impostor score for each of 10 people, for each of many strangers: at most 5 % may reach the threshold.
    draw = np.random.default_rng(2)
    scores = draw.normal(0.0, 0.1, (20_000, 10))
    accept = threshold(CALIBRATION, 10, 0.05, insist=True)
    share = np.mean(scores.max(axis=1) >= accept.similarity)
    assert 0.03 < share < 0.055


def test_an_empty_gallery_counts_as_one_person():
    assert threshold(CALIBRATION, 0, 0.02, insist=True) == threshold(CALIBRATION, 1, 0.02, insist=True)


def test_a_rate_over_one_half_is_held_to_what_the_table_knows():
    assert threshold(CALIBRATION, 1, 0.9, insist=True) == Threshold(CALIBRATION.thresholds[0], 0.9)


def test_a_rate_that_cannot_be_vouched_for_is_refused_to_whom_insists():
    with pytest.raises(FpirNotSupportedError) as refusal:
        threshold(CALIBRATION, 100, 0.001, insist=True)
    assert refusal.value.extra["least"] == pytest.approx(100 * LEAST)


def test_a_default_that_cannot_be_vouched_for_gives_the_strictest_threshold_and_its_rate():
    accept = threshold(CALIBRATION, 100, 0.001, insist=False)
    assert accept.similarity == CALIBRATION.thresholds[-1]
    assert accept.fpir == pytest.approx(100 * LEAST)


def test_in_a_gallery_beyond_all_evidence_the_stated_rate_is_one():
    assert threshold(CALIBRATION, 10**6, 0.001, insist=False).fpir == 1.0


def test_the_border_belongs_to_what_is_vouched_for():
    assert threshold(CALIBRATION, 10, 10 * LEAST, insist=True).similarity == CALIBRATION.thresholds[-1]


@given(st.integers(1, 1000), st.floats(1e-6, 0.5))
def test_more_people_never_lower_the_threshold(people, fpir):
    few, more = (threshold(CALIBRATION, count, fpir, insist=False).similarity for count in (people, people + 1))
    assert more >= few


def slowly(similarities, people, calibration):
    """v_i = pi_i L_i / (pi_u + sum over E of pi_j L_j + R), one person after the other."""
    unknown = 0.5
    prior = (1 - unknown) / people
    total = unknown
    for place in range(people):
        if place < len(similarities):
            llr = calibration.intercept + calibration.slope * similarities[place]
            total += prior * math.exp(min(max(llr, calibration.llr_floor), calibration.llr_ceiling))
        else:
            total += prior
    posteriors = []
    for similarity in similarities:
        llr = calibration.intercept + calibration.slope * similarity
        posteriors.append(prior * math.exp(min(max(llr, calibration.llr_floor), calibration.llr_ceiling)) / total)
    return posteriors


SCORES = st.lists(st.floats(-1, 1), min_size=0, max_size=5).map(lambda scores: sorted(scores, reverse=True))


@given(SCORES, st.integers(1, 50))
def test_posteriors_follow_the_formula(similarities, more):
    people = len(similarities) + more
    decision = decide(np.array(similarities), people=people, calibration=CALIBRATION, accept=Threshold(0.4, 0.01))
    np.testing.assert_allclose(decision.posteriors, slowly(similarities, people, CALIBRATION), rtol=1e-9)
    assert decision.posteriors.sum() <= 1 + 1e-12


def test_the_prior_odds_are_those_of_one_among_all():
    decision = decide(np.array([0.5]), people=20, calibration=CALIBRATION, accept=Threshold(0.4, 0.01))
    probability = 0.5 / 20
    assert decision.prior_log_odds == pytest.approx(math.log(probability / (1 - probability)))


@pytest.mark.parametrize(
    ("similarities", "decision", "best"),
    [([0.5, 0.1], "match", 0), ([0.4], "match", 0), ([0.3999], "unknown", None), ([], "unknown", None)],
)
def test_a_match_is_the_best_candidate_at_or_over_the_threshold(similarities, decision, best):
    made = decide(np.array(similarities), people=5, calibration=CALIBRATION, accept=Threshold(0.4, 0.01))
    assert (made.decision, made.best, len(made.posteriors)) == (decision, best, len(similarities))


def test_more_candidates_than_people_known_of_are_counted_as_people():
    # Somebody was enrolled between the count and the search.
    made = decide(np.array([0.5, 0.4, 0.3]), people=1, calibration=CALIBRATION, accept=Threshold(0.4, 0.01))
    np.testing.assert_allclose(made.posteriors, slowly([0.5, 0.4, 0.3], 3, CALIBRATION))


def test_with_no_evidence_either_way_the_posterior_is_the_prior():
    flat = Calibration(100, 100, 0.0, 1e-12, -1.0, 1.0, (0.5, 0.03), (0.1, 0.2), (0.0, 0.0))
    made = decide(np.array([0.5, 0.4]), people=10, calibration=flat, accept=Threshold(0.4, 0.01))
    np.testing.assert_allclose(made.posteriors, [0.05, 0.05], rtol=1e-6)
