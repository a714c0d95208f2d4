"""Networks: aligned faces in, one vector each out.

    MobileFaceNet   0.99 M parameters, for CPUs and phones
    iResNet         18 to 200 layers, the networks of ArcFace
    ViT             tiny and small, for large data on GPUs
    Recogniser      any of them, taking crops as the product has them: (n, 112, 112, 3) uint8 RGB

A backbone takes (n, 3, 112, 112) floats in [-1, 1] and gives (n, dim) floats of any length: the head reads a quality
off the length, and only the exported network makes it 1. `BACKBONES` names the constructors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from training import bottleneck
from training.fused import Depthwise, NormPReLU

SIDE = 112
"""Width and height of a crop in pixels."""


class Recogniser(nn.Module):
    """A backbone behind the crop contract: colour order, scaling and layout are decided here and nowhere else.

    The permuted view of crops lies in memory as channels-last tensors do, so nothing is copied for that layout.

    Args:
        backbone: a network of this file.
        unit: give embeddings of unit length, as an exported network does.
    """

    def __init__(self, backbone: nn.Module, *, unit: bool = False) -> None:
        super().__init__()
        self.backbone, self.unit = backbone, unit

    def forward(self, crops: Tensor) -> Tensor:
        """(n, dim) embeddings of (n, 112, 112, 3) uint8 RGB crops."""
        pixels = crops.permute(0, 3, 1, 2).to(torch.float32).sub(127.5).div(127.5)
        embeddings = cast("Tensor", self.backbone(pixels))
        if not self.unit:
            return embeddings
        embeddings = embeddings.float()
        lengths = cast("Tensor", embeddings.norm(dim=1, keepdim=True))
        return embeddings / lengths.clamp_min(1e-12)  # `functional.normalize` would export an Expand too


def _through(stages: nn.Sequential, x: Tensor, *, remember_less: bool) -> Tensor:
    """Run stages; with `remember_less` their activations are computed again in the backward pass."""
    for stage in stages:
        x = cast("Tensor", checkpoint(stage, x, use_reentrant=False)) if remember_less else stage(x)
    return x


# --- MobileFaceNet ---


class _MobileBlock(nn.Module):
    """Bottleneck with expansion: 1x1 up, 3x3 depthwise, 1x1 down without activation (MobileFaceNet, figure 2)."""

    def __init__(self, inside: int, outside: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.residual = stride == 1 and inside == outside
        self.layers = nn.Sequential(
            nn.Conv2d(inside, wide, 1, bias=False),
            NormPReLU(wide),
            Depthwise(wide, stride),
            NormPReLU(wide),
            nn.Conv2d(wide, outside, 1, bias=False),
            NormPReLU(outside, bent=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.training and bottleneck.suits(x):
            return bottleneck.through(x, self.layers, residual=self.residual)
        y = cast("Tensor", self.layers(x))
        return x + y if self.residual else y


class MobileFaceNet(nn.Module):
    """The primary MobileFaceNet (Chen et al. 2018, table 1).

    Args:
        dim: length of an embedding; the paper's is 128.
        remember_less: recompute activations in the backward pass (gradient checkpointing).
    """

    def __init__(self, dim: int = 128, *, remember_less: bool = False) -> None:
        super().__init__()
        self.remember_less = remember_less
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, 1, bias=False),
            NormPReLU(64),
            Depthwise(64),
            NormPReLU(64),
        )
        blocks: list[nn.Module] = []
        width = 64
        for expansion, channels, repeats, stride in (
            (2, 64, 5, 2),
            (4, 128, 1, 2),
            (2, 128, 6, 1),
            (4, 128, 1, 2),
            (2, 128, 2, 1),
        ):
            for i in range(repeats):
                blocks.append(_MobileBlock(width, channels, expansion=expansion, stride=stride if i == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.tail = nn.Sequential(
            nn.Conv2d(128, 512, 1, bias=False),
            NormPReLU(512),
            nn.Conv2d(512, 512, 7, groups=512, bias=False),
            NormPReLU(512, bent=False),
            nn.Conv2d(512, dim, 1, bias=False),
            NormPReLU(dim, bent=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. 2015 by outputs; PyTorch's own does not divide by the groups of a depthwise kernel, and
                # such a network's first running averages drown the signal.
                fan = module.weight.shape[0] * module.weight[0, 0].numel() // module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan))

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) embeddings of (n, 3, 112, 112) pixels in [-1, 1]."""
        if self.training and not x.requires_grad and bottleneck.suits(x):
            x = bottleneck.through(x, self.stem)
        else:
            x = self.stem(x)
        x = _through(self.blocks, x, remember_less=self.remember_less and self.training)
        if self.training and bottleneck.suits(x):
            x = bottleneck.through(x, cast("nn.Sequential", self.tail[:2]))
            return cast("Tensor", self.tail[2:](x)).flatten(1)
        return cast("Tensor", self.tail(x)).flatten(1)


