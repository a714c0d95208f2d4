"""How fast photos become embeddings: `python -m tests.bench.encode`.

`encode_speedup` is the engine that the service chooses over the plain folded graph in ONNX Runtime's default CPU
session, both on one thread of one core, in turns in one run. `loop_faces_per_second` is the whole in-process loop on
every core. `stage_ms` tells where its time goes. `detection_batch_ratio` compares four canvases in one batch with four
single ones.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from service.vision import engines
from service.vision.choice import candidates
from service.vision.engines import Engine
from tests.bench.lfw_data import load_lfw
from tests.bench.loop import Loop
from tests.bench.report import Report, fresh_settings, note, parser

ROUNDS, QUICK_ROUNDS = 12, 5
TURN_SECONDS = 0.6


def main() -> None:
    asked = parser(__doc__ or "").parse_args()
    lfw = load_lfw(asked.data)
    names = sorted(lfw.photos)[:: 60 if asked.quick else 10]
    report = Report("encode")
    rounds = QUICK_ROUNDS if asked.quick else ROUNDS
    with fresh_settings() as folder:
        loop = Loop(engine="auto", memory=folder / "engines.json")
        note(f"the service chooses {loop.chosen.engine.name}: {dict(loop.chosen.rates)}")
        photos = [lfw.photos[name] for name in names]
        loop.embed(photos[: loop.threads * 8])
        whole = [loop_rate(loop, photos, report if last else None) for last in (False, True)]
        report.figure(
            "loop_faces_per_second", round(max(whole), 1), "faces/s", threads=loop.threads, photos=len(photos)
        )
        one_core(report, loop.chosen.engine.name, [lfw.photos[name] for name in names[:64]], loop, rounds)
    report.table()


def loop_rate(loop: Loop, photos: list[bytes], report: Report | None) -> float:
    """Faces per second of the whole loop; with a report, the stages too."""
    started = time.perf_counter()
    _, stages = loop.embed(photos)
    seconds = time.perf_counter() - started
    if report is not None:
        for stage in ("decode", "detect", "align", "encode"):
            spent = getattr(stages, stage) / max(stages.faces, 1)
            report.figure("stage_ms", round(1000 * spent, 3), "ms a face and thread", stage=stage)
    return stages.faces / seconds


def one_core(report: Report, chosen: str, photos: list[bytes], loop: Loop, rounds: int) -> None:
    """Engines on one thread of one core, in turns; the ratio is the median over the turns."""
    store = ModelStore(CHECKOUT / "models")
    allowed = os.sched_getaffinity(0)
    # New threads inherit the affinity: an engine that starts helpers of its own gains nothing by it.
    os.sched_setaffinity(0, {min(allowed)})
    try:
        crops = np.stack([crop for photo in photos for crop in loop.crops(photo)])[:64]
        plain = engines.reference(store.file(loop.manifest))
        found = candidates(store, loop.manifest, 1)
        loaded: dict[str, Engine] = {"plain": plain, chosen: found[chosen].load()}
        for batch in (1, 8):
            rates: dict[str, list[float]] = {name: [] for name in loaded}
            for _ in range(rounds):
                for name, engine in loaded.items():
                    rates[name].append(rate(engine, crops, batch))
            ratios = [fast / slow for fast, slow in zip(rates[chosen], rates["plain"], strict=True)]
            report.figure(
                "encode_speedup" if batch == 1 else "encode_speedup_batch",
                round(statistics.median(ratios), 3),
                "x",
                engine=chosen,
                batch=batch,
                faces_per_second=round(statistics.median(rates[chosen]), 1),
                plain_faces_per_second=round(statistics.median(rates["plain"]), 1),
                least=round(min(ratios), 2),
                most=round(max(ratios), 2),
            )
        expected = plain(crops)["embeddings"]
        cosines = np.sum(loaded[chosen](crops)["embeddings"] * expected, axis=1)
        report.figure("encode_cosine", round(float(cosines.mean()), 5), "mean", least=round(float(cosines.min()), 5))
        detection(report, loop.detector.heads, rounds)
    finally:
        os.sched_setaffinity(0, allowed)


def rate(engine: Engine, crops: np.ndarray, batch: int) -> float:
    """Faces per second over some fraction of a second."""
    engine(crops[:batch])
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < TURN_SECONDS:
        place = done % (len(crops) - batch + 1)
        engine(crops[place : place + batch])
        done += batch
    return done / (time.perf_counter() - started)


def detection(report: Report, heads: Callable[[np.ndarray], object], rounds: int) -> None:
    """Whether canvases of several requests gain by sharing a batch."""
    for side in (256, 640):
        canvases = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
        ratios, single_ms = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            for canvas in canvases:
                heads(canvas[None])
            single = time.perf_counter() - started
            started = time.perf_counter()
            heads(canvases)
            ratios.append((time.perf_counter() - started) / single)
            single_ms.append(1000 * single / len(canvases))
        report.figure(
            "detection_batch_ratio",
            round(statistics.median(ratios), 3),
            "x the time of four single canvases",
            side=side,
            single_ms=round(statistics.median(single_ms), 2),
        )


if __name__ == "__main__":
    main()
