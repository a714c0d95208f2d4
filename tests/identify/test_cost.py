import math

import numpy as np
import pytest

from service.identify.cost import cllr, min_cllr


def slowly(mated, impostor):
    missed = sum(math.log2(1 + math.exp(-ratio)) for ratio in mated) / len(mated)
    taken = sum(math.log2(1 + math.exp(ratio)) for ratio in impostor) / len(impostor)
    return (missed + taken) / 2


def test_it_is_the_mean_cost_in_bits_of_both_classes():
    mated, impostor = np.array([3.0, 1.0, -0.5]), np.array([-4.0, 0.2])
    assert cllr(mated, impostor) == pytest.approx(slowly(mated, impostor))


def test_saying_nothing_costs_one_bit():
    assert cllr(np.zeros(3), np.zeros(2)) == pytest.approx(1)


def test_scores_that_separate_could_cost_nothing():
    assert min_cllr(np.array([0.5, 0.6]), np.array([0.1, 0.2])) == pytest.approx(0)


def test_scores_that_say_nothing_cost_one_bit_at_best():
    assert min_cllr(np.array([0.5, 0.5]), np.array([0.5])) == pytest.approx(1)


def test_true_likelihood_ratios_cost_hardly_more_than_the_best():
    random = np.random.default_rng(0)
    mated, impostor = random.normal(1, 1, 20_000), random.normal(-1, 1, 20_000)
    best = min_cllr(mated, impostor)
    assert best <= cllr(2 * mated, 2 * impostor) <= best + 0.005
    assert cllr(6 * mated, 6 * impostor) > best + 0.1
