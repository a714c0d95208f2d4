"""Heads: the class centres, and the loss between them and a batch of embeddings.

    criterion = MarginHead(classes=5749, dim=512, margin=arcface())
    loss = criterion(embeddings, labels)

A head owns one or several centres a class and, if asked, the means of the centre loss; a `training.margins.Margin`
says what happens to the cosines. The functions below serve `training.partial_fc` too, where each rank holds the
columns of some classes only: `columns` is then -1 for samples whose class lives elsewhere.

Everything here is computed in float32 (or float64, if that is what comes in) whatever the network ran in: a scale of
64 turns the rounding of a bfloat16 cosine into a quarter of a logit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.errors import LabelError
from training.margins import Margin

BLOCK = 4096
"""Classes whose first centres are drawn together, so that any shard can draw its own without drawing the rest."""


def initial_centres(first: int, last: int, dim: int, sub_centres: int, seed: int) -> Tensor:
    """Draw the centres of classes `first` to `last` (exclusive), the same ones however the classes are sharded.

    Returns:
        ((last - first) * sub_centres, dim) float32, normal with deviation 0.01; a class's centres lie together.
    """
    centres = torch.empty((last - first) * sub_centres, dim)
    for block in range(first // BLOCK, math.ceil(last / BLOCK)):
        start = block * BLOCK
        generator = torch.Generator().manual_seed((seed << 32) + block)
        drawn = torch.randn(BLOCK * sub_centres, dim, generator=generator).mul_(0.01)
        low, high = max(first, start), min(last, start + BLOCK)
        source = drawn[(low - start) * sub_centres : (high - start) * sub_centres]
        centres[(low - first) * sub_centres : (high - first) * sub_centres] = source
    return centres


def similarities(embeddings: Tensor, centres: Tensor, sub_centres: int = 1, *, raw: bool = False) -> Tensor:
    """Compare embeddings with classes; a class with several centres counts by its nearest one.

    Args:
        embeddings: (n, dim), not yet of unit length.
        centres: (classes * sub_centres, dim), a class's centres together.
        sub_centres: centres a class (Deng et al. 2020, sub-centre ArcFace).
        raw: plain inner products instead of cosines.

    Returns:
        (n, classes) cosines within [-1, 1], or inner products.
    """
    if raw:
        products = embeddings @ centres.T
    else:
        products = functional.normalize(embeddings) @ functional.normalize(centres).T
        products = products.clamp(-1.0, 1.0)
    if sub_centres == 1:
        return products
    return products.reshape(len(products), -1, sub_centres).max(dim=2).values


def own_similarities(cosines: Tensor, columns: Tensor) -> Tensor:
    """(n,) similarity of each sample with its own class, 0 where that class is in no column here; no gradient."""
    own = cosines.detach().gather(1, columns.clamp_min(0)[:, None]).squeeze(1)
    return own.where(columns >= 0, torch.zeros_like(own))


def margin_logits(margin: Margin, cosines: Tensor, columns: Tensor, own: Tensor, lengths: Tensor) -> Tensor:
    """Turn cosines into logits.

    Args:
        margin: what is done to them.
        cosines: (n, C) similarities with the classes held here.
        columns: (n,) column of each sample's own class, or -1 where it is held elsewhere.
        own: (n,) own-class similarity of every sample, without gradient, also of those held elsewhere.
        lengths: (n,) lengths of the embeddings.

    Returns:
        (n, C) scaled logits.
    """
    rows = torch.nonzero(columns >= 0).squeeze(1)
    here = columns[rows]
    after = margin.own(own.index_put((rows,), cosines[rows, here]), lengths)
    logits = margin.others(cosines, after).index_put((rows, here), after[rows])
    return logits * (lengths[:, None] if margin.scale is None else margin.scale)


def unified_terms(logits: Tensor, columns: Tensor, threshold: Tensor) -> Tensor:
    """Sum over samples of log(1 + exp(b - own)) + sum over others of log(1 + exp(other - b)).

    The unified cross-entropy (UniFace, Zhou et al. 2023, equation 10): every pair is judged against one threshold b,
    as verification will judge it. Shapes as in `margin_logits`; `threshold` is ().
    """
    rows = torch.nonzero(columns >= 0).squeeze(1)
    distance = logits - threshold
    own = distance[rows, columns[rows]]
    return functional.softplus(distance).sum() - functional.softplus(own).sum() + functional.softplus(-own).sum()


def initial_threshold(classes: int) -> Tensor:
    """() first threshold of the unified cross-entropy: log(10 classes), which balances own and other pairs."""
    return torch.tensor(math.log(10.0 * classes))


class CentreLoss(nn.Module):
    """1/2 |x - c|^2 towards running class means (Wen et al. 2016); the means move by their own rate, not by gradient.

    Args:
        classes: classes held here.
        dim: length of an embedding.
        rate: share of the way that a mean moves towards its samples in one step (the paper's alpha).
    """

    def __init__(self, classes: int, dim: int, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.means: Tensor
        self.register_buffer("means", torch.zeros(classes, dim))

    def forward(self, embeddings: Tensor, columns: Tensor) -> Tensor:
        """() sum of the losses of the samples whose class is here; in training the means then move (equation 4)."""
        rows = torch.nonzero(columns >= 0).squeeze(1)
        away = embeddings[rows] - self.means.to(embeddings.dtype)[columns[rows]]
        if self.training:
            with torch.no_grad():
                touched, which, counts = torch.unique(columns[rows], return_inverse=True, return_counts=True)
                total = torch.zeros(len(touched), away.shape[1], dtype=away.dtype, device=away.device)
                total.index_add_(0, which, away.detach())
                moves = self.rate * total / (1 + counts[:, None])
                self.means[touched] += moves.to(self.means.dtype)
        return 0.5 * away.square().sum()


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that name no class.

    Raises:
        LabelError: a label is negative or not below `classes`.
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise LabelError(f"label {int(wrong[0])} is outside the head's classes 0 to {classes - 1}")


class MarginHead(nn.Module):
    """All centres in one place, moved by whatever optimiser the caller has.

    Args:
        classes: number of classes.
        dim: length of an embedding.
        margin: what is done to the cosines.
        sub_centres: centres a class.
        centre_loss: weight of the centre loss beside the margin's own loss; 0 leaves it out.
        seed: start of the centres.
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        margin: Margin,
        *,
        sub_centres: int = 1,
        centre_loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classes, self.margin, self.sub_centres, self.centre_weight = classes, margin, sub_centres, centre_loss
        self.centres = nn.Parameter(initial_centres(0, classes, dim, sub_centres, seed))
        self.threshold = nn.Parameter(initial_threshold(classes)) if margin.unified else None
        self.centre_loss = CentreLoss(classes, dim) if centre_loss else None

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """() mean loss of (n, dim) embeddings and (n,) labels.

        Raises:
            LabelError: a label names no class.
        """
        check_labels(labels, self.classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            lengths = embeddings.norm(dim=1)
            cosines = similarities(embeddings, self.centres.to(embeddings.dtype), self.sub_centres, raw=self.margin.raw)
            own = own_similarities(cosines, labels)
            if self.margin.state is not None and self.training:
                self.margin.state.observe(own, lengths)
            logits = margin_logits(self.margin, cosines, labels, own, lengths)
            if self.threshold is None:
                loss = functional.cross_entropy(logits, labels)
            else:
                loss = unified_terms(logits, labels, self.threshold.to(logits.dtype)) / len(labels)
            if self.margin.penalty is not None:
                loss = loss + self.margin.penalty(lengths).mean()
            if self.centre_loss is not None:
                loss = loss + self.centre_weight * self.centre_loss(embeddings, labels) / len(labels)
        return loss

    def get_extra_state(self) -> dict[str, Tensor]:
        """What the margin remembers, as part of `state_dict`."""
        return {} if self.margin.state is None else self.margin.state.state_dict()

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Give the margin its memory back."""
        if self.margin.state is not None:
            self.margin.state.load_state_dict(state)
