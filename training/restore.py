"""A trained network out of a checkpoint, ready to be measured or exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from training import checkpoints
from training.backbones import BACKBONES, Recogniser
from training.config import Config
from training.errors import CheckpointError


@dataclass(frozen=True)
class Trained:
    """A network with its trained weights, in evaluation mode, giving unit vectors; and the run that made it."""

    network: Recogniser
    config: Config
    step: int
    people: int


def restore(path: Path) -> Trained:
    """Read the network of a checkpoint; the running average's weights, where the run kept one.

    Args:
        path: a checkpoint, or a run's folder, whose last checkpoint is taken.

    Raises:
        CheckpointError: there is no whole checkpoint.
    """
    if not (path / "model.pt").exists():
        found = checkpoints.found(path / "checkpoints")
        if not found:
            raise CheckpointError(f"{path} holds no checkpoint")
        path = found[-1]
    model = checkpoints.read(path / "model.pt")
    try:
        config = Config.model_validate_json(model["config"])
        network = Recogniser(BACKBONES[config.network.name](dim=config.network.dim), unit=True)
        network.load_state_dict(model["network"] if model["average"] is None else model["average"]["values"])
    except (KeyError, ValidationError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no checkpoint of this version: {error}") from error
    return Trained(network.eval(), config, int(model["step"]), int(model["classes"]))
