"""Train a network: `python -m training.train CONFIG.toml section.key=value ...`, under torchrun on several GPUs.

The file reads in the order in which a run goes: `train` repeats `_epoch`, which repeats `_step`. A run that was
interrupted goes on from its last checkpoint when it is started again with the same folder, bit by bit as if nothing
had happened: batches and augmentations are numbered (see `training.samplers` and `training.augment`), and everything
else that a step changes is in the checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from service.errors import VultusError
from training import checkpoints
from training.batches import Batch, batches
from training.config import Config, load
from training.diagnose import first_bad
from training.embed import embed, of_network
from training.errors import CheckpointError, NotFiniteError
from training.journal import Journal
from training.schedule import rate_at
from training.start import Setting, State, device_of, fresh, setting_of, wrapped
from training.teacher import relations, towards
from training.verification import accuracy_of_scores, det_curve, pair_scores

LEAST_SCALE = 1.0
"""An fp16 loss that overflows below this scale stops the run: after 17 halvings of PyTorch's first scale, 65,536."""


def train(config: Config) -> Path:
    """Run a configuration to its end, going on from the last checkpoint in its folder if there is one.

    Returns:
        The last checkpoint.

    Raises:
        TrainingError: a subtype says what stopped the run.
    """
    own_group = "RANK" in os.environ and not distributed.is_initialized()
    if own_group:
        distributed.init_process_group("nccl" if device_of(config).type == "cuda" else "gloo")
    try:
        return _train(setting_of(config))
    finally:
        if own_group:
            distributed.destroy_process_group()


def _train(setting: Setting) -> Path:
    config, folder = setting.config, setting.config.run.folder / "checkpoints"
    state = fresh(setting)
    if found := checkpoints.found(folder):
        _resume(setting, state, found[-1])
    elif config.run.roll_back:
        _save(setting, state)
    network = wrapped(setting, state.network)
    rolls_left = config.run.roll_back
    with Journal(config.run.folder, total=setting.total, step=state.step, silent=setting.rank > 0) as journal:
        for each in setting.notes:
            journal.note(each)
        while state.step < setting.total:
            try:
                _epoch(setting, state, network, journal)
            except NotFiniteError as error:
                if not rolls_left:
                    raise
                rolls_left, bad = rolls_left - 1, state.step
                _resume(setting, state, checkpoints.found(folder)[-1])
                state.left_out.add(bad)
                journal.advance(state.step - bad)
                journal.note(f"{error.detail}; gone back to step {state.step}, step {bad} will be passed over")
        journal.plot(_evaluate(setting, state, journal))
    return checkpoints.found(folder)[-1]


def _epoch(setting: Setting, state: State, network: nn.Module, journal: Journal) -> None:
    config = setting.config
    epoch, start = divmod(state.step, setting.plan.steps)
    plan = setting.plan.epoch(epoch)
    loaded = batches(
        setting.crops,
        plan,
        first_draw=epoch * plan.size,
        start=start,
        rank=setting.rank,
        ranks=setting.ranks,
        workers=config.data.workers,
    )
    began, waited, since = time.perf_counter(), 0.0, state.step
    unreadable: dict[int, str] = {}
    for batch, wait in _timed(loaded):
        waited += wait
        unreadable |= batch.unreadable
        figures = {} if state.step in state.left_out else _step(setting, state, network, batch)
        state.step += 1
        journal.advance()
        if figures and (state.step % config.run.log_every == 0 or state.step % setting.plan.steps == 0):
            elapsed = time.perf_counter() - began
            figures["photos_per_second"] = (state.step - since) * config.run.batch / elapsed
            figures["wait"] = waited / elapsed
            journal.write(state.step, "train", figures)
            began, waited, since = time.perf_counter(), 0.0, state.step
        if config.run.save_every and state.step % config.run.save_every == 0 and state.step % setting.plan.steps:
            _tell(setting, state, journal, unreadable)
            _save(setting, state)
    if state.step < setting.total:
        _evaluate(setting, state, journal)
    _tell(setting, state, journal, unreadable)
    _save(setting, state)


