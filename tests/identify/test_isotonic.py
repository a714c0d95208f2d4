import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.identify.isotonic import likelihood_ratios, rising

POINTS = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 5)), min_size=1, max_size=6)


def by_every_partition(values, weights):
    """The best rising curve is constant on runs, so the best of all ways to cut into runs is it."""
    count, best, least = len(values), None, np.inf
    for cuts in itertools.product([False, True], repeat=count - 1):
        edges = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), count]
        curve = np.empty(count)
        for first, last in itertools.pairwise(edges):
            curve[first:last] = np.average(values[first:last], weights=weights[first:last])
        cost = np.sum(weights * (values - curve) ** 2)
        if (np.diff(curve) >= -1e-12).all() and cost < least:
            best, least = curve, cost
    return best


@given(POINTS)
def test_it_is_the_nearest_rising_sequence(points):
    values, weights = np.array(points).T
    np.testing.assert_allclose(rising(values, weights), by_every_partition(values, weights), atol=1e-6)


def test_what_rises_already_stays():
    np.testing.assert_array_equal(rising(np.arange(5.0), np.ones(5)), np.arange(5.0))


def test_likelihood_ratios_are_those_of_the_shares_where_they_rise():
    ratios = likelihood_ratios(np.array([0.1, 0.3, 0.6]), np.array([0.7, 0.2, 0.1]))
    assert ratios == pytest.approx(np.log([1 / 7, 1.5, 6]))


def test_cells_out_of_order_are_pooled():
    ratios = likelihood_ratios(np.array([0.4, 0.2, 0.4]), np.array([0.4, 0.5, 0.1]))
    assert ratios == pytest.approx(np.log([0.6 / 0.9, 0.6 / 0.9, 4]))


def test_a_class_that_is_absent_gives_infinity():
    ratios = likelihood_ratios(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert ratios.tolist() == [-np.inf, np.inf]
