import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from service.errors import FpirNotSupportedError
from service.identify.budget import (
    CLAIM_FMR,
    FLOOR_FMR,
    LEEWAY,
    VOUCHED_FMR,
    Scales,
    claiming,
    floors,
    share_out,
    solved,
)
from service.identify.calibration import fit
from service.identify.decision import threshold
from service.identify.prior import Habits, claimed, digits_given, even, prior, residents
from tests.identify.gallery import (
    AFFINITY,
    EVERYBODY,
    HABITS,
    HOME,
    PEOPLE,
    RESIDENTS,
    VISITS,
    budget,
    history,
    scale,
    scales,
    shared,
)


def spent(found, near=0.0, far=0.0):
    """The sum over everybody, one by one."""
    total = 0.0
    for row, least in zip(EVERYBODY, found.thresholds(EVERYBODY), strict=True):
        is_near = HOME[row] == 1 or row in VISITS.rows
        total += float(scale(near if is_near else far).survival(least))
    return total


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.002])
def test_the_thresholds_of_everybody_spend_the_budget(alpha):
    assert spent(budget(alpha)) == pytest.approx(alpha, rel=1e-3)


def test_neighbours_are_measured_on_their_own_scale():
    found = budget(0.01, near=0.05)
    assert spent(found, near=0.05) == pytest.approx(0.01, rel=1e-3)
    assert found.thresholds(np.array([10]))[0] > budget(0.01).thresholds(np.array([10]))[0] + 0.03


def test_with_nothing_known_everybody_has_the_threshold_of_a_plain_search():
    found = shared(even(RESIDENTS, HABITS), 0.01)
    plain = threshold(scale(), PEOPLE, 0.01, insist=True)
    np.testing.assert_allclose(found.thresholds(EVERYBODY), plain.similarity, atol=1e-4)


def test_the_likelier_need_less_of_a_face():
    found = budget()
    order = np.argsort(-found.prior.of(EVERYBODY), kind="stable")
    assert (np.diff(found.thresholds(EVERYBODY)[order]) >= -1e-12).all()
    assert found.thresholds(np.array([3]))[0] < found.thresholds(np.array([4]))[0]


def test_everybody_but_those_on_the_floor_is_accepted_at_the_same_odds():
    found = budget()
    least = found.thresholds(EVERYBODY)
    odds = np.log(found.prior.of(EVERYBODY)) + scale().llr(least)
    free = least > found.least + 1e-9
    np.testing.assert_allclose(odds[free], found.demand, atol=1e-6)


def test_a_context_lets_nobody_pass_more_easily_than_the_cap_allows():
    """The thresholds of PRIORS.md, whose prior is min{pi, cap / N}, found over everybody one by one."""
    before = prior([VISITS], RESIDENTS, AFFINITY, 0.3, Habits(cap=1.1))
    bounded = np.minimum(before.of(EVERYBODY), 0.7 * 1.1 / PEOPLE)
    unnamed = np.setdiff1d(EVERYBODY, VISITS.rows)
    assert (bounded < before.of(EVERYBODY))[VISITS.rows].all()
    assert 0 < (bounded < before.of(EVERYBODY))[unnamed].sum() < len(unnamed)
    found = shared(before, 0.01)

    def at(demand):
        return np.maximum(scale().score(demand - np.log(bounded)), found.least)

    demand = brentq(lambda demand: scale().survival(at(demand)).sum() - 0.01, -10, 30)
    np.testing.assert_allclose(found.thresholds(EVERYBODY), at(demand), atol=1e-6)


def test_nobody_is_under_the_floor_and_the_floor_is_that_of_a_comparison():
    big = residents(np.arange(200_001), np.ones(200_001, np.int64), regions=3)
    found = shared(even(big, HABITS), 0.9)
    sure = digits_given(found.prior, np.array([5]), 4, HABITS)
    least = shared(sure, 0.9).thresholds(np.array([5]))[0]
    assert least == pytest.approx(scale().threshold(max(FLOOR_FMR, LEEWAY * 0.9 / 200_001)))


def test_in_a_small_gallery_a_context_loosens_a_plain_search_by_the_leeway_at_most():
    """With the floor at 1e-6 whatever the gallery, a prior could only ever make 400 people harder to find."""
    found = budget(0.004)
    assert found.thresholds(np.array([3]))[0] >= scale().threshold(LEEWAY * 0.004 / PEOPLE) - 1e-9
    assert found.thresholds(np.array([3]))[0] < threshold(scale(), PEOPLE, 0.004, insist=True).similarity


def test_a_stranger_is_taken_for_somebody_no_oftener_than_stated_even_if_all_scores_move_together():
    found, random = budget(0.02), np.random.default_rng(1)
    least = found.thresholds(EVERYBODY)
    alone = random.normal(0, 0.09, (20_000, PEOPLE)) >= least
    together = random.normal(0, 0.09, (20_000, 1)) >= least
    assert 0.6 * 0.02 < alone.any(axis=1).mean() < 0.02 + 3 * np.sqrt(0.02 / 20_000)
    assert together.any(axis=1).mean() <= alone.any(axis=1).mean()


