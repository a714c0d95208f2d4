"""What is seen beside the face: evidence, bounded, and nothing where nothing is known."""

import numpy as np
import pytest
from scipy.stats import logistic

from service.identify.attributes import BOUND, FACE_POWER, STEP, Known, Observable, fit_power, logs, weighed
from service.identify.prior import Habits, prior, residents

GENDER = Observable("category", error=0.05)
HEIGHT = Observable("number", spread=5.0)
NOBODY = np.full(6, np.nan)


def slowly(how, stored, low, high):
    """The same, person by person."""
    values = [value for value in stored if not np.isnan(value)]
    if how.kind == "category":
        kinds = max(len(set(values)), 2)
        chance = {value: 1 - how.error if value == low else how.error / (kinds - 1) for value in values}
    else:
        scale = how.spread * 3**0.5 / np.pi
        room, middle = max(0.1 * how.spread, high - low) / 2, (low + high) / 2

        def between(low, high):
            return logistic.cdf(high) - logistic.cdf(low) if low < 0 else logistic.sf(low) - logistic.sf(high)

        chance = {value: between((middle - room - value) / scale, (middle + room - value) / scale) for value in values}
    mean = sum(chance[value] for value in values) / len(values)
    return [0.0 if np.isnan(value) else float(np.clip(np.log(chance[value] / mean), -BOUND, BOUND)) for value in stored]


@pytest.mark.parametrize(
    ("how", "stored", "low", "high"),
    [
        (GENDER, [0, 1, 0, np.nan, 1, 1], 0, 0),
        (GENDER, [0, 1, 2, 2, np.nan, 1], 2, 2),
        (HEIGHT, [160, 170, 180, np.nan, 190, 172], 168, 172),
        (HEIGHT, [160, 170, 180, np.nan, 190, 172], 175, 175),
        (HEIGHT, [160, 170, 180, np.nan, 190, 172], 20, 30),
    ],
    ids=str,
)
def test_it_is_the_likelihood_over_its_mean_bounded(how, stored, low, high):
    given = logs(how, np.array(stored, float), low, high)
    np.testing.assert_allclose(given, slowly(how, stored, low, high), atol=1e-9)
    assert np.abs(given).max() <= BOUND


def test_an_attribute_that_nobody_has_has_no_effect():
    assert logs(GENDER, NOBODY, 0, 0).tolist() == [0] * 6
    assert logs(HEIGHT, NOBODY, 170, 180).tolist() == [0] * 6


def test_a_category_that_nobody_has_tells_nothing():
    np.testing.assert_allclose(logs(GENDER, np.array([0, 1, 1, np.nan]), -1, -1), 0, atol=1e-12)


def test_what_is_guessed_from_the_face_counts_less_however_well_it_fits():
    assert Observable("number", from_face=True, power=1.0).strength == FACE_POWER
    assert Observable("number", from_face=True, power=0.1).strength == 0.1
    assert Observable("number", power=1.0).strength == 1.0


@pytest.mark.parametrize(("how", "low", "high"), [(GENDER, 1, 1), (HEIGHT, 168, 172)], ids=["category", "number"])
def test_working_with_each_value_once_is_working_with_everybody(how, low, high):
    random, known = np.random.default_rng(0), Known()
    first, second = ([float(value) for value in random.integers(low - 1, high + 2, 200)] for _ in range(2))
    first[3] = second[7] = float("nan")
    known.which = np.concatenate([known.places(first), known.places(second)])
    # Whoever has left may have been the last one of a value.
    staying = np.concatenate([first, second]) != low
    known.which = known.which[staying]
    values = np.concatenate([first, second])[staying]
    np.testing.assert_array_equal(known.of_everybody(), values)
    np.testing.assert_allclose(known.logs(how, low, high), how.strength * logs(how, values, low, high), atol=1e-12)


# --- the prior ---

PEOPLE = residents(np.arange(40), np.arange(40) % 4, 4)


@pytest.fixture
def before():
    return prior((), PEOPLE, np.array([1.0, 3.0, 1.0, 2.0]), 0.2, Habits(cap=1.3))


def test_everybodys_prior_is_multiplied_and_all_of_it_stays_one(before):
    evidence = np.random.default_rng(0).uniform(-1, 1, 40)
    after = weighed(before, evidence)
    rounded = np.round(evidence / STEP) * STEP
    joint = before.of(PEOPLE.rows) * np.exp(rounded)
    total = before.unknown + joint.sum()
    np.testing.assert_allclose(after.of(PEOPLE.rows), joint / total)
    assert after.unknown == pytest.approx(before.unknown / total)
    assert after.enrolled + after.unknown == pytest.approx(1)
    held = before.held_of(PEOPLE.rows)
    assert held.min() < 1
    np.testing.assert_array_equal(after.held_of(PEOPLE.rows), held)


def test_nothing_known_changes_nothing(before):
    after = weighed(before, np.zeros(40))
    np.testing.assert_allclose(after.of(PEOPLE.rows), before.of(PEOPLE.rows))


def test_who_came_since_is_as_likely_as_without(before):
    evidence = np.where(np.arange(40) < 20, 1.0, -1.0)
    newcomer = np.array([77])
    after = weighed(before, evidence)
    assert after.of(newcomer)[0] / after.unknown == pytest.approx(before.of(newcomer)[0] / before.unknown)


# --- fitting ---


def visitors(count, error, seed=1):
    """Cases of people of two genders, of whom a share is observed wrongly."""
    random = np.random.default_rng(seed)
    stored = (np.arange(200) % 2).astype(float)
    places = random.integers(0, 200, count)
    seen = np.where(random.random(count) < error, 1 - stored[places], stored[places])
    cases = [(int(place), value, value) for place, value in zip(places, seen, strict=True)]
    return stored, cases, ["f" if stored[place] else "m" for place in places]


def test_what_is_observed_rightly_gains_for_every_group():
    stored, cases, names = visitors(600, 0.05)
    gain = fit_power(GENDER, stored, cases, names)
    assert gain.power == 1.0
    assert gain.bits > 0.4
    assert set(gain.groups) == {"f", "m"}
    assert min(gain.groups.values()) > 0.3


def test_what_is_observed_at_random_is_given_no_power():
    gain = fit_power(GENDER, *visitors(600, 0.5))
    assert (gain.power, gain.bits) == (0.0, 0.0)


def test_what_is_guessed_from_the_face_is_fitted_up_to_its_limit():
    face = Observable("category", error=0.05, from_face=True)
    assert fit_power(face, *visitors(600, 0.05)).power == FACE_POWER


def test_too_few_cases_are_refused():
    with pytest.raises(ValueError, match="too few"):
        fit_power(GENDER, *visitors(49, 0.05))