# --- iResNet ---


class _ResidualBlock(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN (Deng et al. 2019, section 3.1)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inside),
            nn.Conv2d(inside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.PReLU(outside),
            nn.Conv2d(outside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.layers(x)) + cast("Tensor", self.shortcut(x))


class IResNet(nn.Module):
    """The improved residual network of ArcFace, at the full resolution of the crop to begin with.

    Args:
        depths: blocks in each of the four stages.
        dim: length of an embedding.
        dropout: share of the last features dropped in training.
        remember_less: recompute activations in the backward pass (gradient checkpointing).
    """

    def __init__(
        self, depths: tuple[int, int, int, int], dim: int = 512, *, dropout: float = 0.0, remember_less: bool = False
    ) -> None:
        super().__init__()
        self.remember_less = remember_less
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks: list[nn.Module] = []
        width = 64
        for channels, depth in zip((64, 128, 256, 512), depths, strict=True):
            for i in range(depth):
                blocks.append(_ResidualBlock(width, channels, 2 if i == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(512 * 7 * 7, dim)
        self.centred = nn.BatchNorm1d(dim)
        # A free gain here would let the head's scale drift; only the mean is learnt.
        self.centred.weight.requires_grad_(False)  # noqa: FBT003 - torch's own signature
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) embeddings of (n, 3, 112, 112) pixels in [-1, 1]."""
        x = self.stem(x)
        x = _through(self.blocks, x, remember_less=self.remember_less and self.training)
        x = self.dropout(torch.flatten(self.last(x), 1))
        # In float32: the sum of 25,088 products is the one place where half precision shows in the embedding.
        with torch.autocast(x.device.type, enabled=False):
            return cast("Tensor", self.centred(self.embed(x.float())))


# --- ViT ---


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix_in = nn.Linear(dim, 3 * dim, bias=False)
        self.mix_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = self.mix_in(x).view(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v)
        return cast("Tensor", self.mix_out(seen.transpose(1, 2).reshape(n, tokens, dim)))


class _TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = _Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + cast("Tensor", self.mlp(self.norm_mlp(x)))


class VisionTransformer(nn.Module):
    """Pre-norm transformer over 12 x 12 patches of 9 pixels, all tokens joined into the embedding.

    The sizes are those of insightface's ViT-T and ViT-S; the last 4 pixels of a side are outside every patch, as there.

    Args:
        width: length of a token.
        dim: length of an embedding.
        depth: blocks.
        heads: attention heads.
        remember_less: recompute activations in the backward pass (gradient checkpointing).
    """

    def __init__(
        self, width: int, dim: int = 512, *, depth: int = 12, heads: int = 8, remember_less: bool = False
    ) -> None:
        super().__init__()
        self.remember_less = remember_less
        tokens = (SIDE // 9) ** 2
        self.patches = nn.Conv2d(3, width, 9, 9)
        self.places = nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(*(_TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.embed = nn.Sequential(
            nn.Linear(tokens * width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.Linear(width, dim, bias=False),
            nn.BatchNorm1d(dim),
        )
        nn.init.trunc_normal_(self.places, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) embeddings of (n, 3, 112, 112) pixels in [-1, 1]."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        x = _through(self.blocks, x, remember_less=self.remember_less and self.training)
        return cast("Tensor", self.embed(self.norm(x).flatten(1)))


# --- by name ---

DEPTHS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
}


def _iresnet(name: str) -> Callable[..., nn.Module]:
    return lambda dim=512, *, remember_less=False: IResNet(DEPTHS[name], dim, remember_less=remember_less)


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    **{name: _iresnet(name) for name in DEPTHS},
    "vit_tiny": lambda dim=512, *, remember_less=False: VisionTransformer(256, dim, remember_less=remember_less),
    "vit_small": lambda dim=512, *, remember_less=False: VisionTransformer(512, dim, remember_less=remember_less),
}
"""Constructors by the name that a configuration uses; all take `dim` and `remember_less`."""
