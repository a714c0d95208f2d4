"""How good a model is: `python -m training.evaluate MODEL --pairs SET.bin --people FOLDER`.

MODEL is a run's folder, one of its checkpoints, or an ONNX file in the product's contract; the code is the same.
One JSON object a line on stdout: what was measured, on how many pairs or probes, with 95 % intervals. A rate that the
data cannot vouch for is said to be so, not extrapolated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import VultusError
from training.data import Source, open_source
from training.embed import Embedder, embed, of_network, of_onnx
from training.errors import EvaluationError, RateNotSupportedError
from training.identification import fnir_at_fpir, rank_rates, search
from training.records import PackedPairs
from training.restore import restore
from training.retrieval import k_means, nmi, retrieval
from training.verification import pair_scores, paired_accuracy, tar_at_far
from training.verification_sets import open_pairs

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
FPIRS = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10)

Figure = dict[str, Any]


def verification_of(vectors: NDArray[np.float32], same: NDArray[np.bool_]) -> Iterator[Figure]:
    """Accuracy and TARs of packed pairs."""
    yield {"figure": "accuracy", "value": paired_accuracy(vectors, same), "unit": "%", "pairs": len(same)}
    scores = pair_scores(vectors, np.arange(len(vectors)).reshape(-1, 2))
    for far in FARS:
        try:
            rate = tar_at_far(scores[same], scores[~same], far)
        except RateNotSupportedError as error:
            yield {"figure": "tar", "far": far, "refused": error.detail}
        else:
            yield {"figure": "tar", "value": rate.tar, **asdict(rate)}


def identification_of(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> Iterator[Figure]:
    """Open-set search in two galleries, as IJB-B and IJB-C have it.

    People with two or more photos are dealt in turn to gallery 1, gallery 2 and the strangers; of an enrolled person
    the first photo is the template and the others are probes. A stranger is in neither gallery; a person of the other
    gallery is neither a mate nor a stranger and is left out of the search.
    """
    _, person, counts = np.unique(labels, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    group = np.full(len(counts), -1)
    group[several] = np.arange(len(several)) % 3
    first = np.zeros(len(labels), np.bool_)
    first[np.unique(person, return_index=True)[1]] = True
    for number in (0, 1):
        gallery = first & (group[person] == number)
        probes = ((group[person] == number) & ~first) | (group[person] == 2)
        if not gallery.any() or not (group == 2).any():
            raise EvaluationError("open-set search needs three people with two photos each, or more")
        found = search(vectors[probes], person[probes], vectors[gallery], person[gallery])
        strangers = group[person[probes]] == 2
        names = {"gallery": number + 1, "enrolled": int(gallery.sum())}
        for k, value in zip(RANKS, rank_rates(found, RANKS), strict=True):
            yield {"figure": f"rank{k}", "value": value, **names}
        for fpir in FPIRS:
            try:
                rate = fnir_at_fpir(found, person[probes], strangers, fpir)
            except RateNotSupportedError as error:
                yield {"figure": "fnir", "fpir": fpir, "refused": error.detail, **names}
            else:
                yield {"figure": "fnir", "value": rate.fnir, **asdict(rate), **names}


def retrieval_of(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> Iterator[Figure]:
    """Recall@K, R-precision, MAP@R, and NMI of as many clusters as there are people."""
    found = retrieval(vectors, labels)
    for k, value in found.recall.items():
        yield {"figure": f"recall@{k}", "value": value, "queries": found.queries}
    yield {"figure": "r_precision", "value": found.r_precision, "queries": found.queries}
    yield {"figure": "map@r", "value": found.map_at_r, "queries": found.queries}
    clusters = k_means(vectors, len(np.unique(labels)))
    yield {"figure": "nmi", "value": nmi(labels, clusters), "mean": "arithmetic"}


def evaluate(
    embedder: Embedder, *, pairs: PackedPairs | None = None, people: Source | None = None, flip: bool = False
) -> Iterator[Figure]:
    """Everything that can be measured on a verification set and on labelled photos.

    Args:
        embedder: the model.
        pairs: a verification set.
        people: labelled photos.
        flip: average each crop with its mirror image.

    Yields:
        One record a figure, with `figure` and `value`, or `refused` and why.
    """
    if pairs is not None:
        yield from verification_of(embed(embedder, pairs.photos, flip=flip), pairs.same)
    if people is not None:
        vectors = embed(embedder, [people.read(index) for index in range(len(people))], flip=flip)
        yield from identification_of(vectors, people.labels)
        yield from retrieval_of(vectors, people.labels)


def open_embedder(path: Path) -> Embedder:
    """The embedder of an ONNX file, a checkpoint, or a run."""
    return of_onnx(path) if path.suffix == ".onnx" else of_network(restore(path).network)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description="Measure a model.")
    parser.add_argument("model", type=Path, help="a run's folder, a checkpoint, or an ONNX file")
    parser.add_argument("--pairs", type=Path, action="append", default=[], help="a .bin set or LFW's list; repeatable")
    parser.add_argument("--crops", type=Path, help="the crops that a list of pairs names, PERSON/PHOTO.jpg")
    parser.add_argument("--people", type=Path, help="a folder of people, tar shards, or a .rec file")
    parser.add_argument("--flip", action="store_true", help="average each crop with its mirror image")
    asked = parser.parse_args(arguments)
    try:
        if not asked.pairs and asked.people is None:
            raise EvaluationError("give --pairs, --people, or both")
        embedder = open_embedder(asked.model)
        for path in asked.pairs:
            for figure in evaluate(embedder, pairs=open_pairs(path, asked.crops), flip=asked.flip):
                sys.stdout.write(json.dumps({"set": path.stem, **figure}) + "\n")
        if asked.people is not None:
            for figure in evaluate(embedder, people=open_source(asked.people), flip=asked.flip):
                sys.stdout.write(json.dumps({"set": asked.people.stem, **figure}) + "\n")
    except VultusError as error:
        sys.stderr.write(f"{error.title}: {error.detail}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
