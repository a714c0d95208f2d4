"""What training costs and reaches: `python -m tests.bench.train [--seeds 5] [--work DIR]`.

`step_speedup` is the loop's own step, with what `auto` chooses on this machine, over a plain float32 PyTorch loop with
the same network, batch and threads, in turns in one run; on a busy machine the time that the processor worked
(`processor_ms`) says more. `partial_fc_time_ratio` and `partial_fc_memory_ratio` compare
a sampled head with a full one in a process each, the full one written as most people write it. `resume_identical` is 1
when a resumed run left the same bits as an uninterrupted one. `lfw_scratch` and `lfw_distilled` are what laptop.toml
reaches on LFW (see `tests.bench.train_lfw`): hours with `--seeds 5`, which `--work DIR` lets go on where it stopped.
`--recipes arcface cosface softmax` compares heads; `distilled_wide` learns from people with one photo too. How near a
copy comes to its teacher on people whom it never saw is `cosine_to_teacher`.
`laptop_total` is the time from photos to a service that answers, all commands of training/README.md in turn.
`--only step` is `step_speedup` alone, a minute; `--only cost` has the heads too, which take 15 GB of memory.
"""

from __future__ import annotations

import training  # noqa: F401 - before PyTorch: it says how PyTorch's threads wait

# isort: split
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from tests.bench.report import Report, note, parser
from tests.bench.train_laptop import whole_path
from tests.bench.train_lfw import RECIPES, accuracy, ready
from training import bottleneck, checkpoints, fused
from training.backbones import MobileFaceNet
from training.batches import Batch
from training.config import load
from training.heads import MarginHead
from training.margins import arcface, cosface
from training.native import compiled
from training.partial_fc import PartialFC
from training.start import fresh, setting_of, wrapped
from training.train import _step, train

DIM, BATCH, FRACTION = 512, 128, 0.1


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seeds", type=int, default=1, help="runs of each recipe")
    options.add_argument("--recipes", nargs="+", choices=RECIPES, default=["distilled", "scratch"])
    options.add_argument("--work", type=Path, help="keep crops and runs of LFW here, and go on from what is there")
    options.add_argument("--only", choices=["cost", "step", "lfw", "laptop"], help="a part of the figures")
    options.add_argument("--set", action="append", default=[], help="section.key=value for the runs on LFW; repeatable")
    asked = options.parse_args()
    report = Report("train")
    with tempfile.TemporaryDirectory(prefix="vultus-bench-") as folder:
        if asked.only in (None, "lfw", "laptop"):
            work, few = asked.work or Path(folder), 12 if asked.quick else None
            singles = any(RECIPES[name].singles for name in asked.recipes)
            made = ready(asked.data, work, people=few, singles=singles)
            changes = ["run.epochs=1", "run.batch=16", *asked.set] if asked.quick else asked.set
            if asked.only != "laptop":
                accuracy(report, made, work, recipes=asked.recipes, seeds=asked.seeds, changes=changes)
            if asked.only != "lfw":
                whole_path(report, made, work / "laptop", changes)
        if asked.only not in ("lfw", "laptop"):
            people = photos(Path(folder) / "noise")
            speed(report, people, Path(folder), batch=32 if asked.quick else BATCH, turns=2 if asked.quick else 5)
            if asked.only != "step":
                sampled(report, classes=100_000 if asked.quick else 1_000_000, steps=3 if asked.quick else 4)
                report.figure("resume_identical", int(resumed(people, Path(folder))), "1 or 0")
    report.table()


def photos(root: Path, people: int = 8, each: int = 16) -> Path:
    """A folder of people made of noise: what a step costs does not depend on what it sees."""
    random = np.random.default_rng(0)
    for person in range(people):
        (root / str(person)).mkdir(parents=True)
        for photo in range(each):
            Image.fromarray(random.integers(0, 256, (112, 112, 3), np.uint8)).save(root / str(person) / f"{photo}.jpg")
    return root


# --- the step ---


def speed(report: Report, people: Path, folder: Path, *, batch: int, turns: int) -> None:
    """Photos per second of the loop's step and of a plain one, the median over turns."""
    changes = [
        f"data.train=['{people}']",
        f"run.folder={folder / 'speed'}",
        f"run.batch={batch}",
        "network.dim=128",
        "run.device=cpu",
    ]
    loaded = Batch(
        torch.randint(0, 256, (batch, 112, 112, 3), dtype=torch.uint8),
        torch.randint(0, 8, (batch,)),
        torch.arange(batch),
    )
    setting = setting_of(load(None, changes))
    state = fresh(setting)
    network = wrapped(setting, state.network)
    turn_of = {"plain": plain_step(loaded), "ours": lambda: _step(setting, state, network, loaded)}
    rates: dict[str, list[float]] = {name: [] for name in turn_of}
    worked = dict.fromkeys(turn_of, 0.0)
    for turn in range(turns + 1):
        for name, step in turn_of.items():
            started, before = time.perf_counter(), time.process_time()
            step()
            if turn:  # the first one makes kernels and warms up
                rates[name].append(batch / (time.perf_counter() - started))
                worked[name] += time.process_time() - before
    middle = {name: statistics.median(each) for name, each in rates.items()}
    more = {"batch": batch, "threads": torch.get_num_threads()}
    precision = {"plain": "torch.float32", "ours": str(setting.precision)}
    for name, rate in middle.items():
        each = {"loop": name, "precision": precision[name], **more}
        report.figure("photos_per_second", round(rate, 2), "photos/s", **each)
        report.figure("processor_ms", round(1e3 * worked[name] / turns / batch, 2), "ms a photo", **each)
    ratios = [one / other for one, other in zip(rates["ours"], rates["plain"], strict=True)]
    quick = compiled(bottleneck.CODE if setting.precision is torch.float32 else fused.CODE) is not None
    most = {"least": round(min(ratios), 3), "most": round(max(ratios), 3), "fused": quick}
    more["precision"] = precision["ours"]
    report.figure("step_speedup", round(middle["ours"] / middle["plain"], 3), "x", **most, **more)


