"""The configuration of a run: typed, with a default for everything, and no key that nothing reads.

    load(Path("training/configs/laptop.toml"), ["optimiser.rate=0.05", "run.epochs=3"])

A file holds only what differs from the defaults below. What follows it on the command line is TOML too, so that
`data.train=["a", "b"]` is a list and `head.margin=cosface` a word.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.augment import Augmentation
from training.backbones import BACKBONES
from training.errors import ConfigError
from training.margins import MARGINS

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """What is learnt from.

    Attributes:
        train: folders of people, folders of tar shards, or .rec files.
        weights: share of each in a batch, for `sampler = "mixed"`.
        sampler: `random`, `people` (P x K) or `mixed`.
        each: photos of a person in a batch, for `sampler = "people"`.
        least: people with fewer photos are left out.
        check: decode every photo of shards and .rec files before training, and look for those that several people
            share; folders always are looked through so.
        workers: processes that decode and augment, for each rank.
        pairs: verification set (.bin) measured at the end of every epoch.
    """

    train: tuple[Path, ...] = ()
    weights: tuple[Rate, ...] = ()
    sampler: Literal["random", "people", "mixed"] = "random"
    each: Positive = 4
    least: Positive = 1
    check: bool = False
    workers: Count = 2
    pairs: Path | None = None


class NetworkConfig(_Section):
    """What learns, and how it is run.

    Attributes:
        name: a name of `training.backbones.BACKBONES`.
        dim: length of an embedding.
        remember_less: compute activations again in the backward pass: a third more time, far less memory.
        channels_last: keep a pixel's channels together in memory.
        compile: let torch.compile make the network's code; the first step then takes a minute.
        precision: of multiplications; `auto` is bfloat16 where the hardware has it, else float32.
    """

    name: str = "mobilefacenet"
    dim: Positive = 512
    remember_less: bool = False
    channels_last: bool = True
    compile: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.name not in BACKBONES:
            raise ValueError(f"there is no network {self.name}; there are {', '.join(BACKBONES)}")
        return self


class HeadConfig(_Section):
    """What tells it how well: a name of `training.margins.MARGINS`, that margin's options, and its centres.

    Attributes:
        margin: the margin's name.
        options: arguments of its constructor.
        fraction: share of the classes compared in a step (Partial FC).
        sub_centres: centres a class.
        centre_loss: weight of the centre loss.
        momentum: of the centres.
        weight_decay: of the centres.
        rate_factor: the centres' learning rate as a multiple of the network's.
    """

    margin: str = "arcface"
    options: dict[str, float | bool] = Field(default_factory=dict)
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    sub_centres: Positive = 1
    centre_loss: Rate = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Rate = 5e-4
    rate_factor: Rate = 1.0

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.margin not in MARGINS:
            raise ValueError(f"there is no margin {self.margin}; there are {', '.join(MARGINS)}")
        try:
            MARGINS[self.margin](**self.options)
        except TypeError as error:
            raise ValueError(f"the margin {self.margin} does not take these options: {error}") from error
        return self


class TeacherConfig(_Section):
    """A network to learn from beside the labels.

    Attributes:
        model: an ONNX recognition model in the product's contract; none by default.
        weight: of 1 - cosine between the student's and the teacher's embedding.
        relations: weight of the difference of the distances within the batch (Park et al. 2019).
        alone: leave the labels out: no margin head at all.
        sees: `original`, each photo once as it is; or `changed`, the very crop that the student sees.
        mix: share of the crops that are mixed with another photo's, for a teacher that is alone and sees them.
    """

    model: Path | None = None
    weight: Rate = 1.0
    relations: Rate = 0.0
    alone: bool = False
    sees: Literal["original", "changed"] = "original"
    mix: Annotated[float, Field(ge=0, le=1)] = 0.0


class OptimiserConfig(_Section):
    """How it moves.

    Attributes:
        name: `sgd` with momentum, or `adamw`.
        rate: learning rate at its highest.
        momentum: of SGD; AdamW has its own.
        weight_decay: of weights; norms, slopes and biases have none.
        warm_up: share of the run in which the rate rises to its highest.
        schedule: how it falls: `poly` (power 2) or `cosine`; `constant` does not.
        last_rate: where it ends, as a share of the highest.
        clip: largest norm of the network's gradient; 0 does not clip.
        average: decay of the running average of the weights (EMA); 0 keeps none.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    rate: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Rate = 5e-4
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    last_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip: Rate = 5.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0


