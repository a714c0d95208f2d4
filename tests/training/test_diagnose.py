"""The first tensor that is not finite, put there on purpose."""

import math

import torch
from torch import nn

from training.diagnose import first_bad

X = torch.ones(2, 3)


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_bad_weight_is_named_first():
    net = network()
    with torch.no_grad():
        net[2].weight[0, 0] = math.nan
    assert first_bad(net, lambda: net(X)) == "the weight 2.weight"


def test_a_bad_output_is_named_by_the_layer_that_made_it():
    class Root(nn.Module):
        def forward(self, x):
            return (x - 1e9).sqrt()

    net = nn.Sequential(nn.Linear(3, 4), Root(), nn.ReLU())
    assert first_bad(net, lambda: net(X)) == "the output of 1"


def test_a_bad_gradient_is_named_by_the_last_parameter_that_has_one():
    net = network()
    net(X).sum().backward()
    net[0].weight.grad[0, 0] = math.inf
    assert first_bad(net, lambda: net(X)) == "the gradient of 0.weight"


def test_with_everything_finite_it_is_the_loss():
    net = network()
    assert first_bad(net, lambda: net(X)) == "the loss, from finite embeddings"
