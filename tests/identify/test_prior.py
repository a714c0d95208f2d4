import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.identify.prior import (
    Habits,
    Level,
    claimed,
    digits_given,
    even,
    prior,
    recency,
    residents,
    unknown_share,
)

HABITS = Habits(cap=4.0)
HOME = np.array([1, 1, 1, 2, 2, 0, 2, 2])
AFFINITY = np.array([0.5, 0.7, 0.2])
EVERYBODY = np.arange(8)
RESIDENTS = residents(EVERYBODY, HOME, regions=3)


def level(visits):
    """Visits given as row -> weights of the visits."""
    rows = sorted(visits)
    return Level(
        np.array(rows, np.int64), np.array([sum(visits[r]) for r in rows]), np.array([max(visits[r]) for r in rows])
    )


def densely(levels, habits=HABITS, affinity=AFFINITY):
    """The formulas of the module's head, person by person, over the whole gallery, without the unknown."""
    weights = [affinity[home] for home in HOME]
    share = [weight / sum(weights) for weight in weights]
    for place in reversed(range(len(levels))):
        visits = levels[place]
        d, theta = (habits.discount, habits.theta) if place == 0 else (habits.cell_discount, habits.cell_theta)
        n = sum(sum(each) for each in visits.values())
        b = (theta + d * sum(max(each) for each in visits.values())) / (n + theta)
        share = [(sum(visits.get(i, [0])) - d * max(visits.get(i, [0]))) / (n + theta) + b * share[i] for i in range(8)]
        assert sum(share) == pytest.approx(1)
    return [(1 - habits.eps) * p + habits.eps / 8 for p in share]


VISITS = st.dictionaries(
    st.integers(0, 7), st.lists(st.floats(0.01, 1), min_size=1, max_size=3), min_size=0, max_size=6
)


@given(st.lists(VISITS, min_size=0, max_size=3))
def test_the_sparse_form_says_of_everybody_what_the_formulas_say(levels):
    found = prior([level(visits) for visits in levels], RESIDENTS, AFFINITY, 0.3, HABITS)
    share = np.array(densely(levels))
    np.testing.assert_allclose(found.of(EVERYBODY), 0.7 * share)
    np.testing.assert_allclose(found.held_of(EVERYBODY) * share, np.minimum(share, HABITS.cap / 8))
    assert found.unknown + found.enrolled == pytest.approx(1)


@given(VISITS)
def test_nobody_is_excluded_and_nobody_passes_more_easily_than_the_cap_lets_them(visits):
    found = prior([level(visits)], RESIDENTS, AFFINITY, 0.3, HABITS)
    assert (found.of(EVERYBODY) >= 0.7 * HABITS.eps / 8 - 1e-12).all()
    assert (found.held_of(EVERYBODY) * found.of(EVERYBODY) <= 0.7 * HABITS.cap / 8 + 1e-12).all()


def test_without_a_history_people_are_as_likely_as_their_region():
    found = prior([], RESIDENTS, AFFINITY, 0.3, Habits(eps=0)).of(EVERYBODY)
    assert found[0] / found[3] == pytest.approx(0.7 / 0.2)


def test_where_nothing_is_known_everybody_is_as_likely_as_the_next():
    assert even(RESIDENTS, HABITS).of(EVERYBODY) == pytest.approx([0.8 / 8] * 8)


def test_who_came_oftener_is_likelier_and_one_visit_is_better_than_none():
    found = prior([level({2: [1.0] * 9, 3: [1.0]})], RESIDENTS, np.ones(3), 0.3, Habits(cap=1e9)).of(EVERYBODY)
    assert found[2] > found[3] > found[4]


def test_a_quiet_device_still_knows_its_guests():
    """With the discount at full strength whoever came once would count nothing as soon as that visit weighs d."""
    quiet = prior([level({3: [0.2], 6: [0.2]})], RESIDENTS, np.ones(3), 0.3, Habits(discount=0.3, theta=1))
    assert quiet.of(np.array([3]))[0] > 1.3 * quiet.of(np.array([4]))[0]


def test_as_visits_age_the_device_falls_back_smoothly_to_its_cell():
    odds = []
    for weight in (1.0, 0.3, 0.1, 0.01, 0.0001):
        p = prior([level({3: [weight] * 3})], RESIDENTS, np.ones(3), 0.3, Habits(theta=2, cap=1e9)).of(EVERYBODY)
        odds.append(p[3] / p[4])
    assert odds == sorted(odds, reverse=True)
    assert odds[-1] == pytest.approx(1, abs=0.01)


