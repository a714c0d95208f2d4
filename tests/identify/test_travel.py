import math

import numpy as np
import pytest

from service.identify.travel import Gravity, affinity, mapped

GRAVITY = Gravity(d0=4.0, beta=1.5, kappa=10.0)
LAT = np.array([0.0, 48.1, 48.4, 49.5])
LON = np.array([0.0, 11.5, 11.0, 11.1])
POPULATION = np.array([5.0, 100.0, 30.0, 50.0])


def kilometres(a, b):
    """Through the angle between the two directions from the middle of the earth."""
    points = []
    for place in (a, b):
        lat, lon = math.radians(LAT[place]), math.radians(LON[place])
        points.append([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])
    return 6371 * math.acos(min(1.0, sum(x * y for x, y in zip(*points, strict=True))))


def first_guess(home, region):
    pull = {g: POPULATION[g] * (kilometres(home, g) + 4) ** -1.5 for g in (1, 2, 3)}
    return pull[region] / sum(pull.values())


@pytest.fixture
def regions():
    return mapped(LAT, LON, POPULATION, GRAVITY)


@pytest.mark.parametrize("home", [1, 2, 3])
@pytest.mark.parametrize("region", [1, 2, 3])
def test_where_nothing_was_seen_people_move_by_gravity(regions, home, region):
    found = affinity(regions, region, np.zeros(4), np.zeros(4), GRAVITY)
    assert found[home] == pytest.approx(first_guess(home, region), rel=1e-6)


def test_what_was_seen_often_outweighs_the_first_guess(regions):
    seen, totals = np.array([0, 0, 700.0, 0]), np.array([0, 0, 1000.0, 0])
    found = affinity(regions, 3, seen, totals, GRAVITY)
    assert found[2] == pytest.approx((700 + 10 * first_guess(2, 3)) / 1010)


def test_over_all_regions_the_visits_of_a_home_sum_to_one(regions):
    counts = np.array([[0, 0, 0, 0], [0, 9, 3, 1], [0, 2, 40, 5], [0, 0, 0, 7]], float)
    total = sum(affinity(regions, g, counts[:, g], counts.sum(axis=1), GRAVITY) for g in (1, 2, 3))
    np.testing.assert_allclose(total[1:], 1)


def test_people_without_a_home_move_as_people_do_on_average(regions):
    found = affinity(regions, 2, np.zeros(4), np.zeros(4), GRAVITY)
    assert found[0] == pytest.approx(np.average(found[1:], weights=POPULATION[1:]))


def test_where_the_region_is_not_known_nobody_is_nearer_than_others(regions):
    assert affinity(regions, 0, np.zeros(4), np.zeros(4), GRAVITY).tolist() == [1, 1, 1, 1]


def test_a_gallery_where_nobody_has_a_home_has_no_near_and_far():
    nowhere = mapped(np.zeros(1), np.zeros(1), np.array([7.0]), GRAVITY)
    assert affinity(nowhere, 0, np.zeros(1), np.zeros(1), GRAVITY).tolist() == [1]
