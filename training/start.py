"""What a run starts with: its place among the ranks, its data, its network, head and optimiser."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from service.artifact.files import sha256
from training import bottleneck, fused
from training.backbones import BACKBONES, Recogniser
from training.batches import Crops, Teach
from training.config import Config, OptimiserConfig
from training.errors import ConfigError
from training.folder import Folder
from training.margins import MARGINS
from training.native import compiled
from training.partial_fc import PartialFC
from training.records import PackedPairs, read_bin
from training.samplers import MixedPlan, PeoplePlan, Plan, RandomPlan
from training.schedule import Average, groups
from training.sources import Joined, Source, frequent, open_source, usable
from training.teacher import Watching, dimension, embed_photos


@dataclass
class State:
    """Everything that changes while a run goes on."""

    network: Recogniser
    head: PartialFC | None
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    step: int = 0
    left_out: set[int] = field(default_factory=set)
    """Steps whose batch is passed over, because it once made a number infinite."""
    unreadable: set[int] = field(default_factory=set)
    """Photos that could not be decoded, and in whose place others were shown."""


@dataclass(frozen=True)
class Setting:
    """What does not change: the configuration, the data, and this process's place."""

    config: Config
    crops: Crops
    classes: int
    plan: Plan
    taught: NDArray[np.float32] | None
    pairs: PackedPairs | None
    device: torch.device
    precision: torch.dtype
    rank: int
    ranks: int
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """Steps of the run."""
        return self.plan.steps * self.config.run.epochs

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be gone on with: everything that changes what further steps compute.

        Photos and teacher are known by what they hold, not by where they lie: a folder that was moved is the same.
        """
        teacher = self.config.teacher.model
        source = self.crops.source
        return {
            **self.config.identity(),
            "data.train": f"{len(source)} photos of {self.classes} people, {source.digest()[:16]}",
            "network.precision": str(self.precision).removeprefix("torch."),
            "teacher.model": None if teacher is None else sha256(teacher)[:16],
        }


def device_of(config: Config) -> torch.device:
    """The device of this process; with several GPUs, the one of its place on the machine.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    wanted = config.run.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device is cuda, and PyTorch finds no GPU")
    return torch.device(wanted, int(os.environ.get("LOCAL_RANK", "0"))) if wanted == "cuda" else torch.device("cpu")


def _keep_memory() -> None:
    """Let glibc keep what is freed: activations that go back to the system come back page by page in every step.

    A fifth of a MobileFaceNet's step. Other C libraries are left as they are.
    """
    process = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(process, "gnu_get_libc_version"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        process.mallopt(m_mmap_threshold, 1 << 30)
        process.mallopt(m_trim_threshold, (1 << 31) - 1)


def _precision(config: Config, device: torch.device) -> torch.dtype:
    """The precision asked for; `auto` is bfloat16 where the hardware multiplies in it, else float32.

    Elsewhere PyTorch emulates it, ten and more times slower than float32.
    """
    if config.network.precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            config.network.precision
        ]
    if device.type == "cuda":
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        quick = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.bfloat16 if quick else torch.float32


def setting_of(config: Config) -> Setting:
    """Open the data and find this process's place.

    Raises:
        ConfigError: the configuration does not fit the ranks, the machine or the teacher.
        DataError: a data set cannot be used.
    """
    device = device_of(config)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if device.type == "cpu":
        _keep_memory()
    torch.use_deterministic_algorithms(config.run.deterministic)
    rank, ranks = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    if config.run.batch % (ranks * config.run.accumulate):
        raise ConfigError(
            f"run.batch {config.run.batch} does not divide into {ranks} ranks x {config.run.accumulate} parts"
        )
    source, notes = _source(config)
    precision = _precision(config, device)
    if device.type == "cpu" and compiled(bottleneck.CODE if precision is torch.float32 else fused.CODE) is None:
        notes = (
            *notes,
            "no C compiler made the quick code: a MobileFaceNet learns on PyTorch's own operations, more slowly",
        )
    taught, teach = _teacher(config, source, rank, ranks)
    return Setting(
        config=config,
        crops=Crops(source, config.augment, config.run.seed, mix=config.teacher.mix, teach=teach),
        classes=source.classes,
        plan=_plan(config, source),
        taught=taught,
        pairs=None if config.data.pairs is None else read_bin(config.data.pairs),
        device=device,
        precision=precision,
        rank=rank,
        ranks=ranks,
        notes=notes,
    )