def plain_step(batch: Batch):
    """The step as a first script has it: contiguous float32, a dense ArcFace head, SGD over everything."""
    torch.manual_seed(0)
    network, head = MobileFaceNet(128), MarginHead(8, 128, arcface())
    optimiser = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        pixels = batch.crops.permute(0, 3, 1, 2).contiguous().float().sub(127.5).div(127.5)
        optimiser.zero_grad()
        head(network(pixels), batch.labels).backward()
        optimiser.step()

    return step


# --- the head ---


def sampled(report: Report, *, classes: int, steps: int) -> None:
    """Time and peak memory of a step of the head alone, each kind in a process of its own."""
    found = {}
    for kind in ("full", "sampled"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found[kind] = pool.submit(head_steps, kind, classes, steps).result()
        note(f"{kind}: {found[kind][0]:.3f} s a step, {found[kind][1] / 1e9:.2f} GB")
    more = {
        "classes": classes,
        "dim": DIM,
        "fraction": FRACTION,
        "batch": BATCH,
        "others_identical": found["sampled"][2],
    }
    report.figure("partial_fc_time_ratio", round(found["sampled"][0] / found["full"][0], 4), "of full FC", **more)
    report.figure("partial_fc_memory_ratio", round(found["sampled"][1] / found["full"][1], 4), "of full FC", **more)


def head_steps(kind: str, classes: int, steps: int) -> tuple[float, int, bool]:
    """Median seconds of a step, peak of resident memory over that of an idle process, and `others_identical`."""
    idle = memory("VmRSS")
    torch.manual_seed(0)
    if kind == "sampled":
        head = PartialFC(classes, DIM, cosface(), fraction=FRACTION)
    else:
        head = FullHead(classes)
        optimiser = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    seconds = []
    for _ in range(steps + 1):
        embeddings = torch.randn(BATCH, DIM, requires_grad=True)
        labels = torch.randint(classes, (BATCH,))
        started = time.perf_counter()
        head(embeddings, labels).backward()
        if kind == "sampled":
            head.step(0.1)
        else:
            optimiser.step()
            optimiser.zero_grad()
        seconds.append(time.perf_counter() - started)
    peak = memory("VmHWM") - idle
    return statistics.median(seconds[1:]), peak, kind == "sampled" and others_identical(head)


def others_identical(head: PartialFC, watched: int = 100_000) -> bool:
    """Whether a step leaves the bits of rows that it did not sample, momentum included; a part of them is watched."""
    rows = torch.arange(0, len(head.centres), max(1, len(head.centres) // watched))
    centres, velocity = head.centres[rows].clone(), head.velocity[rows].clone()
    head(torch.randn(BATCH, DIM, requires_grad=True), torch.randint(head.classes, (BATCH,))).backward()
    sampled = torch.isin(rows, head._drawn[0].index)
    head.step(0.1)
    alike = (head.centres[rows] == centres).all(dim=1) & (head.velocity[rows] == velocity).all(dim=1)
    return bool(alike[~sampled].all()) and not bool(alike[sampled].any())


def memory(name: str) -> int:
    """Bytes that this process holds (VmRSS), or at most held (VmHWM, which is not inherited)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


class FullHead(nn.Module):
    """CosFace over all classes in a dozen lines of plain PyTorch."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, DIM).mul_(0.01))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosines = functional.linear(functional.normalize(embeddings), functional.normalize(self.centres))
        margin = torch.zeros_like(cosines).scatter_(1, labels[:, None], 0.35)
        return functional.cross_entropy(64 * (cosines - margin), labels)


# --- going on ---


def resumed(people: Path, folder: Path) -> bool:
    """Whether a run taken up in the middle of an epoch ends with the bits of one that was not interrupted."""
    common = [f"data.train=['{people}']", "data.workers=0", "network.dim=32", "run.batch=16", "run.epochs=1"]
    common += ["run.save_every=1", "run.keep=99", "head.fraction=0.5", "optimiser.average=0.9", "run.device=cpu"]
    whole = train(load(None, [*common, f"run.folder={folder / 'whole'}"]))
    middle = checkpoints.found(whole.parent)[3]
    (folder / "again" / "checkpoints").mkdir(parents=True)
    middle.rename(folder / "again" / "checkpoints" / middle.name)
    again = train(load(None, [*common, f"run.folder={folder / 'again'}"]))
    return all(
        same(checkpoints.read(whole / name), checkpoints.read(again / name)) for name in ("model.pt", "rank-0-of-1.pt")
    )


def same(one: object, other: object) -> bool:
    """Whether two nested parts of checkpoints hold the same bits; paths of the run's folder may differ."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one if key != "config")
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return json.dumps(one, default=str) == json.dumps(other, default=str)


if __name__ == "__main__":
    sys.exit(main())