def test_a_million_visits_of_one_person_are_believed_and_held_under_the_cap():
    found = prior([level({3: [1.0] * 10**6})], RESIDENTS, np.ones(3), 0.3, HABITS)
    regular, other = found.of(np.array([3, 4]))
    assert regular == pytest.approx(0.7 * (1 - 7 / 8 * HABITS.eps), rel=1e-3)
    assert found.held_of(np.array([3]))[0] * regular == pytest.approx(0.7 * HABITS.cap / 8)
    assert other > 0.7 * HABITS.eps / 8


def test_a_visit_counts_less_the_older_it_is_and_one_to_come_counts_as_now():
    assert recency(np.array([0.0, 60.0, -5.0]), Habits(tau=60)) == pytest.approx([1, np.exp(-1), 1])


def test_a_device_learns_its_share_of_strangers():
    habits = Habits(unknown=0.2, kappa=10)
    assert unknown_share(0, 0, habits) == pytest.approx(0.2)
    assert unknown_share(30, 90, habits) == pytest.approx(32 / 100)
    assert unknown_share(0, 1e9, habits) == 0.01
    assert unknown_share(1e9, 1e9, habits) == 0.99


# --- digits ---


def by_enumeration(before, digits_of, typed, habits):
    """Bayes over everybody and the unknown, with k = 2 digits: P(typed | i) for each."""
    weights = []
    for row in range(8):
        right = digits_of[row] == typed
        weights.append(float(before.of(np.array([row]))[0]) * ((1 - habits.slip) if right else habits.slip / 100))
    unknown = before.unknown / 100
    total = sum(weights) + unknown
    return [weight / total for weight in weights], unknown / total


def test_digits_are_evidence_about_everybody_and_the_unknown_too():
    before = prior([level({2: [1.0, 1.0], 6: [0.5]})], RESIDENTS, AFFINITY, 0.3, HABITS)
    digits_of = [11, 42, 42, 13, 14, 15, 16, 42]
    after = digits_given(before, np.array([1, 2, 7]), 2, HABITS)
    people, unknown = by_enumeration(before, digits_of, 42, HABITS)
    np.testing.assert_allclose(after.of(EVERYBODY), people)
    assert after.unknown == pytest.approx(unknown)
    assert after.unknown + after.enrolled == pytest.approx(1)


def test_digits_raise_whoever_has_them_against_a_stranger():
    before = even(RESIDENTS, HABITS)
    after = digits_given(before, np.array([4]), 4, HABITS)
    gained = (after.of(np.array([4]))[0] / after.unknown) / (before.of(np.array([4]))[0] / before.unknown)
    assert gained == pytest.approx((1 - HABITS.slip) * 10**4)


def test_digits_that_nobody_has_leave_a_stranger():
    after = digits_given(even(RESIDENTS, HABITS), np.array([], np.int64), 4, HABITS)
    assert after.unknown > 0.9


# --- claims ---


def test_a_claim_is_believed_by_half():
    before = prior([level({2: [1.0]})], RESIDENTS, AFFINITY, 0.3, HABITS)
    after = claimed(before, 5)
    assert after.of(np.array([5]))[0] > 0.5 * before.enrolled
    assert after.of(np.array([2]))[0] == pytest.approx(before.of(np.array([2]))[0] / 2)
    assert after.enrolled == pytest.approx(before.enrolled)
    assert after.unknown == before.unknown


def test_a_claim_is_not_held_by_the_cap_which_is_for_what_visits_say():
    before = prior([level({2: [1.0] * 50, 3: [1.0] * 50})], RESIDENTS, AFFINITY, 0.3, Habits(cap=2))
    held = before.held_of(EVERYBODY)
    assert (held[[2, 3]] < 0.7).all()
    held[2] = 1
    np.testing.assert_array_equal(claimed(before, 2).held_of(EVERYBODY), held)


def test_who_is_named_for_a_claim_or_digits_is_held_as_before():
    before = prior([level({2: [1.0]})], RESIDENTS, AFFINITY, 0.3, Habits(cap=0.9))
    held = before.held_of(EVERYBODY)
    assert (held[[0, 1]] < 1).all()
    np.testing.assert_array_equal(digits_given(before, np.array([0, 4]), 2, HABITS).held_of(EVERYBODY), held)
    held[4] = 1
    np.testing.assert_array_equal(claimed(before, 4).held_of(EVERYBODY), held)


def test_an_empty_gallery_has_a_prior_too():
    nobody = residents(np.empty(0, np.int64), np.empty(0, np.int64), regions=1)
    found = even(nobody, HABITS)
    assert found.enrolled == 0
    assert found.unknown == HABITS.unknown


def test_rows_may_come_in_any_order_and_newcomers_have_no_home_yet():
    shuffled = residents(np.array([70, 3, 12]), np.array([2, 1, 2]), regions=4)
    assert shuffled.homes(np.array([3, 12, 70, 99, 4])).tolist() == [1, 2, 2, 0, 0]
    assert shuffled.population.tolist() == [0, 1, 2, 0]
