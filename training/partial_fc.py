"""Partial FC: class centres spread over ranks, a sampled share of them compared and moved in each step.

    head = PartialFC(classes=1_000_000, dim=512, margin=arcface(), fraction=0.1)
    loss = head(embeddings, labels)      # the same value on every rank
    loss.backward()                      # gradients of embeddings, and of the sampled centres only
    head.step(rate)                      # SGD with momentum and weight decay, on the sampled rows only

Source: An et al. 2022 (Partial FC). The public implementation keeps a dense gradient and a dense optimiser, so that
weight decay and momentum move every row in every step; here a row that was not sampled keeps its bits, its momentum
included. Each rank holds the classes `share(classes, rank, ranks)`; embeddings and labels of all ranks are gathered,
each rank compares them with its own classes, and only maxima, sums and own-class cosines travel back.
Works with gloo on CPUs, NCCL on GPUs, and with no process group at all as the head of a single process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from training.errors import CheckpointError, ShardingError
from training.heads import (
    CentreLoss,
    check_labels,
    initial_centres,
    initial_threshold,
    margin_logits,
    own_similarities,
    similarities,
    unified_terms,
)
from training.margins import Margin

# --- what ranks say to each other ---


def share(classes: int, rank: int, ranks: int) -> tuple[int, int]:
    """First class and the one after the last of a rank; shares differ by at most one class."""
    return classes * rank // ranks, classes * (rank + 1) // ranks


def _ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def reduced(values: Tensor, *, largest: bool = False) -> Tensor:
    """The sum over ranks of tensors of one shape, or their elementwise maximum; not differentiated."""
    values = values.detach().clone()
    if _ranks() > 1:
        distributed.all_reduce(values, distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM)
    return values


def gathered(values: Tensor) -> Tensor:
    """Tensors of all ranks, (n, ...) each, joined to (ranks * n, ...) in the order of ranks; not differentiated."""
    if _ranks() == 1:
        return values.detach()
    parts = [torch.empty_like(values) for _ in range(_ranks())]
    distributed.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """`gathered`, differentiated: each rank gets back what all ranks' losses say about its own rows.

    The gradient is multiplied by the number of ranks because data parallelism averages where a sum is meant.
    """

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        ctx.rows = len(embeddings)
        return gathered(embeddings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        start = _rank() * ctx.rows
        return reduced(grads[0])[start : start + ctx.rows] * _ranks()


class _SumOfShares(torch.autograd.Function):
    """Sum over ranks of each rank's share of the loss; every rank differentiates its own share."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        del ctx
        return reduced(part)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        return grads[0]


class _ShardedCrossEntropy(torch.autograd.Function):
    """Mean softmax cross-entropy of logits whose columns are spread over ranks."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, columns: Tensor) -> Tensor:
        largest = reduced(logits.amax(dim=1), largest=True)
        shares = (logits - largest[:, None]).exp_()
        total = reduced(shares.sum(dim=1))
        own = reduced(own_similarities(logits, columns))
        ctx.save_for_backward(shares.div_(total[:, None]), columns)
        return (total.log() + largest - own).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        probabilities, columns = ctx.saved_tensors
        rows = torch.nonzero(columns >= 0).squeeze(1)
        gradient = probabilities.clone()
        gradient[rows, columns[rows]] -= 1.0
        return gradient.mul_(grads[0] / len(columns)), None


def sharded_cross_entropy(logits: Tensor, columns: Tensor) -> Tensor:
    """() mean cross-entropy of (n, C) logits of this rank's classes; `columns` is -1 where the class is elsewhere."""
    return cast("Tensor", _ShardedCrossEntropy.apply(logits, columns))  # type: ignore[no-untyped-call]


# --- the head ---


@dataclass(frozen=True)
class _Drawn:
    """The classes compared in one backward pass: `index` None means all; `centres` is the leaf with the gradient."""

    index: Tensor | None
    centres: Tensor