def _tell(setting: Setting, state: State, journal: Journal, unreadable: dict[int, str]) -> None:
    """Name each photo that some rank could not decode once, and keep their number in the log."""
    everywhere = [unreadable]
    if setting.ranks > 1:
        everywhere = everywhere * setting.ranks
        distributed.all_gather_object(everywhere, unreadable)
    for number, reason in sorted({number: reason for each in everywhere for number, reason in each.items()}.items()):
        if number not in state.unreadable:
            state.unreadable.add(number)
            journal.note(f"left out {setting.crops.source.place(number)}: {reason}")
    if state.unreadable:
        journal.write(state.step, "data", {"unreadable": len(state.unreadable)})


def _timed(loaded: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Batches, each with the seconds that the step had to wait for it."""
    while True:
        asked = time.perf_counter()
        batch = next(loaded, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - asked


# --- one step ---


def _step(setting: Setting, state: State, network: nn.Module, batch: Batch) -> dict[str, float]:
    """Learn from one batch of this rank; gives the step's figures.

    In fp16 a gradient that is not finite is an overflow at first: nothing moves, and the loss's scale is halved. One
    that is not finite at a scale under `LEAST_SCALE` has not overflowed.

    Raises:
        NotFiniteError: the loss or a gradient is NaN or infinite; nothing has been moved yet.
    """
    config, optimiser = setting.config, setting.config.optimiser
    rate = rate_at(state.step, setting.total, optimiser)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    parts = config.run.accumulate
    total = 0.0
    for i in range(parts):
        part = slice(len(batch.labels) // parts * i, len(batch.labels) // parts * (i + 1))
        alone = network.no_sync() if i < parts - 1 and isinstance(network, DistributedDataParallel) else nullcontext()
        with alone:
            loss = _loss(setting, state, network, batch, part) / parts
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
    scale = state.scaler.get_scale()
    state.scaler.unscale_(state.optimiser)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), optimiser.clip or float("inf"))
    finite = bool(torch.isfinite(norm))
    overflow = state.scaler.is_enabled() and scale >= LEAST_SCALE
    if not np.isfinite(total) or not (finite or overflow):
        _stop(setting, state, batch)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    if state.head is not None and finite:
        state.head.step(rate * config.head.rate_factor, loss_scale=scale)
    elif state.head is not None:
        state.head.discard()
    state.optimiser.zero_grad()
    if state.average is not None:
        state.average.update(state.network)
    return {"loss": total, "rate": rate, "norm": float(norm)}


def _loss(setting: Setting, state: State, network: nn.Module, batch: Batch, part: slice) -> Tensor:
    """() loss of a part of a batch: the head's, the teacher's, or both."""
    config, device = setting.config, setting.device
    embeddings = _embeddings(setting, network, batch.crops[part])
    loss = embeddings.new_zeros(())
    if state.head is not None:
        loss = loss + state.head(embeddings, batch.labels[part].to(device, non_blocking=True))
    taught = _taught(setting, batch, part)
    if taught is not None:
        taught = taught.to(device, non_blocking=True)
        if config.teacher.weight:
            loss = loss + config.teacher.weight * towards(embeddings, taught)
        if config.teacher.relations:
            loss = loss + config.teacher.relations * relations(embeddings, taught)
    return loss


def _taught(setting: Setting, batch: Batch, part: slice) -> Tensor | None:
    """(n, dim) what the teacher sees in a part of a batch, if there is one."""
    if batch.taught is not None:
        return batch.taught[part]
    return None if setting.taught is None else torch.from_numpy(setting.taught[batch.numbers[part].numpy()])


def _embeddings(setting: Setting, network: nn.Module, crops: Tensor) -> Tensor:
    """(n, dim) float32 embeddings of crops, computed in the run's precision."""
    with torch.autocast(setting.device.type, dtype=setting.precision, enabled=setting.precision is not torch.float32):
        embeddings: Tensor = network(crops.to(setting.device, non_blocking=True))
    return embeddings.float()


def _stop(setting: Setting, state: State, batch: Batch) -> None:
    """Save the batch, name the first bad tensor, and stop.

    Raises:
        NotFiniteError: always.
    """
    name = first_bad(
        state.network,
        lambda: _embeddings(setting, state.network, batch.crops),
        {
            **({} if state.head is None else state.head.held()),
            "the teacher's vectors": _taught(setting, batch, slice(None)),
        },
    )
    folder = setting.config.run.folder / "not-finite"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state.step:09d}-rank-{setting.rank}.pt"
    torch.save({"crops": batch.crops, "labels": batch.labels, "numbers": batch.numbers}, path)
    state.optimiser.zero_grad()
    if state.head is not None:
        state.head.discard()
    raise NotFiniteError(f"at step {state.step} the first bad tensor is {name}; the batch is in {path}")


