"""How good a model is: `python -m training.evaluate MODEL --pairs SET.bin --people FOLDER --ijb ROOT`.

MODEL is a run's folder, one of its checkpoints, an artifact (its name, or its folder), an ONNX file in the product's
contract, or the URL of a running service; the code behind them is the same. One JSON object a line on stdout: what was
measured, on how many pairs or probes, with 95 % intervals. A rate that the data cannot vouch for is said to be so, not
extrapolated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from service.artifact.store import ModelStore
from service.errors import VultusError
from training.embed import Model, PhotosOf, embed, of_network, of_onnx
from training.errors import EvaluationError
from training.figures import (
    Curve,
    Figure,
    Seen,
    identification_of_people,
    retrieval_of,
    verification,
    verification_of_people,
)
from training.ijb import evaluate_ijb, read_ijb
from training.plots import plot
from training.records import PackedPairs
from training.remote import ServiceModel
from training.restore import restore
from training.sources import Source, open_source
from training.verification import pair_scores
from training.verification_sets import open_pairs

KEY = "VULTUS_KEY"
"""Variable that holds the API key for a running service; a command line would show it to everybody."""


def evaluate_pairs(model: Model, packed: PackedPairs) -> Seen:
    """Accuracy over ten folds, and TARs, of a verification set."""
    photos, pairs = packed.distinct()
    yield from verification(pair_scores(model(photos), pairs), packed.same, folds=True)


def evaluate_people(model: Model, people: Source, *, queries: int | None = None) -> Seen:
    """TARs, open-set search and retrieval of labelled photos.

    Args:
        model: photos to vectors.
        people: the photos.
        queries: photos that are looked for in all others at most; None takes every one.
    """
    vectors = model(PhotosOf(people))
    yield from verification_of_people(vectors, people.labels)
    yield from identification_of_people(vectors, people.labels)
    yield from retrieval_of(vectors, people.labels, queries=queries)


def open_model(name: str, *, flip: bool = False, key: str = "", models: Path = Path("models")) -> Model:
    """The model of a URL, an ONNX file, an artifact, a checkpoint, or a run.

    Args:
        name: which.
        flip: average each crop with its mirror image; a service does not.
        key: API key for a service.
        models: folder in which an artifact is looked for by its name; its float32 file is taken.

    Raises:
        EvaluationError: a service was asked to flip.
        ModelError: the artifact's file is missing or damaged.
    """
    if "://" in name:
        if flip:
            raise EvaluationError("a service embeds photos as they are; --flip is for networks and files")
        return ServiceModel(name, key)
    path = Path(name)
    for folder in (path, models / name):
        if (folder / "manifest.json").is_file():
            store = ModelStore(folder.parent)
            path = store.file(store.manifest(folder.name))
            break
    embedder = of_onnx(path) if path.suffix == ".onnx" else of_network(restore(path).network)
    return partial(embed, embedder, flip=flip)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a model.",
        epilog=f"{KEY} in the environment is the API key (scope embed) for a running service.",
    )
    parser.add_argument("model", help="a run's folder, a checkpoint, an artifact, an ONNX file, or a service's URL")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the models folder")
    parser.add_argument("--pairs", type=Path, action="append", default=[], help="a .bin set or LFW's list; repeatable")
    parser.add_argument("--crops", type=Path, help="the crops that a list of pairs names, PERSON/PHOTO.jpg")
    parser.add_argument("--people", type=Path, help="a folder of people, tar shards, or a .rec file")
    parser.add_argument("--ijb", type=Path, action="append", default=[], help="IJB-B or IJB-C; repeatable")
    parser.add_argument("--queries", type=int, help="photos looked for among all of --people at most; all by default")
    parser.add_argument("--flip", action="store_true", help="average each crop with its mirror image")
    parser.add_argument("--out", type=Path, help="folder for the DET curves, as PNG and JSON")
    asked = parser.parse_args(arguments)
    try:
        if not asked.pairs and asked.people is None and not asked.ijb:
            raise EvaluationError("give --pairs, --people, --ijb, or several of them")
        model = open_model(asked.model, flip=asked.flip, key=os.environ.get(KEY, ""), models=asked.models)
        for name, seen in _asked_for(asked, model):
            _tell(name, _with_refusals(model, seen), asked.out)
    except VultusError as error:
        sys.stderr.write(f"{error.title}: {error.detail}\n")
        return 1
    return 0


def _asked_for(asked: argparse.Namespace, model: Model) -> Iterator[tuple[str, Seen]]:
    for path in asked.pairs:
        yield path.stem, evaluate_pairs(model, open_pairs(path, asked.crops))
    if asked.people is not None:
        yield asked.people.stem, evaluate_people(model, open_source(asked.people), queries=asked.queries)
    for root in asked.ijb:
        yield root.name, evaluate_ijb(model, read_ijb(root), aligned=not isinstance(model, ServiceModel))


def _with_refusals(model: Model, seen: Seen) -> Seen:
    """What was measured, and of a service how many photos it saw no face in."""
    yield from seen
    if isinstance(model, ServiceModel):
        reasons: dict[str, int] = {}
        for _, reason in model.refused:
            reasons[reason] = reasons.get(reason, 0) + 1
        yield {"figure": "photos_without_embedding", "value": len(model.refused), "reasons": reasons}


def _tell(name: str, seen: Iterable[Figure | Curve], out: Path | None) -> None:
    """Print each figure when it is known, and keep the curves."""
    for each in seen:
        if not isinstance(each, Curve):
            sys.stdout.write(json.dumps({"set": name, **each}) + "\n")
            sys.stdout.flush()
        elif out is not None:
            out.mkdir(parents=True, exist_ok=True)
            plot(out / f"{name}-{each.name}.png", each.x, each.y, labels=each.labels, logarithmic=True)
            points = {"labels": each.labels, "x": each.x.tolist(), "y": each.y.tolist()}
            (out / f"{name}-{each.name}.json").write_text(json.dumps(points) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