class PartialFC(nn.Module):
    """Margin head whose centres are sharded over the ranks of the default process group and moved by itself.

    Args:
        classes: number of classes over all ranks.
        dim: length of an embedding.
        margin: what is done to the cosines.
        fraction: share of each rank's classes that are compared in a step; those of the batch always are.
        sub_centres: centres a class.
        centre_loss: weight of the centre loss; 0 leaves it out.
        momentum: of the centres' SGD.
        weight_decay: of the centres' SGD.
        seed: start of the centres and of the sampling.

    Raises:
        ShardingError: there are more ranks than classes, or the fraction is not in (0, 1].
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        margin: Margin,
        *,
        fraction: float = 1.0,
        sub_centres: int = 1,
        centre_loss: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0.0 < fraction <= 1.0:
            raise ShardingError(f"fraction {fraction} is not in (0, 1]")
        if classes < _ranks():
            raise ShardingError(f"{classes} classes cannot be spread over {_ranks()} ranks; use fewer ranks")
        self.first, self.last = share(classes, _rank(), _ranks())
        self.classes, self.margin, self.sub_centres, self.centre_weight = classes, margin, sub_centres, centre_loss
        self.fraction, self.momentum, self.weight_decay, self.seed = fraction, momentum, weight_decay, seed
        self.draws = 0
        self.centres: Tensor
        self.velocity: Tensor
        self.threshold_velocity: Tensor
        self.register_buffer("centres", initial_centres(self.first, self.last, dim, sub_centres, seed))
        self.register_buffer("velocity", torch.zeros_like(self.centres))
        self.register_buffer("threshold_velocity", torch.zeros(()))
        self.threshold = nn.Parameter(initial_threshold(classes)) if margin.unified else None
        self.centre_loss = CentreLoss(self.last - self.first, dim) if centre_loss else None
        self._drawn: list[_Drawn] = []

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """() mean loss over the batches of all ranks, which must be of one size.

        Args:
            embeddings: (n, dim) of this rank.
            labels: (n,) classes, 0 to `classes` - 1.

        Raises:
            LabelError: a label names no class.
        """
        check_labels(labels, self.classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            if _ranks() > 1:
                embeddings = cast("Tensor", _Gather.apply(embeddings))  # type: ignore[no-untyped-call]
            labels = gathered(labels)
            held = (labels >= self.first) & (labels < self.last)
            classes = (labels - self.first).where(held, labels.new_tensor(-1))
            index, columns = self._draw(classes)
            return self._loss(embeddings, self._leaf(index), classes, columns)

    def _loss(self, embeddings: Tensor, centres: Tensor, classes: Tensor, columns: Tensor) -> Tensor:
        count, margin = len(columns), self.margin
        lengths = embeddings.norm(dim=1)
        cosines = similarities(embeddings, centres.to(embeddings.dtype), self.sub_centres, raw=margin.raw)
        own = reduced(own_similarities(cosines, columns))
        if margin.state is not None and self.training:
            margin.state.observe(own, lengths)
        logits = margin_logits(margin, cosines, columns, own, lengths)
        here = embeddings.new_zeros(())
        if self.threshold is None:
            loss = sharded_cross_entropy(logits, columns)
        else:
            loss = embeddings.new_zeros(())
            here = here + unified_terms(logits, columns, self.threshold.to(logits.dtype)) / count
        if margin.penalty is not None:
            here = here + margin.penalty(lengths)[columns >= 0].sum() / count
        if self.centre_loss is not None:
            here = here + self.centre_weight * self.centre_loss(embeddings, classes) / count
        return loss + cast("Tensor", _SumOfShares.apply(here))  # type: ignore[no-untyped-call]

    def _draw(self, classes: Tensor) -> tuple[Tensor | None, Tensor]:
        """Choose the classes to compare with: (their sorted numbers here or None for all, the batch's columns)."""
        held = self.last - self.first
        wanted = max(1, round(held * self.fraction))
        present = torch.unique(classes[classes >= 0])
        if not self.training or self.fraction == 1.0 or len(present) >= held:
            return None, classes
        if wanted > len(present):
            generator = torch.Generator(device=classes.device)
            generator.manual_seed(((self.seed * 1_000_003 + self.draws) << 20) + _rank())
            order = torch.rand(held, generator=generator, device=classes.device)
            order[present] = 2.0
            index = torch.topk(order, wanted, sorted=False).indices.sort().values
        else:
            index = present
        self.draws += 1
        return index, torch.searchsorted(index, classes.clamp_min(0)).where(classes >= 0, classes)

    def _rows(self, index: Tensor) -> Tensor:
        """Rows of the centres of the given classes, (classes * sub_centres,)."""
        if self.sub_centres == 1:
            return index
        return (index[:, None] * self.sub_centres + torch.arange(self.sub_centres, device=index.device)).flatten()

    def _leaf(self, index: Tensor | None) -> Tensor:
        centres = self.centres.detach() if index is None else self.centres[self._rows(index)]
        if self.training and torch.is_grad_enabled():
            centres.requires_grad_()
            self._drawn.append(_Drawn(index, centres))
        return centres

    @torch.no_grad()
    def step(self, rate: float, *, loss_scale: float = 1.0) -> None:
        """Move the centres that were compared since the last step, by SGD; all others keep their bits.

        Args:
            rate: learning rate.
            loss_scale: what the loss was multiplied by before `backward` (fp16).
        """
        drawn = [each for each in self._drawn if each.centres.grad is not None]
        self._drawn = []
        if drawn:
            rows, gradient = self._joined(drawn)
            gradient.div_(loss_scale)
            if rows is None:
                gradient.add_(self.centres, alpha=self.weight_decay)
                self.velocity.mul_(self.momentum).add_(gradient)
                self.centres.add_(self.velocity, alpha=-rate)
            else:
                centres = self.centres[rows]
                velocity = self.velocity[rows].mul_(self.momentum).add_(gradient.add_(centres, alpha=self.weight_decay))
                self.velocity[rows] = velocity
                self.centres[rows] = centres.add_(velocity, alpha=-rate)
        if self.threshold is not None and self.threshold.grad is not None:
            self.threshold_velocity.mul_(self.momentum).add_(reduced(self.threshold.grad) / loss_scale)
            self.threshold.add_(self.threshold_velocity, alpha=-rate)
            self.threshold.grad = None

    def discard(self) -> None:
        """Forget the gradients since the last step, as fp16 training does after an overflow."""
        self._drawn = []
        if self.threshold is not None:
            self.threshold.grad = None

    def held(self) -> dict[str, Tensor | None]:
        """What this rank compares embeddings with, named for a message."""
        return {
            f"the centres of classes {self.first} to {self.last - 1}": self.centres,
            "the head's threshold": self.threshold,
            "the means of the centre loss": None if self.centre_loss is None else self.centre_loss.means,
        }

    def _joined(self, drawn: list[_Drawn]) -> tuple[Tensor | None, Tensor]:
        """The rows and summed gradients of one or, with accumulation, several backward passes."""
        parts = [(each.index, cast("Tensor", each.centres.grad)) for each in drawn]
        if len(parts) == 1:
            index, gradient = parts[0]
            return (None if index is None else self._rows(index)), gradient
        if any(index is None for index, _ in parts):
            total = torch.zeros_like(self.centres)
            for index, gradient in parts:
                total[... if index is None else self._rows(index)] += gradient
            return None, total
        rows, which = torch.unique(
            torch.cat([self._rows(cast("Tensor", index)) for index, _ in parts]), return_inverse=True
        )
        total = torch.zeros(len(rows), self.centres.shape[1], dtype=self.centres.dtype, device=rows.device)
        return rows, total.index_add_(0, which, torch.cat([gradient for _, gradient in parts]))

    # --- keeping and taking up again ---

    def shard(self) -> dict[str, Any]:
        """This rank's part of a checkpoint: its centres, their momentum, and what all ranks remember alike."""
        return {
            "classes": self.classes,
            "sub_centres": self.sub_centres,
            "first": self.first,
            "last": self.last,
            "draws": self.draws,
            "centres": self.centres,
            "velocity": self.velocity,
            "means": None if self.centre_loss is None else self.centre_loss.means,
            "threshold": None if self.threshold is None else self.threshold.detach(),
            "threshold_velocity": self.threshold_velocity,
            "margin": {} if self.margin.state is None else self.margin.state.state_dict(),
        }

    @torch.no_grad()
    def load_shards(self, shards: Sequence[Mapping[str, Any]]) -> None:
        """Take up the parts of a checkpoint, written by any number of ranks.

        Raises:
            CheckpointError: the parts are of other classes or sub-centres, or leave a class out.
        """
        ordered = sorted(shards, key=lambda each: int(each["first"]))
        wrong = [each for each in ordered if (each["classes"], each["sub_centres"]) != (self.classes, self.sub_centres)]
        if wrong:
            raise CheckpointError(
                f"the checkpoint has {wrong[0]['classes']} classes x {wrong[0]['sub_centres']} centres, "
                f"the run {self.classes} x {self.sub_centres}"
            )
        reached = self.first
        for part in ordered:
            low, high = max(self.first, part["first"]), min(self.last, part["last"])
            if low >= high or low != reached:
                continue
            reached = high
            for name, count in (("centres", self.sub_centres), ("velocity", self.sub_centres), ("means", 1)):
                target = self.centre_loss.means if name == "means" and self.centre_loss else getattr(self, name, None)
                if target is None or part[name] is None:
                    continue
                source = part[name][(low - part["first"]) * count : (high - part["first"]) * count]
                target[(low - self.first) * count : (high - self.first) * count] = source.to(target)
        if reached != self.last:
            raise CheckpointError(f"the checkpoint leaves out the centres of class {reached}")
        self.draws = int(ordered[0]["draws"])
        self.threshold_velocity.copy_(ordered[0]["threshold_velocity"])
        if self.threshold is not None and ordered[0]["threshold"] is not None:
            self.threshold.copy_(ordered[0]["threshold"])
        if self.margin.state is not None:
            self.margin.state.load_state_dict(ordered[0]["margin"])
