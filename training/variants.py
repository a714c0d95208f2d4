"""The int8 and bf16 files of an artifact, and what each of its files costs and is worth beside the others.

    made        the files' bytes, out of the float32 graph
    measured    accuracy and speed of each, by the engines that the service would run it with

The engines are tried in a process of their own: OpenVINO's threads and PyTorch's data loaders do not share one well.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.artifact import graph, sample
from service.artifact.graph import fold_batch_norm
from service.artifact.halve import halve
from service.artifact.quantise import Ranges, observe, quantise
from service.errors import EngineError
from service.vision import choice, engines
from training.embed import embed, of_onnx, unit
from training.errors import DataError
from training.photos import decode
from training.sources import Source

Precision = Literal["int8", "bf16"]

OBSERVED, JUDGED = 256, 128
"""Crops that the ranges are observed on, and others that decide how much of the extremes is kept."""
QUANTILES = (1.0, 0.99, 0.9, 0.8)
FLOAT_SHARES = (0.0, 0.25, 0.5)
SPARE = 0.002
"""By how much another engine's rounding may bring the sample further away."""
BATCH = 16


@dataclass(frozen=True)
class Made:
    """A variant's file, and for int8 the text of the ranges that it was made from."""

    precision: Precision
    data: bytes
    ranges: str | None = None


def bf16(path: Path) -> Made:
    """The bf16 variant of a float32 file."""
    return Made("bf16", graph.serialise(halve(graph.load(path))))


def int8(path: Path, photos: Source, seed: int = 0) -> Made:
    """The int8 variant of a float32 file (static, QDQ), its ranges observed on real crops.

    Of the quantiles that a range may hold, the one is taken that leaves other crops nearest to the float32 file. If the
    artifact's sample comes out too far even so, the convolutions next to the pixels stay in float32: first none, then a
    quarter of them, then half.

    Raises:
        DataError: not one crop can be decoded.
    """
    crops = _drawn(photos, OBSERVED + JUDGED, seed)
    split = max(1, len(crops) * OBSERVED // (OBSERVED + JUDGED))
    observed, judged = crops[:split], crops[split:] if split < len(crops) else crops
    model = graph.load(path)
    batches = (observed[start : start + BATCH] for start in range(0, len(observed), BATCH))
    all_ranges = observe(model, batches, quantiles=QUANTILES, any_kernel=True)
    order = [name for node in fold_batch_norm(model).graph.node for name in node.input[:1] if name in all_ranges[0]]
    names, reference = list(dict.fromkeys(order)), of_onnx(path)
    wanted, drawn = reference(judged), reference(sample.crops())
    kept, nearest = Made("int8", b""), -np.inf
    for share in FLOAT_SHARES:
        quantised = names[round(share * len(names)) :]
        for quantile, ranges in zip(QUANTILES, all_ranges, strict=True):
            fitted = {name: ranges[name] for name in quantised}
            data = graph.serialise(quantise(model, fitted))
            engine = engines.reference_of(data)
            cosine = float((_vectors(engine, judged) * wanted).sum(axis=1).mean())
            if cosine > nearest:
                nearest, kept = cosine, Made("int8", data, _document(len(observed), quantile, fitted))
        given = _vectors(engines.reference_of(kept.data), sample.crops())
        if (given * drawn).sum(axis=1).min() >= choice.PARITY["int8"] + SPARE:
            break
    return kept


def _drawn(photos: Source, count: int, seed: int) -> NDArray[np.uint8]:
    """(count, 112, 112, 3) crops, fewer where there are no more; the run has named those that cannot be decoded."""
    found: list[NDArray[np.uint8]] = []
    for index in np.random.default_rng(seed).permutation(len(photos)):
        with suppress(DataError, OSError):
            found.append(np.array(decode(photos.read(int(index)))))
        if len(found) == count:
            break
    if not found:
        raise DataError("not one of the crops that int8 is fitted to can be decoded")
    return np.stack(found)


def _document(crops: int, quantile: float, ranges: Ranges) -> str:
    """What is kept beside the manifest, so that the file can be made again."""
    observed = f"{crops} aligned crops of the training data"
    return json.dumps({"observed_on": observed, "quantile": quantile, "ranges": ranges}, indent=1) + "\n"


@dataclass(frozen=True)
class Measured:
    """What one file does.

    Attributes:
        vectors: (n, dim) unit embeddings of the crops, by the engine that the service would run the file with.
        rates: crops per second on one thread, by engine.
        parity: least cosine to the float32 file over the artifact's sample.
    """

    vectors: NDArray[np.float32]
    rates: dict[str, float]
    parity: float


Job = tuple[Path, str]
"""A file and its precision."""


def measured(jobs: Sequence[Job], photos: Sequence[bytes]) -> list[Measured]:
    """Run files over crops, in another process; the first file is the float32 one that the others are held to."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, list(jobs), list(photos)).result()


def _measured(jobs: list[Job], photos: list[bytes]) -> list[Measured]:
    drawn = sample.crops()
    loaded = [_engines(path, precision) for path, precision in jobs]
    expected = unit(_vectors(loaded[0][0], drawn))
    rates: list[dict[str, float]] = [{} for _ in jobs]
    for _ in range(choice.ROUNDS):  # in turns, and the best turn counts: other load then slows all files or none
        for own, of_file in zip(rates, loaded, strict=True):
            for engine in of_file:
                own[engine.name] = max(own.get(engine.name, 0.0), choice.rate(engine, drawn, 1))
    found = []
    for own, of_file in zip(rates, loaded, strict=True):
        first = partial(_vectors, of_file[0])
        vectors = embed(first, photos, batch=BATCH)
        parity = float((unit(first(drawn)) * expected).sum(axis=1).min())
        found.append(Measured(vectors, own, parity))
    return found


def _engines(path: Path, precision: str) -> list[engines.Engine]:
    """The engines of this machine that run a file, the one that the service would take for it first."""
    found: list[engines.Engine] = []
    with suppress(EngineError):  # not installed, or no bf16 in this processor
        found.append(engines.openvino(path, precision="bf16" if precision == "bf16" else "f32"))
    return [*found, engines.reference(path)]


def _vectors(engine: engines.Engine, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    (vectors,) = engine(crops).values()
    return vectors
