"""What a laptop learns of LFW: from the people outside folds 8 to 10, judged by the 1,800 pairs of those folds.

The path is the one that README.md describes: photos in folders, `training.prepare`, `training/configs/laptop.toml`,
and the checkpoint measured on crops that the same preparation made. Everybody who is in a pair of folds 8 to 10 is left
out. So are people with one photo, unless a teacher says what it shows: a recipe with `singles` takes those whom neither
LFW's names nor their faces take for somebody who judges. The threshold of a fold is the best one of the other two.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from tests.bench.lfw_data import SAME_PERSON, Lfw, Pair, load_lfw
from tests.bench.report import Report, note
from training.config import load
from training.embed import PhotosOf, embed, of_network, of_onnx
from training.folder import Folder
from training.prepare import prepare
from training.restore import restore
from training.train import train
from training.verification import fold_accuracy

LAPTOP = CHECKOUT / "training" / "configs" / "laptop.toml"
FIRST_TEST_FOLD = 7

TAUGHT = (
    f"teacher.model={CHECKOUT / 'models' / 'sface' / 'model.onnx'}",
    "teacher.alone=true",
    "teacher.sees=changed",
    "teacher.mix=0.5",
    "augment.crop=0.5",
    "augment.jitter=0.2",
    "optimiser.clip=1",
    "data.sampler=random",
)
"""Learning what SFace says of the very crops that are shown, half of them mixed of two photos, and no labels."""


@dataclass(frozen=True)
class Recipe:
    """What is changed in laptop.toml, and whether photos of people who have one are learnt from as well."""

    changes: tuple[str, ...] = ()
    singles: bool = False


RECIPES = {
    "distilled": Recipe(TAUGHT),
    "distilled_wide": Recipe(TAUGHT, singles=True),
    "scratch": Recipe(),
    "arcface": Recipe(("head.margin=arcface", "head.options={m = 0.1, scale = 20}")),
    "cosface": Recipe(("head.margin=cosface", "head.options={m = 0.1, scale = 20}")),
    "softmax": Recipe(("head.margin=softmax", "head.options={}")),
}


@dataclass(frozen=True)
class Ready:
    """Crops to learn from, of people with several photos and with one, crops to judge by, and the latter's pairs."""

    train: Path
    singles: Path
    test: Path
    pairs: tuple[Pair, ...]


def ready(data: Path | None, folder: Path, *, people: int | None, singles: bool = False) -> Ready:
    """Write the photos of both sides and cut their crops; what is there already is kept.

    Args:
        data: folder that holds lfw/.
        folder: where crops and runs go.
        people: this many of each side only, for a quick look.
        singles: make crops of people with one photo too.
    """
    lfw = load_lfw(data)
    pairs = tuple(pair for pair in lfw.pairs if pair.fold >= FIRST_TEST_FOLD)
    if people is not None:
        pairs = few(pairs, people)
    judged = {name for pair in pairs for name in (pair.a, pair.b)}
    write(lfw, judged, folder / "photos-test")
    several, one = learnt_from(lfw, people)
    write(lfw, several, folder / "photos-train")
    if singles:
        write(lfw, one, folder / "photos-singles")
    for side in ("train", "test", *(["singles"] if singles else [])):
        if people is None and (folder / f"crops-{side}" / "report.json").exists():
            continue  # whole: the report is written last
        found = prepare(
            folder / f"photos-{side}",
            folder / f"crops-{side}",
            ModelStore(CHECKOUT / "models"),
            evaluation=folder / "crops-test" if side == "singles" else None,
            leave_out=side == "singles",
            threads=os.cpu_count() or 1,
        )
        note(f"{side}: {found.crops} crops, {len(found.refused)} photos without a face")
    return Ready(folder / "crops-train", folder / "crops-singles", folder / "crops-test", pairs)


def learnt_from(lfw: Lfw, people: int | None) -> tuple[list[str], list[str]]:
    """Photos of people who are in no pair of the folds that judge: of those with two or more, and of those with one.

    The latter leave out who is filed under a second name among those who judge.
    """
    barred = {person for person, fold in lfw.folds_of_people().items() if fold >= FIRST_TEST_FOLD}
    also = {name for both in SAME_PERSON if barred & {*both} for name in both}
    counts = Counter(lfw.person(name) for name in lfw.photos)
    several = [person for person, count in counts.items() if count > 1 and person not in barred]
    one = [person for person, count in counts.items() if count == 1 and person not in barred | also]
    sides = [set(each if people is None else sorted(each)[:people]) for each in (several, one)]
    found = [[name for name in lfw.photos if lfw.person(name) in side] for side in sides]
    return found[0], found[1]