def test_no_other_thresholds_of_the_same_budget_find_more_mates():
    found, random = budget(0.01), np.random.default_rng(2)
    least, weights = found.thresholds(EVERYBODY), found.prior.of(EVERYBODY)
    best = weights @ norm.sf((least - 0.6) / 0.1)
    shares = norm.sf(least / 0.09)
    for spread in (0.05, 0.3, 1.0):
        for _ in range(50):
            other = shares * np.exp(random.normal(0, spread, PEOPLE))
            other = np.minimum(other * shares.sum() / other.sum(), norm.sf(found.least / 0.09))
            assert weights @ norm.sf((norm.isf(other) * 0.09 - 0.6) / 0.1) <= best * 1.001


def test_a_rate_that_nobody_can_vouch_for_is_refused_or_answered_with_what_can_be():
    with pytest.raises(FpirNotSupportedError, match="400 people"):
        budget(1e-4)
    found = shared(history(), 1e-4, insist=False)
    assert found.fpir == pytest.approx(PEOPLE * scale().least_fmr)
    assert (found.thresholds(EVERYBODY) == scale().thresholds[-1]).all()


@pytest.mark.parametrize("people", [0, 1])
def test_a_gallery_of_one_or_none_has_a_budget(people):
    few = residents(np.arange(people), np.zeros(people, np.int64), regions=1)
    lone = scales()
    alone = shared(even(few, Habits()), 0.01, type(lone)(lone.near, lone.far, np.array([True]), 1.0))
    assert alone.fpir == 0.01
    assert alone.thresholds(np.array([0]))[0] >= scale().threshold(0.01) - 1e-9


def test_digits_lower_the_floor_of_those_they_vouch_for_alone():
    big = residents(np.arange(200_001), np.ones(200_001, np.int64), regions=3)
    sure = digits_given(even(big, HABITS), np.array([5]), 4, HABITS)
    found = share_out(sure, scales(), 0.3, floors(0.3, 200_001, np.array([5])), insist=True)
    assert found.thresholds(np.array([5]))[0] == pytest.approx(scale().threshold(VOUCHED_FMR))
    assert found.thresholds(np.array([6]))[0] > found.thresholds(np.array([5]))[0] + 0.03


def test_with_the_floor_of_a_face_alone_digits_could_not_help_whom_it_stops():
    """No rule with a floor at 1e-6 has fewer misses than the mates under it, digits or none: 4.8 % at d = 120."""
    random = np.random.default_rng(0)
    measured = fit(random.normal(0.6, 0.1, 20_000), random.normal(0, 120**-0.5, 3_000_000))
    big = residents(np.arange(200_001), np.ones(200_001, np.int64), regions=3)
    alone = Scales(measured, measured, np.zeros(3, bool), 1.0)
    for given, least, most in ((None, 0.04, 0.055), (np.array([5]), 0.0, 0.005)):
        sure = digits_given(even(big, HABITS), np.array([5]), 4, HABITS)
        found = share_out(sure, alone, 0.9, floors(0.02, 200_001, given), insist=True)
        (asked_for,) = found.thresholds(np.array([5]))
        assert asked_for == pytest.approx(found.floor(np.array([5]))[0])
        assert least <= norm.cdf((asked_for - 0.6) / 0.1) <= most


def test_a_claim_lowers_the_floor_of_nobody():
    limits = floors(0.003, PEOPLE)
    before = history()
    usual = shared(before, 0.003).thresholds(np.array([17]))[0]
    said = claimed(before, 17)
    found = share_out(said, scales(), 0.003, claiming(limits, 17, float(scale().survival(usual))), insist=True)
    assert scale().survival(found.thresholds(np.array([17]))[0]) == pytest.approx(CLAIM_FMR, rel=0.1)
    assert shared(said, 0.003).thresholds(np.array([17]))[0] < found.thresholds(np.array([17]))[0] <= usual
    assert found.thresholds(np.array([18]))[0] >= found.least
    big = floors(0.003, 10**6)
    assert claiming(big, 17, 0.0).claimed_fmr == big.fmr == FLOOR_FMR


def test_what_a_claim_does_not_spend_is_left_to_the_others():
    said, limits = claimed(history(), 17), floors(0.01, PEOPLE)
    strict, lax = (share_out(said, scales(), 0.01, each, insist=True) for each in (claiming(limits, 17, 0.0), limits))
    assert spent(strict) == pytest.approx(0.01, rel=1e-3)
    assert strict.demand < lax.demand


@pytest.mark.parametrize("kind", ["straight", "curved", "steps", "a plateau at the rate"])
def test_the_least_demand_within_the_rate_is_found_in_few_looks(kind):
    looks = []

    def spent(demand):
        looks.append(demand)
        return {
            "straight": np.exp(-demand),
            "curved": np.exp(-demand - 0.01 * demand**2) if demand > -50 else np.exp(25),
            "steps": np.exp(-np.floor(demand)),
            "a plateau at the rate": 0.003 if 3 <= demand <= 5 else np.exp(-demand),
        }[kind]

    found = solved(spent, 0.003, -100.0, 100.0)
    assert spent(found) <= 0.003
    assert spent(found - 1e-6) > 0.003 or spent(found) == pytest.approx(0.003)
    assert len(looks) <= (70 if kind == "steps" else 30)
