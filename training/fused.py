"""What a CPU would otherwise wait for in bfloat16: `fused.c`, and one gradient taken another way.

Much of a MobileFaceNet's step is batch normalisation and PReLU, which PyTorch runs as operations of their own over the
whole activation: most of it where the hardware multiplies in bfloat16. There the input gradient of strided depthwise
convolutions is slow as well, for which oneDNN has no quick form. Where there is no C compiler, PyTorch's own operations
do the same. In float32 whole blocks go another way: `training.bottleneck`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.native import call, compiled

CODE = "fused.c"
WIDE = 16
"""Channels are worked on in groups of so many."""


def _suits(x: Tensor) -> bool:
    """Whether activations are of the kind that this file is for, and PyTorch is not tracing them."""
    return (
        x.device.type == "cpu"
        and x.dtype is torch.bfloat16
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, slope: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, rstd = torch.empty_like(gamma), torch.empty_like(gamma), torch.empty_like(gamma)
        y = torch.empty_like(x)
        before = x, x.numel() // x.shape[1], x.shape[1], gamma, beta, slope, epsilon
        call(CODE, "normalise", *before, y, mean, variance, rstd)
        ctx.save_for_backward(x, gamma, beta, slope, mean, rstd)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, gamma, beta, slope, mean, rstd = ctx.saved_tensors
        dy = grads[0].contiguous(memory_format=torch.channels_last)
        dx, dgamma, dbeta, dslope = (torch.empty_like(each) for each in (x, gamma, beta, slope))
        before = x, dy, x.numel() // x.shape[1], x.shape[1], gamma, beta, slope, mean, rstd
        call(CODE, "normalise_back", *before, dx, dgamma, dbeta, dslope)
        return dx, dgamma, dbeta, dslope, None


class NormPReLU(nn.BatchNorm2d):
    """Batch normalisation followed by a PReLU with a slope a channel.

    Args:
        channels: of the activation.
        bent: False leaves the PReLU out.
    """

    def __init__(self, channels: int, *, bent: bool = True) -> None:
        super().__init__(channels)
        self.slope = nn.Parameter(torch.full((channels,), 0.25)) if bent else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width), the same shape as it comes."""
        if self.training and x.shape[1] % WIDE == 0 and _suits(x) and compiled(CODE) is not None:
            slope = torch.ones_like(self.weight) if self.slope is None else self.slope
            y, mean, variance = _Normalise.apply(x, self.weight, self.bias, slope, self.eps)  # type: ignore[no-untyped-call]
            rows = x.numel() // x.shape[1]
            self.remember(mean, variance * (rows / max(1, rows - 1)))
            return y  # type: ignore[no-any-return]
        y = super().forward(x)
        return y if self.slope is None else functional.prelu(y, self.slope.to(y.dtype))

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch: its mean, and its variance as an unbiased estimate."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None  # noqa: PT018, S101 - tells the type checker
        assert self.num_batches_tracked is not None  # noqa: S101 - tells the type checker
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


class _HalvedDepthwise(torch.autograd.Function):
    """A 3x3 depthwise convolution of stride 2, padded by 1, whose input gradient is that of stride 1.

    The gradient of every output that stride 1 would have had besides is zero.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, None, 2, 1, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        spread = torch.zeros_like(x)
        spread[:, :, ::2, ::2] = grads[0]
        back = torch.ops.aten.convolution_backward
        rest = ([1, 1], [1, 1], False, [0, 0], weight.shape[0])
        dx = back(spread, x, weight, None, [1, 1], *rest, [True, False, False])[0]
        dweight = back(grads[0], x, weight, None, [2, 2], *rest, [False, True, False])[1]
        return dx, dweight


class Depthwise(nn.Conv2d):
    """A 3x3 convolution of each channel by itself, padded by 1.

    Args:
        channels: of the activation.
        stride: 1 or 2.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) to the same, or half of height and width."""
        if self.training and self.stride == (2, 2) and _suits(x):
            return _HalvedDepthwise.apply(x, self.weight.to(x.dtype))  # type: ignore[no-any-return, no-untyped-call]
        return super().forward(x)