def few(pairs: Sequence[Pair], count: int) -> tuple[Pair, ...]:
    """The first pairs of each kind of each fold, so that a third is still a fold."""
    each = count // 3
    kinds = [
        [pair for pair in pairs if pair.fold == fold and pair.same == same] for fold in (7, 8, 9) for same in (1, 0)
    ]
    return tuple(pair for kind in kinds for pair in kind[:each])


def write(lfw: Lfw, names: Sequence[str] | set[str], folder: Path) -> None:
    """Lay photos out as PERSON/PHOTO.jpg."""
    for name in sorted(names):
        path = folder / lfw.person(name) / f"{name}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(lfw.photos[name])


@dataclass(frozen=True)
class Learnt:
    """What came of one run: accuracy on the pairs in percent, and the share of its time that steps waited for data.

    `to_teacher` has the mean and the least cosine to the teacher's vectors, over the crops to judge by.
    """

    accuracy: float
    folds: tuple[float, ...]
    wait: float
    photos_per_second: float
    to_teacher: tuple[float, float] | None


def learn(made: Ready, folder: Path, recipe: Recipe, changes: Sequence[str]) -> Learnt:
    """Train laptop.toml by a recipe and judge the result; a run that is there already goes on or is done."""
    photos = [str(each) for each in ([made.train, made.singles] if recipe.singles else [made.train])]
    config = load(LAPTOP, [f"data.train={photos}", f"run.folder={folder}", *recipe.changes, *changes])
    network = restore(train(config)).network
    crops = Folder(made.test)
    vectors = embed(of_network(network), PhotosOf(crops))
    cosines = None
    if config.teacher.model is not None:
        cosines = (vectors * embed(of_onnx(config.teacher.model), PhotosOf(crops))).sum(axis=1)
    at = {path.stem: row for row, path in enumerate(crops.paths)}
    scores = np.array([vectors[at[pair.a]] @ vectors[at[pair.b]] for pair in made.pairs])
    judged = fold_accuracy(scores, np.array([pair.same for pair in made.pairs]), folds=3)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    return Learnt(
        judged.mean,
        judged.folds,
        statistics.mean(line["wait"] for line in steps),
        statistics.median(line["photos_per_second"] for line in steps),
        None if cosines is None else (float(cosines.mean()), float(cosines.min())),
    )


def accuracy(
    report: Report, made: Ready, folder: Path, *, recipes: Sequence[str], seeds: int, changes: Sequence[str]
) -> None:
    """Every recipe, seed by seed, so that a table cut short is whole; the mean of several with its 95 % interval."""
    found: dict[str, list[float]] = {name: [] for name in recipes}
    for seed in range(seeds):
        for name in recipes:
            run = learn(made, folder / f"{name}-{seed}", RECIPES[name], [f"run.seed={seed}", *changes])
            found[name].append(run.accuracy)
            more = {"recipe": name, "seed": seed, "pairs": len(made.pairs)}
            report.figure(kind(name), round(run.accuracy, 2), "%", folds=[round(each, 2) for each in run.folds], **more)
            report.figure("data_wait", round(100 * run.wait, 2), "% of a step", recipe=name, seed=seed)
            if run.to_teacher is not None:
                mean, least = (round(each, 3) for each in run.to_teacher)
                report.figure("cosine_to_teacher", mean, "mean", least=least, recipe=name, seed=seed)
            report.figure("run_photos_per_second", round(run.photos_per_second, 1), "photos/s", recipe=name, seed=seed)
    for name, values in found.items():
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
            mean = statistics.mean(values)
            more = {"recipe": name, "seeds": len(values), "interval": [round(mean - half, 2), round(mean + half, 2)]}
            report.figure(f"{kind(name)}_mean", round(mean, 2), "%", **more)


def kind(recipe: str) -> str:
    """The figure that a recipe is one of."""
    return "lfw_distilled" if recipe.startswith("distilled") else "lfw_scratch"