def _teacher(config: Config, source: Source, rank: int, ranks: int) -> tuple[NDArray[np.float32] | None, Teach | None]:
    """What a teacher saw in each photo, or the teacher itself where it shall see each crop; both None without one."""
    model = config.teacher.model
    if model is None:
        return None, None
    length = dimension(model)
    if config.teacher.weight and length != config.network.dim:
        raise ConfigError(f"the teacher's vectors have {length} numbers; set network.dim to that")
    if config.teacher.sees == "changed":
        return None, Watching(model)
    config.run.folder.mkdir(parents=True, exist_ok=True)
    kept = config.run.folder / "taught.npy"
    if rank == 0:
        embed_photos(model, source, kept, threads=config.run.threads)
    if ranks > 1:
        distributed.barrier()
    return embed_photos(model, source, kept), None


def _source(config: Config) -> tuple[Joined, tuple[str, ...]]:
    """The photos to learn from, and what is to be said about those that are left out."""
    sources: list[Source] = []
    notes = []
    for path in config.data.train:
        source = open_source(path, least=config.data.least)
        skipped: list[tuple[str, str]] = []
        if isinstance(source, Folder):
            notes.append(f"{path}: {source.report.summary()}")
            skipped = [*source.report.skipped, *((each, "several people have it") for each in source.report.shared)]
        else:
            if config.data.check:
                source, skipped = usable(source)
            source = frequent(source, config.data.least)
            _, counts = np.unique(source.labels, return_counts=True)
            notes.append(
                f"{path}: {len(source)} photos of {len(counts)} people; left out: "
                + (f"{len(skipped)} photos; " if config.data.check else "not looked for before the run (data.check); ")
                + f"{int((counts == 1).sum())} people have one photo"
            )
        notes += [f"left out {place}: {reason}" for place, reason in skipped]
        sources.append(source)
    joined = Joined(sources)
    if joined.classes < 2 and not config.teacher.alone:
        raise ConfigError(
            f"a margin needs two people or more, there is {joined.classes}; teacher.alone learns without labels"
        )
    return joined, tuple(notes)


def _plan(config: Config, source: Joined) -> Plan:
    data, run = config.data, config.run
    if data.sampler == "people":
        return PeoplePlan(source.labels, run.batch // data.each, data.each, run.seed)
    if data.sampler == "mixed":
        return MixedPlan(source.counts, data.weights, run.batch, run.seed)
    return RandomPlan(len(source), run.batch, run.seed)


def fresh(setting: Setting) -> State:
    """Network, head and optimiser at their start, the same on every rank; the ranks' random numbers then part."""
    config, device = setting.config, setting.device
    torch.manual_seed(config.run.seed)
    backbone = BACKBONES[config.network.name](dim=config.network.dim, remember_less=config.network.remember_less)
    network = Recogniser(backbone).to(device)
    if config.network.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = None
    if not config.teacher.alone:
        head = PartialFC(
            setting.classes,
            config.network.dim,
            MARGINS[config.head.margin](**config.head.options),
            fraction=config.head.fraction,
            sub_centres=config.head.sub_centres,
            centre_loss=config.head.centre_loss,
            momentum=config.head.momentum,
            weight_decay=config.head.weight_decay,
            seed=config.run.seed,
        ).to(device)
    torch.manual_seed((config.run.seed << 16) + setting.rank)
    return State(
        network,
        head,
        _optimiser(network, config.optimiser),
        torch.amp.GradScaler(device.type, enabled=setting.precision is torch.float16),
        Average(network, config.optimiser.average) if config.optimiser.average else None,
    )


def _optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    decayed = groups(network, config.weight_decay)
    if config.name == "adamw":
        return torch.optim.AdamW(decayed, lr=config.rate)
    return torch.optim.SGD(decayed, lr=config.rate, momentum=config.momentum)


def wrapped(setting: Setting, network: nn.Module) -> nn.Module:
    """The network as the loop calls it: compiled if asked, data-parallel if there are ranks."""
    if setting.config.network.compile:
        network = cast("nn.Module", torch.compile(network))
    if setting.ranks > 1:
        network = DistributedDataParallel(
            network, device_ids=[setting.device] if setting.device.type == "cuda" else None
        )
    return network
