"""Which engine runs a model here: measured once, checked at every start.

Every engine that is installed is loaded, must reproduce the artifact's own sample, and is timed on it. The fastest is
taken and remembered for this machine, model and set of libraries; of some that are about as fast, the one nearest to
the reference. A remembered engine is still checked against the sample each time it is loaded, because libraries and
CPUs change under a running installation.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.artifact import sample
from service.artifact.files import write_atomic
from service.artifact.manifest import Manifest, Variant
from service.artifact.store import ModelStore, decode_sample
from service.errors import EngineError, ModelError
from service.vision import engines
from service.vision.engines import Engine, Outputs

PARITY: Final = {"float32": 0.9999, "bf16": 0.998, "int8": 0.99}
"""Least cosine to the reference, over the sample, by precision."""

ACCURACY_LOSS: Final = 0.05
"""Points of accuracy that a variant may lose against the float32 file, on any set that both were measured on."""

ROUNDS: Final = 3
TURN_SECONDS: Final = 0.05
"""Each engine is timed in so many turns, of twice so long."""


ABOUT_AS_FAST: Final = 0.9
"""Share of the highest rate that counts as the same: machines are noisy, and so much speed is worth no accuracy."""


@dataclass(frozen=True)
class Candidate:
    """An engine that might run the model."""

    name: str
    precision: str
    file: Callable[[], Path]
    streams: int

    def load(self) -> Engine:
        """Load it.

        Raises:
            EngineError: it does not load.
            ModelError: its file is missing or damaged.
        """
        return engines.load(self.name, self.file(), streams=self.streams)


@dataclass(frozen=True)
class Chosen:
    """The engine that runs a model, and why.

    Attributes:
        engine: loaded and checked.
        precision: float32, bf16 or int8.
        parity: least cosine to the reference over the sample.
        reason: `told`, `remembered` or `fastest`.
        rates: sample items per second of each engine that was timed.
        refused: engines that did not come into question, with the reason.
    """

    engine: Engine
    precision: str
    parity: float
    reason: str
    rates: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def candidates(store: ModelStore, manifest: Manifest, streams: int) -> dict[str, Candidate]:
    """The engines that could run an artifact, by name, in the order in which they are tried."""
    path = store.file(manifest)
    found = {name: Candidate(name, "float32", lambda: path, streams) for name in ("cuda", "onnxruntime", "openvino")}
    if manifest.task != "recognition":
        return found
    variants = {variant.precision: variant for variant in manifest.variants}
    half, int8 = variants.get("bf16"), variants.get("int8")
    if half is None or _loss(manifest, half, unknown=0.0) <= ACCURACY_LOSS:
        file = (lambda: path) if half is None else partial(store.file, manifest, half)
        found["openvino-bf16"] = Candidate("openvino-bf16", "bf16", file, streams)
    if int8 is not None and _loss(manifest, int8, unknown=math.inf) <= ACCURACY_LOSS:
        found["openvino-int8"] = Candidate("openvino-int8", "int8", partial(store.file, manifest, int8), streams)
    return found


def load(store: ModelStore, model: str, name: str) -> Engine:
    """An engine by its name, for one call at a time; one that was measured and checked on this machine before.

    Raises:
        EngineError: it does not load.
        ModelError: the file is missing or damaged.
    """
    return candidates(store, store.manifest(model), 1)[name].load()


def _loss(manifest: Manifest, variant: Variant, *, unknown: float) -> float:
    """Points of accuracy that a variant loses on its worst set; `unknown` if no set was put before both files."""
    both = [name for name in variant.measured if name.endswith("_accuracy") and name in manifest.measured]
    return max((round(manifest.measured[name] - variant.measured[name], 6) for name in both), default=unknown)


def choose(store: ModelStore, manifest: Manifest, *, wanted: str, streams: int, memory: Path) -> Chosen:
    """Load the engine that the operator wants, or the fastest one that is right.

    Args:
        store: where the artifact's files are.
        manifest: the artifact.
        wanted: an engine's name, or "auto".
        streams: calls that the engine shall run at once.
        memory: file that remembers earlier choices.

    Raises:
        EngineError: the wanted engine, or every engine, cannot run the model or fails its sample.
        ModelError: the file is missing or damaged.
    """
    found = known(store, manifest, wanted=wanted, streams=streams, memory=memory)
    if found is not None:
        return found
    best = _fastest(Probe(store, manifest), candidates(store, manifest, streams), streams)
    key = _key(manifest, streams)
    write_atomic(memory, json.dumps({**_recall(memory), key: best.engine.name}, indent=2).encode())
    return best


def known(store: ModelStore, manifest: Manifest, *, wanted: str, streams: int, memory: Path) -> Chosen | None:
    """Load the engine that the operator wants or that was chosen before; None where it takes measuring to choose one.

    Args and errors: as of `choose`.
    """
    found = candidates(store, manifest, streams)
    if wanted != "auto":
        if wanted not in found:
            raise EngineError(f"model {manifest.name} has no engine {wanted!r}; it has {', '.join(found)}")
        engine, parity = Probe(store, manifest).check(found[wanted])
        return Chosen(engine, found[wanted].precision, parity, "told")
    remembered = found.get(_recall(memory).get(_key(manifest, streams), ""))
    if remembered is None:
        return None
    try:
        engine, parity = Probe(store, manifest).check(remembered)
    except ModelError:
        return None  # what was right then is not right now
    return Chosen(engine, remembered.precision, parity, "remembered")


def _fastest(probe: Probe, found: Mapping[str, Candidate], streams: int) -> Chosen:
    right: dict[str, tuple[Engine, float]] = {}
    refused: dict[str, str] = {}
    for candidate in found.values():
        try:
            right[candidate.name] = probe.check(candidate)
        except ModelError as error:
            refused[candidate.name] = error.detail
    if not right:
        raise EngineError(f"no engine runs the model: {'; '.join(f'{name}: {why}' for name, why in refused.items())}")
    rates = dict.fromkeys(right, 0.0)
    # In turns, and the best turn counts: whatever else the machine is doing then slows all of them or none.
    for _ in range(ROUNDS):
        for name, (engine, _parity) in right.items():
            rates[name] = max(rates[name], rate(engine, probe.batch, streams))
    fast = [name for name in rates if rates[name] >= ABOUT_AS_FAST * max(rates.values())]
    best = max(fast, key=lambda name: (round(right[name][1], 4), rates[name]))
    engine, parity = right[best]
    return Chosen(engine, found[best].precision, parity, "fastest", rates, refused)


def rate(engine: Engine, batch: NDArray[np.uint8], streams: int) -> float:
    """Items per second over all streams, in batches of one and of all: what a service sees when idle and busy."""
    single = batch[:1]
    with ThreadPoolExecutor(streams) as pool:
        seconds = 0.0
        for shape in (single, batch):
            list(pool.map(engine, [shape] * streams))
            started, done = time.perf_counter(), 0
            while time.perf_counter() - started < TURN_SECONDS:
                done += sum(1 for _ in pool.map(engine, [shape] * streams))
            seconds += (time.perf_counter() - started) / (done * len(shape))
    return 2 / seconds


class Probe:
    """The artifact's sample, and what the reference says about it."""

    def __init__(self, store: ModelStore, manifest: Manifest) -> None:
        crops = sample.crops()
        self.expected: Outputs
        if manifest.sample is not None:
            self.batch = crops
            self.expected = {manifest.outputs[0].name: decode_sample(manifest.sample.embeddings, manifest.dim)}
        else:
            # Four drawn faces side by side are a photo that a detector must see alike in every engine.
            self.batch = np.stack([_sheet(crops[:4]), _sheet(crops[4:])])
            self.expected = engines.reference(store.file(manifest))(self.batch)

    def check(self, candidate: Candidate) -> tuple[Engine, float]:
        """Load a candidate and hold it to the sample.

        Raises:
            EngineError: it does not load, or is further from the reference than its precision allows.
        """
        engine = candidate.load()
        given = engine(self.batch)
        parity = min(_least_cosine(given[name], self.expected[name]) for name in self.expected)
        floor = PARITY[candidate.precision]
        if not parity >= floor:
            raise EngineError(f"{candidate.name} reproduces the sample at a cosine of {parity:.5f}, under {floor}")
        return engine, parity


def _sheet(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows = np.concatenate([np.concatenate(list(crops[:2]), axis=1), np.concatenate(list(crops[2:]), axis=1)])
    return np.pad(rows, ((0, 32), (0, 32), (0, 0)))


def _least_cosine(given: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    if given.shape != expected.shape:
        return -1.0
    a, b = (item.reshape(len(item), -1).astype(np.float64) for item in (given, expected))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.min(np.sum(a * b, axis=1) / np.maximum(lengths, 1e-12)))


def _key(manifest: Manifest, streams: int) -> str:
    libraries = []
    for name in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        try:
            libraries.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    files = [manifest.file.sha256, *(variant.file.sha256 for variant in manifest.variants)]
    return " | ".join([*(digest[:16] for digest in files), _processor(), f"{streams} streams", *libraries])


def _processor() -> str:
    """The CPU's name and whether it has the instructions that decide between the engines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {line.split(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines) if ":" in line}
    flags = set(facts.get("flags", "").split()) & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"}
    return f"{facts.get('model name', platform.machine())} {'+'.join(sorted(flags))}"


def _recall(memory: Path) -> dict[str, str]:
    try:
        found = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
