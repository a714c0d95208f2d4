"""How fast the weights move, which of them shrink, and their running average."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimiserConfig


def rate_at(step: int, total: int, config: OptimiserConfig) -> float:
    """Learning rate of a step, 0 to `total` - 1: a straight rise over the warm-up, then the schedule's fall."""
    rise = round(config.warm_up * total)
    if step < rise:
        return config.rate * (step + 1) / rise
    gone = (step - rise) / max(1, total - rise)
    if config.schedule == "constant":
        return config.rate
    left = (1 - gone) ** 2 if config.schedule == "poly" else (1 + math.cos(math.pi * gone)) / 2
    return config.rate * (config.last_rate + (1 - config.last_rate) * left)


def groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and kernels decay; norms, slopes and biases, which are vectors, do not."""
    parameters = [each for each in network.parameters() if each.requires_grad]
    return [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]


class Average:
    """Exponential moving average of a network's weights, in float32; what is counted and not learnt is copied.

    Args:
        network: whose weights.
        decay: share of the old average that a step keeps; less in the first steps, which are far from everything.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {name: each.detach().clone() for name, each in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        for name, each in network.state_dict().items():
            if each.is_floating_point():
                self.values[name].lerp_(each, 1 - decay)
            else:
                self.values[name].copy_(each)

    def network(self, like: nn.Module) -> nn.Module:
        """A network with the averaged weights."""
        averaged = copy.deepcopy(like)
        averaged.load_state_dict(self.values)
        return averaged

    def state_dict(self) -> dict[str, Any]:
        """The average and how many steps it has seen."""
        return {"values": self.values, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        values: dict[str, Tensor] = state["values"]
        for name, each in values.items():
            self.values[name].copy_(each)
        self.updates = int(state["updates"])
