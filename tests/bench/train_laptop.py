"""From photos in folders to a service that knows people, with the commands that README.md gives, and laptop.toml.

Each command runs in a process of its own and is timed by the clock and by what the processor worked. The people who are
learnt from and those who judge are the ones of `train_lfw`; the latter's crops are there before, as the published sets
that models are judged by are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from service.settings import CHECKOUT
from tests.bench.lfw_data import Pair, person_of
from tests.bench.report import Report, note
from tests.bench.server import Client, form_of, serving
from tests.bench.train_lfw import LAPTOP, Ready

ENROLLED, CALIBRATED = 50, 200
"""People with a photo each in the service's gallery, and others whom the model is calibrated on."""


def whole_path(report: Report, made: Ready, folder: Path, changes: Sequence[str]) -> None:
    """Time every command from photos to the service's answers; a command that fails ends the bench.

    Args:
        report: what is told the figures.
        made: photos to learn from, beside their crops, and people to judge by.
        folder: where crops, run and model go; what is there from a run before goes.
        changes: to laptop.toml, as the command line takes them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    crops, run, models = folder / "crops", folder / "run", folder / "models"
    shutil.copytree(CHECKOUT / "models" / "yunet", models / "yunet")
    pairs = folder / "pairs.txt"
    pairs.write_text(listed(made.pairs))
    judged = ["--pairs", pairs, "--crops", made.test]
    settings = {"VULTUS_DATA": str(folder / "data"), "VULTUS_MODELS": str(models), "VULTUS_RECOGNITION_MODEL": "mine"}
    of = ["--name", "mine", "--models", models, "--license", "Apache-2.0", "--source", "https://example.org/mine"]
    commands: dict[str, Sequence[object]] = {
        "prepare": ["training.prepare", made.train.with_name("photos-train"), crops, "--leave-out"],
        "train": ["training.train", LAPTOP, f"data.train=['{crops}']", f"run.folder={run}", *changes],
        "evaluate": ["training.evaluate", run, *judged, "--out", folder / "curves"],
        "export": ["training.export", run, *of, *judged],
        "check": ["service", "models", "check", "mine"],
        "calibrate": ["service", "calibrate", "mine", people(made, folder / "calibrated-on")],
    }
    clock = processor = 0.0
    for name, words in commands.items():
        seconds, worked = timed(words, settings, folder / f"{name}.out")
        report.figure("laptop_seconds", round(seconds, 1), "s", step=name, processor=round(worked, 1))
        clock, processor = clock + seconds, processor + worked
    for line in (folder / "evaluate.out").read_text().splitlines():
        if line.startswith("{") and json.loads(line).get("figure") == "accuracy":
            told = json.loads(line)
            report.figure("laptop_accuracy", told["value"], "", pairs=len(made.pairs), folds=10)
    started = time.perf_counter()
    first, count = served(made, folder, settings)
    seconds = time.perf_counter() - started
    report.figure("laptop_first", first, f"of {count}", step="serve")
    report.figure("laptop_seconds", round(seconds, 1), "s", step="serve")
    report.figure("laptop_total", round((clock + seconds) / 60, 1), "minutes", processor=round(processor / 60, 1))


def listed(pairs: Sequence[Pair]) -> str:
    """The pairs in LFW's form, mates and impostors by turns, so that each of ten folds has as many of both."""
    kinds = [[pair for pair in pairs if pair.same == same] for same in (True, False)]
    lines = [f"10\t{len(kinds[0]) // 10}"]
    for mates, impostors in zip(*kinds, strict=True):
        for pair in (mates, impostors):
            (a, i), (b, j) = ((person_of(name), int(name.rpartition("_")[2])) for name in (pair.a, pair.b))
            lines.append(f"{a}\t{i}\t{j}" if pair.same else f"{a}\t{i}\t{b}\t{j}")
    return "\n".join(lines) + "\n"


def shares(made: Ready) -> tuple[list[list[Path]], list[list[Path]]]:
    """The photos of people who judge and have two or more: of those who are enrolled, and of those calibrated on."""
    folders = sorted(made.test.with_name("photos-test").iterdir())
    several = [photos for photos in (sorted(each.iterdir()) for each in folders) if len(photos) > 1]
    enrolled = min(ENROLLED, len(several) // 2)
    return several[:enrolled], several[enrolled : enrolled + CALIBRATED]


def people(made: Ready, into: Path) -> Path:
    """A folder of the people that the model is calibrated on."""
    for photos in shares(made)[1]:
        shutil.copytree(photos[0].parent, into / photos[0].parent.name)
    return into


def timed(words: Sequence[object], settings: Mapping[str, str], out: Path) -> tuple[float, float]:
    """Run `python -m WORDS`; seconds by the clock, and those that the processor worked for it."""
    note(" ".join(map(str, words)))
    before, started = os.times(), time.perf_counter()
    with out.open("w") as told:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)],
            cwd=CHECKOUT,
            env={**os.environ, **settings},
            stdout=told,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {out.read_text()[-2000:]}")
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def served(made: Ready, folder: Path, settings: Mapping[str, str]) -> tuple[int, int]:
    """Start the service on the model, enrol people with a photo each; of how many another photo names them first."""
    data = folder / "served"
    data.mkdir()
    first, probes = 0, {}
    with serving(data, **{**settings, "VULTUS_DATA": str(data)}) as server, Client(server.port) as client:
        asked(client.post_json("/v1/galleries", {"name": "office"}), 201)
        for photos in shares(made)[0]:
            person = photos[0].parent.name
            for photo, other in pairwise(photos):  # the first one that shows this person alone
                answer = client.post_form(f"/v1/galleries/office/people/{person}/faces", form_of([photo.read_bytes()]))
                if answer[0] == 201:
                    probes[person] = other.read_bytes()
                    break
        for person, photo in probes.items():
            found = asked(client.post_form("/v1/galleries/office/identify", form_of([photo])), 200)
            first += person in [face["candidates"][0]["person"] for face in found["faces"] if face["candidates"]]
    return first, len(probes)


def asked(answer: tuple[int, bytes], status: int) -> dict:
    """The answer, if it has this status."""
    if answer[0] != status:
        raise RuntimeError(f"the service answered {answer[0]}: {answer[1][:500]!r}")
    return json.loads(answer[1])
