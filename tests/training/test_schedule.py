"""Rates, groups and averages against values worked out by hand."""

import pytest
import torch
from torch import nn

from training.config import OptimiserConfig
from training.schedule import Average, groups, rate_at


def test_the_rate_rises_straight_and_then_falls_as_a_power():
    config = OptimiserConfig(rate=1.0, warm_up=0.2, schedule="poly")
    rates = [rate_at(step, 10, config) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.25)
    assert rates[9] == pytest.approx((1 / 8) ** 2)


def test_a_cosine_is_half_way_in_the_middle_and_ends_near_its_last_rate():
    config = OptimiserConfig(rate=2.0, warm_up=0, schedule="cosine", last_rate=0.1)
    assert rate_at(0, 100, config) == pytest.approx(2.0)
    assert rate_at(50, 100, config) == pytest.approx(2.0 * 0.55)
    assert rate_at(99, 100, config) == pytest.approx(0.2, rel=0.01)


def test_a_constant_rate_stays():
    config = OptimiserConfig(rate=2.0, warm_up=0, schedule="constant")
    assert {rate_at(step, 10, config) for step in range(10)} == {2.0}


def test_only_matrices_and_kernels_decay():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, free = groups(network, 0.1)
    assert [each.ndim for each in decayed["params"]] == [4, 2]
    assert {each.ndim for each in free["params"]} == {1}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_the_average_follows_the_weights():
    network = nn.Linear(1, 1, bias=False)
    average = Average(network, 0.5)
    expected = network.weight.item()
    for step in range(1, 30):
        with torch.no_grad():
            network.weight.fill_(float(step))
        average.update(network)
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * step
    assert average.network(network).weight.item() == pytest.approx(expected)
    assert network.weight.item() == 29.0


def test_counters_are_copied_into_the_average():
    network = nn.BatchNorm1d(2)
    average = Average(network, 0.9)
    network(torch.randn(4, 2))
    average.update(network)
    assert average.values["num_batches_tracked"] == 1
