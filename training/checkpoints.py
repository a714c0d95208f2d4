"""Checkpoints that are whole or not there.

    FOLDER/step-000001200/model.pt       network, average, optimiser, scaler, position; written by rank 0
    FOLDER/step-000001200/rank-0-of-2.pt the rank's class centres and random numbers

Everything is written into a folder named `.partial`, brought to the disk, and renamed when all ranks are done: a run
that is killed, or whose disk is full, leaves the previous checkpoint as it was.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from training.errors import CheckpointError, CheckpointSpaceError


def save(folder: Path, step: int, model: dict[str, Any] | None, own: dict[str, Any], *, keep: int) -> Path:
    """Write a checkpoint; every rank calls it at the same step.

    Args:
        folder: where checkpoints lie.
        step: steps done; names the checkpoint.
        model: what all ranks have alike; looked at on rank 0 only.
        own: what this rank alone has.
        keep: checkpoints to keep, this one included.

    Raises:
        CheckpointSpaceError: it could not be written, on this rank or another; older checkpoints are untouched.
    """
    rank, ranks = _place()
    whole = folder / f"step-{step:09d}"
    partial = whole.with_suffix(".partial")
    fault: OSError | None = None
    try:
        partial.mkdir(parents=True, exist_ok=True)
        _write(partial / f"rank-{rank}-of-{ranks}.pt", own)
        if rank == 0:
            _write(partial / "model.pt", model)
    except OSError as error:
        fault = error
    if _any_rank(fault is not None):
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointSpaceError(f"{partial} could not be written ({fault or 'on another rank'})")
    if rank == 0:
        if whole.exists():
            shutil.rmtree(whole)
        partial.rename(whole)
        _sync(folder)
        for old in found(folder)[:-keep]:
            shutil.rmtree(old)
    _any_rank(wrong=False)  # no rank goes on before the checkpoint has its name
    return whole


def found(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(each for each in folder.glob("step-*") if each.suffix != ".partial")


def load(checkpoint: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read a checkpoint.

    Args:
        checkpoint: its folder.
        identity: `Setting.identity` of the run that wants to go on with it.

    Returns:
        What all ranks have alike, and what each rank had, in the order of ranks; large tensors stay on disk until used.

    Raises:
        CheckpointError: it is damaged, a rank's part is missing, or it belongs to another configuration.
    """
    model = read(checkpoint / "model.pt")
    theirs = model["identity"]
    pairs = {key: (theirs.get(key), identity.get(key)) for key in (*identity, *theirs)}
    wrong = [f"{key} {its}, not {wanted}" for key, (its, wanted) in pairs.items() if its != wanted]
    if wrong:
        raise CheckpointError(f"{checkpoint} belongs to another configuration: it has {'; '.join(wrong)}")
    ranks = int(model["ranks"])
    return model, [read(checkpoint / f"rank-{rank}-of-{ranks}.pt") for rank in range(ranks)]


def read(path: Path) -> dict[str, Any]:
    """One file of a checkpoint; nothing in it can run code.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as part of a checkpoint: {error}") from error
    return content


def _write(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch closes its archive after a failed write, and that fails too
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _place() -> tuple[int, int]:
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def _any_rank(wrong: bool) -> bool:  # noqa: FBT001 - the question itself
    if not distributed.is_initialized():
        return wrong
    flag = torch.tensor([float(wrong)], device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag.item())
