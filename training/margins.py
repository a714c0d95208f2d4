"""Margins: what a class-centre loss does to cosines before they become logits.

    cosine with the own class  --own-->     lower, so that the network must work for it
    cosines with other classes --others-->  higher where they are hard (CurricularFace), else as they are
    length of the embedding    --penalty--> pushed into its range (MagFace)

A margin knows no weights, no labels and no ranks: `training.heads` owns the centres and `training.partial_fc` spreads
them. The functions in the first half are the formulas; the constructors in the second half put each published margin
together as a `Margin`; whatever a margin must remember between steps is one small object in `Margin.state`.

Shapes: n embeddings, C classes (of this shard), `own` and `lengths` are (n,), `others` is (n, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

# --- formulas ---

STEEPEST = 1e-7
"""Least sin^2 of an angle in a gradient: d(angle)/d(cosine) stays under 3,200, where the exact one is infinite."""


class _Angle(torch.autograd.Function):
    """arccos with exact values and a gradient that stays finite at cosines of -1 and 1."""

    @staticmethod
    def forward(ctx: Any, cosines: Tensor) -> Tensor:
        inside = cosines.clamp(-1.0, 1.0)
        ctx.save_for_backward(inside)
        return torch.acos(inside)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return -grads[0] * torch.rsqrt((1.0 - inside * inside).clamp_min(STEEPEST))


def angle(cosines: Tensor) -> Tensor:
    """Angles in [0, pi] of cosines; cosines that rounding put outside [-1, 1] count as the bound."""
    return cast("Tensor", _Angle.apply(cosines))  # type: ignore[no-untyped-call]


def psi(angles: Tensor) -> Tensor:
    """Cosine continued downwards past pi: (-1)^k cos(angle) - 2 k with k = floor(angle / pi).

    A margin can push an angle beyond pi, where the plain cosine rises again and would reward the worst samples.
    Source: SphereFace (Liu et al. 2017), equation 8, for any angle >= 0.
    """
    k = torch.floor(angles.detach() / math.pi).clamp_min(0.0)
    return (1.0 - 2.0 * torch.remainder(k, 2.0)) * torch.cos(angles) - 2.0 * k


def combined(cosines: Tensor, *, m1: float = 1.0, m2: float | Tensor = 0.0, m3: float | Tensor = 0.0) -> Tensor:
    """psi(m1 angle + m2) - m3 (ArcFace, Deng et al. 2019, equation 4), with the exact gradient.

    m1 alone is SphereFace, m2 alone ArcFace, m3 alone CosFace. `m2` and `m3` may be given per sample.
    """
    if m1 == 1.0 and isinstance(m2, float) and m2 == 0.0:
        return cosines - m3
    return psi(m1 * angle(cosines) + m2) - m3


def straight_through(cosines: Tensor, *, m2: float) -> Tensor:
    """cos(angle + m2) in value, the gradient of the cosine itself (insightface `losses.py`, class ArcFace).

    Nothing is done past pi, as there.
    """
    moved = torch.cos(torch.acos(cosines.detach().clamp(-1.0, 1.0)) + m2)
    return cosines + (moved - cosines.detach())


def adaptive(cosines: Tensor, quality: Tensor, *, m: float) -> Tensor:
    """cos(angle - m quality) - (m + m quality), quality in [-1, 1] (AdaFace, Kim et al. 2022, equations 13 to 15)."""
    angles = (angle(cosines) - m * quality).clamp(1e-3, math.pi - 1e-3)
    return torch.cos(angles) - (m + m * quality)


def magnitude_margin(lengths: Tensor, *, low: float, high: float, m_low: float, m_high: float) -> Tensor:
    """Margin that grows linearly with the length, from m_low at `low` to m_high at `high` (MagFace, section 3.2)."""
    inside = lengths.clamp(low, high)
    return m_low + (m_high - m_low) / (high - low) * (inside - low)


def magnitude_penalty(lengths: Tensor, *, low: float, high: float) -> Tensor:
    """g(a) = 1/a + a/high^2, least at a = high (MagFace, Meng et al. 2021, equation 5)."""
    inside = lengths.clamp(low, high)
    return 1.0 / inside + inside / high**2


def curricular(cosines: Tensor, own: Tensor, t: Tensor) -> Tensor:
    """Cosines, times (t + cosine) where a wrong class is nearer than the margin allows (CurricularFace, equation 8).

    Args:
        cosines: (n, C) cosines with the classes.
        own: (n,) own-class cosines after the margin; compared with, never differentiated.
        t: () running mean of the own-class cosines.
    """
    return torch.where(cosines.detach() > own.detach()[:, None], cosines * (t + cosines), cosines)


# --- what is remembered between steps ---


class MarginState(Protocol):
    """Something a margin remembers; it sees each batch once, before the batch's logits are formed."""

    def observe(self, own: Tensor, lengths: Tensor) -> None:
        """Take in a batch's (n,) own-class cosines and (n,) lengths, those of all ranks in the same order."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What must be kept for a resumed run to go on exactly."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        ...


class RunningLengths:
    """Running mean and deviation of embedding lengths (AdaFace: momentum 0.01, first values 20 and 100)."""

    def __init__(self, momentum: float = 0.01) -> None:
        self.momentum = momentum
        self.mean = torch.tensor(20.0)
        self.deviation = torch.tensor(100.0)

    def observe(self, own: Tensor, lengths: Tensor) -> None:
        """Move both towards the batch's; a batch of one has no deviation and leaves that as it is."""
        del own
        inside = lengths.detach().clamp(1e-3, 100.0)
        self.mean = torch.lerp(self.mean.to(inside), inside.mean(), self.momentum)
        if len(inside) > 1:
            self.deviation = torch.lerp(self.deviation.to(inside), inside.std(), self.momentum)

    def quality(self, lengths: Tensor, h: float) -> Tensor:
        """(n,) how long each embedding is among the recent ones, in [-1, 1] (equation 12); carries no gradient."""
        inside = lengths.detach().clamp(1e-3, 100.0)
        return (h * (inside - self.mean.to(inside)) / (self.deviation.to(inside) + 1e-3)).clamp(-1.0, 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Mean and deviation."""
        return {"mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take mean and deviation over."""
        self.mean, self.deviation = state["mean"], state["deviation"]


class RunningCosine:
    """Running mean of own-class cosines: CurricularFace's t, zero at first, momentum 0.01 (equation 9)."""

    def __init__(self, momentum: float = 0.01) -> None:
        self.momentum = momentum
        self.t = torch.tensor(0.0)

    def observe(self, own: Tensor, lengths: Tensor) -> None:
        """Move t towards the batch's mean."""
        del lengths
        own = own.detach()
        self.t = torch.lerp(self.t.to(own), own.mean(), self.momentum)

    def state_dict(self) -> dict[str, Tensor]:
        """The value of t."""
        return {"t": self.t}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take t over."""
        self.t = state["t"]


class DrawnMargins:
    """Margins drawn from a normal distribution for every sample of every batch (ElasticFace, equations 5 to 8).

    The generator is the state's own and starts alike on every rank, so that all ranks draw the same margins.

    Args:
        mean: mean of the distribution.
        deviation: its standard deviation.
        sort: give larger margins to the samples further from their centre (the paper's `+`).
        seed: start of the generator.
    """

    def __init__(self, mean: float, deviation: float, *, sort: bool, seed: int) -> None:
        self.mean, self.deviation, self.sort = mean, deviation, sort
        self.generator = torch.Generator().manual_seed(seed)
        self.margins = torch.empty(0)

    def observe(self, own: Tensor, lengths: Tensor) -> None:
        """Draw the margins of this batch."""
        del lengths
        drawn = self.mean + self.deviation * torch.randn(len(own), generator=self.generator, dtype=torch.float64)
        drawn = drawn.to(own)
        if self.sort:
            furthest_last = torch.argsort(own.detach(), descending=True)
            drawn = torch.empty_like(drawn).index_copy(0, furthest_last, drawn.sort().values)
        self.margins = drawn

    def state_dict(self) -> dict[str, Tensor]:
        """The generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on drawing from where the other stopped."""
        self.generator.set_state(state["generator"].cpu())


# --- the published margins ---


def _same(cosines: Tensor, _: Tensor) -> Tensor:
    return cosines


@dataclass(frozen=True)
class Margin:
    """A margin: pure functions of cosines and lengths, and at most one remembering object.

    Attributes:
        scale: what multiplies the cosines; None means each embedding's own length (SphereFace).
        own: (own-class cosines (n,), lengths (n,)) -> (n,).
        others: (cosines (n, C), own after the margin (n,)) -> (n, C).
        penalty: lengths (n,) -> (n,), added to each sample's loss.
        state: what is remembered between steps.
        unified: joined by the unified cross-entropy (UniFace) instead of the softmax.
        raw: not cosines but plain inner products of embeddings and centres (the softmax of classification).
    """

    scale: float | None
    own: Callable[[Tensor, Tensor], Tensor] = _same
    others: Callable[[Tensor, Tensor], Tensor] = _same
    penalty: Callable[[Tensor], Tensor] | None = None
    state: MarginState | None = None
    unified: bool = False
    raw: bool = False


def softmax() -> Margin:
    """No margin and nothing normalised: the linear layer of ordinary classification, without its bias."""
    return Margin(1.0, raw=True)


def normface(scale: float = 64.0) -> Margin:
    """No margin: scaled cosines (NormFace, Wang et al. 2017)."""
    return Margin(scale)


def sphereface(m: float = 1.7, scale: float | None = None) -> Margin:
    """psi(m angle), scaled by the embedding's length as published, or by `scale` (Liu et al. 2017)."""
    return Margin(scale, lambda own, _: combined(own, m1=m))


def cosface(m: float = 0.35, scale: float = 64.0) -> Margin:
    """Cosine - m (Wang et al. 2018, equation 4)."""
    return Margin(scale, lambda own, _: combined(own, m3=m))


def arcface(m: float = 0.5, scale: float = 64.0, *, exact_gradient: bool = True) -> Margin:
    """cos(angle + m) (Deng et al. 2019); `exact_gradient=False` is insightface's straight-through form."""
    if exact_gradient:
        return Margin(scale, lambda own, _: combined(own, m2=m))
    return Margin(scale, lambda own, _: straight_through(own, m2=m))


def combined_margin(m1: float = 1.0, m2: float = 0.3, m3: float = 0.2, scale: float = 64.0) -> Margin:
    """psi(m1 angle + m2) - m3 (Deng et al. 2019, equation 4)."""
    return Margin(scale, lambda own, _: combined(own, m1=m1, m2=m2, m3=m3))


def adaface(m: float = 0.4, h: float = 0.333, scale: float = 64.0) -> Margin:
    """A margin by image quality, read off the embedding's length (Kim et al. 2022)."""
    state = RunningLengths()
    return Margin(scale, lambda own, lengths: adaptive(own, state.quality(lengths, h), m=m), state=state)


def magface(
    *,
    low: float = 10.0,
    high: float = 110.0,
    m_low: float = 0.45,
    m_high: float = 0.8,
    weight: float = 35.0,
    scale: float = 64.0,
) -> Margin:
    """ArcFace with a margin that grows with the length, and a penalty that rewards length (Meng et al. 2021)."""
    return Margin(
        scale,
        lambda own, lengths: combined(
            own, m2=magnitude_margin(lengths, low=low, high=high, m_low=m_low, m_high=m_high)
        ),
        penalty=lambda lengths: weight * magnitude_penalty(lengths, low=low, high=high),
    )


def curricularface(m: float = 0.5, scale: float = 64.0) -> Margin:
    """ArcFace whose hard wrong classes weigh more as the network gets better (Huang et al. 2020)."""
    state = RunningCosine()
    return Margin(
        scale,
        lambda own, _: combined(own, m2=m),
        lambda cosines, own: curricular(cosines, own, state.t.to(cosines)),
        state=state,
    )


def elastic_arcface(
    m: float = 0.5, deviation: float = 0.0125, scale: float = 64.0, *, sort: bool = False, seed: int = 0
) -> Margin:
    """ArcFace with drawn margins (ElasticFace, Boutros et al. 2022)."""
    state = DrawnMargins(m, deviation, sort=sort, seed=seed)
    return Margin(scale, lambda own, _: combined(own, m2=state.margins), state=state)


def elastic_cosface(
    m: float = 0.35, deviation: float = 0.0125, scale: float = 64.0, *, sort: bool = False, seed: int = 0
) -> Margin:
    """CosFace with drawn margins (ElasticFace, Boutros et al. 2022)."""
    state = DrawnMargins(m, deviation, sort=sort, seed=seed)
    return Margin(scale, lambda own, _: combined(own, m3=state.margins), state=state)


def uniface(m: float = 0.4, scale: float = 64.0) -> Margin:
    """CosFace's margin under the unified cross-entropy, whose one threshold is learnt (Zhou et al. 2023)."""
    return Margin(scale, lambda own, _: combined(own, m3=m), unified=True)


MARGINS: dict[str, Callable[..., Margin]] = {
    "softmax": softmax,
    "normface": normface,
    "sphereface": sphereface,
    "cosface": cosface,
    "arcface": arcface,
    "combined": combined_margin,
    "adaface": adaface,
    "magface": magface,
    "curricularface": curricularface,
    "elastic_arcface": elastic_arcface,
    "elastic_cosface": elastic_cosface,
    "uniface": uniface,
}
"""Constructors by the name that a configuration uses."""
