"""What evaluating a million embeddings holds in memory: `python -m tests.bench.evaluation`.

A million vectors of 512 numbers, 2.05 GB, are made once and kept on disk. Each measure then runs over all of them in a
process of its own; only the number of probes and queries is kept small, as it costs time and no memory. `peak_gb` is
the most that the process held, the vectors included.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from tests.bench.report import Report, parser
from training.bootstrap import tar_interval
from training.figures import retrieval_of
from training.identification import Rows, search
from training.ijb import aggregated
from training.verification import drawn_pairs, pair_scores, tar_at_far

DIM, PROBES, QUERIES = 512, 2048, 1024
PEOPLE_SHARE = 5
"""Photos a person."""


def main() -> None:
    asked = parser(__doc__ or "").parse_args()
    count = 100_000 if asked.quick else 1_000_000
    report = Report("evaluation")
    with tempfile.TemporaryDirectory(prefix="vultus-bench-") as folder:
        path = Path(folder, "embeddings.npy")
        make(path, count)
        for name in MEASURES:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                seconds, peak = pool.submit(measured, name, path).result()
            more = {"measure": name, "embeddings": count, "dim": DIM}
            report.figure("peak_gb", round(peak / 1e9, 3), "GB", **more, seconds=round(seconds, 1))
    report.table()


def make(path: Path, count: int, block: int = 50_000) -> None:
    """Unit vectors of people: a centre for each, and each photo near it."""
    random = np.random.default_rng(0)
    made = np.lib.format.open_memmap(path, "w+", np.float32, (count, DIM))
    for start in range(0, count, block):
        centres = random.standard_normal((block // PEOPLE_SHARE, DIM), np.float32).repeat(PEOPLE_SHARE, axis=0)
        vectors = centres + 1.2 * random.standard_normal((block, DIM), np.float32)
        made[start : start + block] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    made.flush()


def measured(name: str, path: Path) -> tuple[float, int]:
    """Seconds and the peak of resident bytes of one measure in this process."""
    vectors = np.load(path)
    labels = np.arange(len(vectors)) // PEOPLE_SHARE
    started = time.perf_counter()
    MEASURES[name](vectors, labels)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return time.perf_counter() - started, 1024 * peak


def verification(vectors: np.ndarray, labels: np.ndarray) -> None:
    """A million pairs of one person and a million of two, with an interval over people."""
    pairs, same = drawn_pairs(labels)
    scores = pair_scores(vectors, pairs)
    people = labels[pairs]
    tar_at_far(scores[same], scores[~same], 1e-5)
    tar_interval(scores[same], people[same, 0], scores[~same], people[~same], 1e-5, rounds=20)


def identification(vectors: np.ndarray, labels: np.ndarray) -> None:
    """Probes searched among all others."""
    numbers = np.random.default_rng(1).permutation(len(vectors))
    probes, gallery = np.sort(numbers[:PROBES]), np.sort(numbers[PROBES:])
    search(Rows(vectors, probes), labels[probes], Rows(vectors, gallery), labels[gallery])


def retrieval(vectors: np.ndarray, labels: np.ndarray) -> None:
    """Queries looked for among all others, and clusters."""
    list(retrieval_of(vectors, labels, queries=QUERIES))


def templates(vectors: np.ndarray, labels: np.ndarray) -> None:
    """Everybody's photos joined to one template, as the IJB sets have it."""
    aggregated(vectors, labels, np.arange(len(vectors)) // 2)


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "verification": verification,
    "identification": identification,
    "retrieval": retrieval,
    "templates": templates,
}


if __name__ == "__main__":
    main()