# --- what a run leaves ---


def _save(setting: Setting, state: State) -> None:
    model = {
        "identity": setting.identity,
        "config": setting.config.model_dump_json(),
        "ranks": setting.ranks,
        "classes": setting.classes,
        "step": state.step,
        "left_out": sorted(state.left_out),
        "unreadable": sorted(state.unreadable),
        "network": state.network.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
    }
    own = {
        "centres": None if state.head is None else state.head.shard(),
        "random": torch.get_rng_state(),
        "random_gpu": torch.cuda.get_rng_state() if setting.device.type == "cuda" else None,
    }
    run = setting.config.run
    checkpoints.save(run.folder / "checkpoints", state.step, model, own, keep=run.keep)


def _resume(setting: Setting, state: State, checkpoint: Path) -> None:
    """Take up a checkpoint, written by any number of ranks.

    With another number of ranks the centres are spread anew; each rank's random numbers then start from the step.

    Raises:
        CheckpointError: it is damaged, is of another configuration, or has done more steps than this run shall have.
    """
    model, own = checkpoints.load(checkpoint, setting.identity)
    state.step, state.left_out, state.unreadable = int(model["step"]), set(model["left_out"]), set(model["unreadable"])
    if state.step > setting.total:
        raise CheckpointError(f"{checkpoint} has done {state.step} steps; run.epochs asks for {setting.total}")
    state.network.load_state_dict(model["network"])
    state.optimiser.load_state_dict(model["optimiser"])
    state.scaler.load_state_dict(model["scaler"])
    if state.average is not None:
        state.average.load_state_dict(model["average"])
    if state.head is not None:
        state.head.load_shards([each["centres"] for each in own])
    if len(own) == setting.ranks:
        torch.set_rng_state(own[setting.rank]["random"].clone())
        if setting.device.type == "cuda" and own[setting.rank]["random_gpu"] is not None:
            torch.cuda.set_rng_state(own[setting.rank]["random_gpu"].clone())
    else:
        torch.manual_seed((setting.config.run.seed << 40) + (state.step << 16) + setting.rank)


def _evaluate(
    setting: Setting, state: State, journal: Journal
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Measure the verification set on the first rank; gives the DET curve."""
    if setting.pairs is None or setting.rank > 0:
        return None
    network = state.network if state.average is None else state.average.network(state.network)
    photos, pairs = setting.pairs.distinct()
    scores, same = pair_scores(embed(of_network(network, setting.device), photos), pairs), setting.pairs.same
    journal.write(state.step, "evaluation", {"accuracy": accuracy_of_scores(scores, same, folds=True)})
    return det_curve(scores[same], scores[~same]) if same.any() and not same.all() else None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        usage="%(prog)s [CONFIG.toml] [section.key=value ...]",
        description="Train a network, or go on with a run that was interrupted.",
        epilog="Ready configurations lie in training/configs; training/config.py has every key with its default.",
    )
    parser.add_argument("arguments", nargs="*", help="the configuration, and what differs from it")
    arguments = parser.parse_args().arguments
    path = Path(arguments.pop(0)) if arguments and "=" not in arguments[0] else None
    try:
        last = train(load(path, arguments))
    except VultusError as error:
        sys.stderr.write(f"{error.title}: {error.detail}\n")
        return 1
    if int(os.environ.get("RANK", "0")) == 0:
        sys.stdout.write(f"{last}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