class RunConfig(_Section):
    """How long, how large, and where to.

    Attributes:
        folder: what the run writes goes here.
        epochs: how often the data is gone through.
        batch: photos in a step, over all ranks and all parts of an accumulated step.
        accumulate: parts that a step is made of, one after the other.
        seed: start of everything random.
        device: `cpu`, `cuda`, or `auto`.
        threads: of PyTorch on the CPU; 0 leaves them as they are.
        save_every: steps between checkpoints; 0 saves at the ends of epochs only.
        keep: checkpoints kept.
        log_every: steps between lines of the log.
        roll_back: how often a run that met NaN or infinity may go back to its last checkpoint and pass that batch over.
        deterministic: only operations that repeat bit by bit (slower on GPUs).
    """

    folder: Path = Path("runs/latest")
    epochs: Positive = 20
    batch: Positive = 128
    accumulate: Positive = 1
    seed: Count = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 0
    save_every: Count = 0
    keep: Positive = 2
    log_every: Positive = 10
    roll_back: Count = 0
    deterministic: bool = False


MAY_CHANGE = {
    *("data.train", "data.least", "data.check"),  # what they lead to is compared: the photos themselves
    "data.workers",
    "data.pairs",
    *("network.channels_last", "network.compile", "run.threads", "run.device", "run.deterministic"),  # rounding alone
    "network.precision",  # compared as what `auto` comes to on this machine
    "teacher.model",  # compared by the file's content
    "run.folder",
    "run.epochs",  # a run may be made longer; its rate then follows the longer schedule
    *("run.save_every", "run.keep", "run.log_every", "run.roll_back"),
}
"""Keys that may differ between a run and the one that goes on from its checkpoint."""


class Config(_Section):
    """All of it."""

    data: DataConfig = DataConfig()
    augment: Augmentation = Augmentation()
    network: NetworkConfig = NetworkConfig()
    head: HeadConfig = HeadConfig()
    teacher: TeacherConfig = TeacherConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.data.sampler == "mixed" and len(self.data.weights) != len(self.data.train):
            raise ValueError("data.weights needs one number for each path of data.train when data.sampler is mixed")
        if self.data.sampler == "people" and self.run.batch % self.data.each:
            raise ValueError(f"run.batch {self.run.batch} is no multiple of data.each {self.data.each}")
        if self.run.batch % self.run.accumulate:
            raise ValueError(f"run.batch {self.run.batch} is no multiple of run.accumulate {self.run.accumulate}")
        if self.teacher.alone and self.teacher.model is None:
            raise ValueError("teacher.alone needs a teacher.model")
        if self.teacher.mix and not (self.teacher.alone and self.teacher.sees == "changed"):
            raise ValueError("teacher.mix needs teacher.alone and teacher.sees=changed: a mixed crop has no label")
        return self

    def identity(self) -> dict[str, Any]:
        """Every key that a run must share with a checkpoint to go on from it: all but `MAY_CHANGE`, `section.key` each.

        What the keys lead to on this machine (photos, the teacher's file, the precision) `Setting.identity` adds.
        """
        sections = self.model_dump(mode="json").items()
        keys = {f"{section}.{key}": value for section, content in sections for key, value in content.items()}
        return {key: value for key, value in keys.items() if key not in MAY_CHANGE}


def load(path: Path | None, changes: Sequence[str] = ()) -> Config:
    """Read a configuration and the changes made to it on the command line.

    Args:
        path: a TOML file, or None for the defaults alone.
        changes: `section.key=value` each.

    Raises:
        ConfigError: the file or a change cannot be read, names an unknown key, or gives a value that is not allowed.
    """
    try:
        content = {} if path is None else tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration: {error}") from error
    for change in changes:
        name, equals, text = change.partition("=")
        *sections, key = name.strip().split(".")
        if not equals or not sections:
            raise ConfigError(f"{change!r} is not of the form section.key=value")
        table = content
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{change!r}: {section} is no section")
        table[key] = _value(text)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, each['loc'])) or 'configuration'}: {each['msg']}" for each in error.errors())
        raise ConfigError("; ".join(faults)) from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
