"""Convolutions with batch normalisation and PReLU in float32 on a CPU: `bottleneck.c`, for as long as one trains.

Where the hardware does not multiply in bfloat16, a MobileFaceNet's step is spent on memory as much as on products:
PyTorch writes what a convolution gives, reads it for its statistics, reads it again to normalise it, writes that, and
the next convolution reads it. Here what lies between two convolutions is what the first one gave, and five numbers a
channel say how it is to be read. Where there is no C compiler, PyTorch's own operations do the same.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from training.fused import NormPReLU
from training.native import call, compiled

CODE = "bottleneck.c"
GROUP = 32
"""Channels come in multiples of so many."""


def suits(x: Tensor) -> bool:
    """Whether a network's input is what this file is for: float32 on a CPU, to be differentiated by weights alone."""
    return (
        x.device.type == "cpu"
        and x.dtype is torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and compiled(CODE) is not None
    )


def through(x: Tensor, layers: nn.Sequential, *, residual: bool = False) -> Tensor:
    """What `layers` give, as they would by themselves, with running statistics moved.

    Args:
        x: (n, channels, height, width) that `suits`.
        layers: convolutions without bias, each with its `NormPReLU` behind it: 1x1, depthwise 3x3 padded by 1, or, as
            the first one and where `x` needs no gradient, 3x3 padded by 1 of 3 colours with a stride of 2. Channels are
            multiples of `GROUP` but for the colours.
        residual: add `x` to what comes.
    """
    convolutions = [each for each in layers if isinstance(each, nn.Conv2d)]
    norms = [each for each in layers if isinstance(each, NormPReLU)]
    given: list[Tensor] = []
    for convolution, norm in zip(convolutions, norms, strict=True):
        slope = torch.ones_like(norm.weight) if norm.slope is None else norm.slope
        given += [convolution.weight, norm.weight, norm.bias, slope]
    plan = _Plan(tuple(map(_kind, convolutions)), residual, norms[0].eps)
    y, *statistics = _Chain.apply(x, plan, *given)  # type: ignore[no-untyped-call]
    for norm, mean, variance in zip(norms, statistics[::2], statistics[1::2], strict=True):
        norm.remember(mean, variance)
    return cast("Tensor", y)


class _Kind(NamedTuple):
    name: Literal["pointwise", "depthwise", "patches"]
    step: int


class _Plan(NamedTuple):
    kinds: tuple[_Kind, ...]
    residual: bool
    epsilon: float


def _kind(convolution: nn.Conv2d) -> _Kind:
    if convolution.groups > 1:
        return _Kind("depthwise", convolution.stride[0])
    return _Kind("pointwise", 1) if convolution.kernel_size == (1, 1) else _Kind("patches", 1)


def _patches(x: Tensor) -> Tensor:
    """(n, GROUP, height / 2, width / 2): the 3x3 pixels of 3 colours below each place of a stride of 2, then zeros."""
    seen = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).unfold(1, 3, 2).unfold(2, 3, 2)
    patches = x.new_zeros(*seen.shape[:3], GROUP)
    patches[..., :27].view(seen.shape).copy_(seen)
    return patches.permute(0, 3, 1, 2)


class _Step(NamedTuple):
    """One convolution as it was done: what it read and how, its weight as the code wants it, and what it gave."""

    x: Tensor
    norm: Tensor | None
    weight: Tensor
    y: Tensor


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _room(x: Tensor, channels: int, step: int) -> Tensor:
    """Where a convolution of `x` puts what it gives."""
    height, width = ((side - 1) // step + 1 for side in x.shape[2:])
    return torch.empty(x.shape[0], channels, height, width, memory_format=torch.channels_last)


class _Chain(torch.autograd.Function):
    """Takes each convolution's weight, gamma, beta and slope; gives the output, and each one's mean and variance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: _Plan, *given: Tensor) -> tuple[Tensor, ...]:
        before, norm = _patches(x) if plan.kinds[0].name == "patches" else x, None
        steps: list[_Step] = []
        statistics: list[Tensor] = []
        for i, kind in enumerate(plan.kinds):
            weight, gamma, beta, slope = given[4 * i : 4 * i + 4]
            channels, colours = weight.shape[0], before.shape[1]
            y, (mean, variance, rstd) = _room(before, channels, kind.step), x.new_empty(3, channels)
            if kind.name == "depthwise":
                used = weight.view(channels, 9).t().contiguous()
                place = before, *before.shape[:1], *before.shape[2:], channels, kind.step
                call(CODE, "depthwise", *place, norm, used, plan.epsilon, y, mean, variance, rstd)
            else:
                used = functional.pad(weight.reshape(channels, -1), (0, colours - weight[0].numel()))
                place = before, _rows(before), colours
                call(CODE, "pointwise", *place, norm, used, channels, plan.epsilon, y, mean, variance, rstd)
            steps.append(_Step(before, norm, used, y))
            before, norm = y, torch.stack([mean, rstd, gamma, beta, slope])
            statistics += [mean, variance * (_rows(y) / max(1, _rows(y) - 1))]
        out = torch.empty_like(before)
        call(CODE, "normalise", before, _rows(before), before.shape[1], norm, x if plan.residual else None, out)
        ctx.save_for_backward(norm, *(tensor for step in steps for tensor in step))
        ctx.plan = plan
        ctx.mark_non_differentiable(*statistics)
        return out, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        after, *saved = ctx.saved_tensors
        steps = [_Step(*saved[i : i + 4]) for i in range(0, len(saved), 4)]
        arrived = grads[0].contiguous(memory_format=torch.channels_last)
        dy: Tensor | None = arrived
        sums = arrived.new_empty(3, arrived.shape[1])
        call(CODE, "normalise_back", steps[-1].y, arrived, _rows(arrived), arrived.shape[1], after, sums)
        gradients: list[Tensor] = []
        for kind, (x, norm, weight, y) in zip(reversed(ctx.plan.kinds), reversed(steps), strict=True):
            level, tilt, under = sums
            behind = y, dy, after, sums[:2] / _rows(y)
            channels, colours = y.shape[1], x.shape[1]
            dx = None if kind.name == "patches" else torch.empty_like(x)
            sums, found = x.new_empty(3, colours), torch.empty_like(weight)
            if kind.name == "depthwise":
                place = x, *x.shape[:1], *x.shape[2:], channels, kind.step
                call(CODE, "depthwise_back", *place, norm, weight, *behind, dx, found, sums)
                dweight = found.t().reshape(channels, 1, 3, 3)
            else:
                more = arrived if ctx.plan.residual and norm is None else None
                place = x, _rows(x), colours
                call(CODE, "pointwise_back", *place, norm, weight, channels, *behind, more, dx, found, sums)
                patches = kind.name == "patches"
                dweight = found[:, :27].reshape(channels, 3, 3, 3) if patches else found[:, :, None, None]
            gradients = [dweight, tilt, level, under, *gradients]
            dy, after = dx, norm
        return dy, None, *gradients
