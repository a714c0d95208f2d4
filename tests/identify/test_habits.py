import numpy as np
import pytest

from service.identify.habits import FEWEST, Log, Scene, fit_habits, gain
from service.identify.prior import Habits, prior, residents
from service.identify.travel import Gravity, affinity, mapped

PEOPLE = 500
EVERYBODY = residents(np.arange(PEOPLE), np.ones(PEOPLE, np.int64), regions=2)
EVEN = np.ones(2)


def scene(seed, *, fading=0.0, regulars=20, visits=300):
    """A device with regulars; `fading` is the share of them that others replace halfway through the history."""
    random = np.random.default_rng(seed)
    first, second = random.choice(PEOPLE, (2, regulars), replace=False)
    days = np.sort(random.uniform(-20, 100, visits))[::-1]
    stays = random.random(regulars) >= fading
    places = random.integers(0, regulars, visits)
    rows = np.where((days > 40) | stays[places], first[places], second[places])
    passing = random.random(visits) < 0.2
    rows[passing] = random.integers(0, PEOPLE, passing.sum())
    return Scene(Log(rows, days), (), lambda _: EVEN)


def test_the_gain_is_the_mean_log_of_the_prior_over_an_even_one():
    given, habits = scene(0), Habits()
    before = prior([given.device.level(habits)], EVERYBODY, EVEN, 0.0, Habits(cap=PEOPLE))
    later = [row for row, day in zip(given.device.rows, given.device.days, strict=True) if day < 0]
    expected = sum(np.log2(before.of(np.array([row]))[0] / (1 / PEOPLE)) for row in later) / len(later)
    assert gain([given], EVERYBODY, habits) == (pytest.approx(expected), len(later))


def test_regulars_are_worth_bits():
    bits, _ = gain([scene(seed) for seed in range(5)], EVERYBODY, Habits())
    assert 2 < bits < np.log2(PEOPLE)


def test_without_a_history_nothing_is_gained():
    lone = Scene(Log(np.array([3, 4]), np.array([-1.0, -2.0])), (), lambda _: EVEN)
    assert gain([lone], EVERYBODY, Habits()) == (pytest.approx(0), 2)


def test_the_fit_tells_later_visits_better_than_it_began():
    found = fit_habits([scene(seed) for seed in range(8)], EVERYBODY, Habits(theta=200.0, tau=7.0))
    assert found.bits > found.bits_before + 0.2
    assert found.visits > FEWEST


def test_where_guests_change_old_visits_are_forgotten_sooner():
    steady = fit_habits([scene(seed) for seed in range(8)], EVERYBODY, Habits())
    changing = fit_habits([scene(seed, fading=0.9) for seed in range(8)], EVERYBODY, Habits())
    assert changing.habits.tau < steady.habits.tau


def test_a_fit_on_other_days_holds_for_people_it_has_not_seen():
    found = fit_habits([scene(seed) for seed in range(8)], EVERYBODY, Habits(theta=200.0, tau=7.0))
    fresh = [scene(seed) for seed in range(100, 108)]
    assert gain(fresh, EVERYBODY, found.habits)[0] > gain(fresh, EVERYBODY, Habits(theta=200.0, tau=7.0))[0]


def test_too_few_visits_are_refused():
    with pytest.raises(ValueError, match="too few"):
        fit_habits([scene(0, visits=40)], EVERYBODY, Habits())


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_how_far_people_travel_is_learnt_from_who_came(beta):
    """Visitors who come once, by gravity with this beta, to devices in a country of 25 towns."""
    towns, random = 25, np.random.default_rng(1)
    home = np.repeat(np.arange(towns + 1), [0] + [40] * towns)
    everybody = residents(np.arange(len(home)), home, regions=towns + 1)
    lat, lon = np.full(towns + 1, 48.0), 8 + 0.2 * np.arange(towns + 1)
    nothing = np.zeros(towns + 1)

    def towards(region, gravity):
        made = mapped(lat, lon, everybody.population, gravity)
        return affinity(made, region, nothing, nothing, gravity)

    scenes = []
    for region in (3, 12, 20):
        weights = towards(region, Gravity(beta=beta))[home]
        rows = random.choice(len(home), 200, p=weights / weights.sum())
        scenes.append(Scene(Log(rows, -1 - random.random(200)), (), lambda g, region=region: towards(region, g)))
    found = fit_habits(scenes, everybody, Habits())
    # Another d0 with another beta may say nearly the same, so it is what they tell that counts.
    assert found.bits > gain(scenes, everybody, found.habits, Gravity(beta=beta))[0] - 0.02
    assert found.bits > gain(scenes, everybody, found.habits)[0] + 0.1
