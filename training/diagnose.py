"""Where a NaN came from: the first tensor of a step that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def first_bad(
    network: nn.Module, again: Callable[[], Tensor], beside: Mapping[str, Tensor | None] | None = None
) -> str:
    """Name the first tensor that is not finite.

    Looked at in this order: weights, what the loss compares embeddings with, layers' outputs on the way forward,
    gradients on the way back.

    Args:
        network: the network, its gradients still in place.
        again: computes the network's output for the batch once more.
        beside: by its name for the message, what else goes into the loss: centres, thresholds, a teacher's vectors.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if _bad(tensor):
            return f"the weight {name}"
    for name, other in (beside or {}).items():
        if other is not None and _bad(other):
            return name
    found: list[str] = []
    hooks = [
        module.register_forward_hook(_watch(name, found))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            again()
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return f"the output of {found[0]}"
    gradients = [name for name, each in network.named_parameters() if each.grad is not None and _bad(each.grad)]
    return f"the gradient of {gradients[-1]}" if gradients else "the loss, from finite embeddings"


def _watch(name: str, found: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def look(_: nn.Module, __: Any, out: Any) -> None:
        if isinstance(out, Tensor) and _bad(out):
            found.append(name)

    return look


def _bad(tensor: Tensor) -> bool:
    return not bool(torch.isfinite(tensor).all())
