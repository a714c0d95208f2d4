"""Accuracy on Labeled Faces in the Wild: `python -m tests.bench.lfw`.

Verification follows the published protocol (View 2, unrestricted, labelled outside data): for each of ten folds the
threshold is chosen on the other nine. Open-set identification enrols one photo of everybody who has several, probes
with the rest, and takes everybody with one photo as an unknown visitor; people known and unknown are thus apart.

With `--url` the embeddings come from a running service (`--key` with the scope embed); otherwise from the same code in
this process. `--calibrate` fits the model's calibration on folds 1 to 7 and writes it into the manifest.
"""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from service.artifact.files import write_atomic
from service.artifact.manifest import CalibrationRecord, manifest_text, read_manifest
from service.identify.calibration import fit, logistic
from service.identify.cost import cllr
from service.settings import CHECKOUT
from tests.bench.indexed import index_of
from tests.bench.lfw_data import FOLDS, SAME_PERSON, Lfw, load_lfw, person_of
from tests.bench.loop import Loop
from tests.bench.report import Report, fresh_settings, note, parser

Embeddings = dict[str, NDArray[np.float32]]
BOOTSTRAPS = 200
TRAINING_FOLDS = range(7)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--engine", default="auto", help="engine of the recognition model")
    options.add_argument("--url", help="a running service")
    options.add_argument("--key", default="", help="an API key of it with the scope embed")
    options.add_argument("--calibrate", action="store_true", help="fit the calibration and write the manifest")
    options.add_argument("--quality", action="store_true", help="what the quality of faces would add to the LLR")
    asked = options.parse_args()
    lfw = load_lfw(asked.data)
    if asked.quick:
        lfw = part_of(lfw)
    report = Report("lfw")
    names = sorted(lfw.photos)
    if asked.url:
        embeddings, how = over_rest(asked.url, asked.key, lfw, names), {"through": "REST"}
    else:
        with fresh_settings() as folder:
            loop = Loop(engine=asked.engine, memory=folder / "engines.json")
            note(f"embedding {len(names)} photos with {loop.chosen.engine.name} ...")
            rows, stages = loop.embed([lfw.photos[name] for name in names])
            embeddings = dict(zip(names, rows, strict=True))
            how = {"engine": loop.chosen.engine.name}
            report.figure("photos_without_a_face", len(stages.missed), "photos", photos=len(names))
    verification(report, lfw, embeddings, how)
    identification(report, embeddings, how)
    held_out(report, lfw, embeddings, write=asked.calibrate)
    if asked.quality:
        with fresh_settings() as folder:
            quality_gain(report, lfw, embeddings, Loop(engine=asked.engine, memory=folder / "engines.json"))
    report.table()


def part_of(lfw: Lfw) -> Lfw:
    """Two folds, and about as many people again: enough to show every figure within a minute."""
    pairs = tuple(pair for pair in lfw.pairs if pair.fold in {0, 9})
    names = {name for pair in pairs for name in (pair.a, pair.b)}
    others = [name for name in sorted(lfw.photos) if person_of(name)[0] in "AB"]
    return Lfw({name: lfw.photos[name] for name in names | set(others)}, pairs)


def over_rest(url: str, key: str, lfw: Lfw, names: list[str]) -> Embeddings:
    """Embeddings of the central faces, from a running service."""
    client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def work(name: str) -> NDArray[np.float32]:
        answer = client.post("/v1/faces/embed", files={"photo": lfw.photos[name]})
        answer.raise_for_status()
        body = answer.json()
        if not body["faces"]:
            return np.zeros(body["dim"], np.float32)

        def distance(face: dict[str, Any]) -> float:
            box = face["box"]
            return abs(complex(box["x"] + box["width"] / 2 - 125, box["y"] + box["height"] / 2 - 125))

        return np.frombuffer(base64.b64decode(min(body["faces"], key=distance)["embedding"]), "<f4")

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))


# --- verification ---


def verification(report: Report, lfw: Lfw, embeddings: Embeddings, how: dict[str, Any]) -> None:
    """Ten-fold accuracy on the pairs, and TAR at FAR over every pair of their photos."""
    scores = np.array([float(embeddings[pair.a] @ embeddings[pair.b]) for pair in lfw.pairs])
    same = np.array([pair.same for pair in lfw.pairs])
    fold = np.array([pair.fold for pair in lfw.pairs])
    accuracies = [accuracy_of_fold(scores, same, fold == held) for held in np.unique(fold)]
    report.figure(
        "lfw_accuracy",
        round(100 * float(np.mean(accuracies)), 3),
        "%",
        spread_over_folds=round(100 * float(np.std(accuracies)), 2),
        folds=len(accuracies),
        complete=len(accuracies) == FOLDS,
        **how,
    )
    names = sorted({name for pair in lfw.pairs for name in (pair.a, pair.b)})
    mated, impostor = all_pairs(embeddings, names)
    for rate in (1e-2, 1e-3, 1e-4, 1e-5):
        errors = int(rate * len(impostor))
        if errors < 30:
            continue
        threshold = np.partition(impostor, len(impostor) - errors)[len(impostor) - errors]
        report.figure(
            f"tar_at_far_{rate:.0e}".replace("e-0", "e-"),
            round(100 * float(np.mean(mated >= threshold)), 3),
            "%",
            threshold=round(float(threshold), 4),
            mated=len(mated),
            impostor=len(impostor),
            false_accepts=errors,
        )


def accuracy_of_fold(scores: NDArray[np.float64], same: NDArray[np.bool_], held: NDArray[np.bool_]) -> float:
    """Accuracy on the fold that was held out, at the threshold that is best on the others.

    Where several thresholds are equally good on the others their middle one is taken.
    """
    candidates = np.unique(scores[~held]) if (~held).any() else np.array([0.35])
    training, truth = np.sort(scores[~held][same[~held]]), np.sort(scores[~held][~same[~held]])
    right = len(training) - np.searchsorted(training, candidates) + np.searchsorted(truth, candidates)
    best = candidates[np.flatnonzero(right == right.max())]
    threshold = float(np.median(best)) if len(best) else 0.35
    return float(np.mean((scores[held] >= threshold) == same[held]))


def all_pairs(
    embeddings: Embeddings, names: list[str], *, without: tuple[tuple[str, str], ...] = ()
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines of every mated and every impostor pair of the photos, the named pairs of people left out."""
    vectors = np.stack([embeddings[name] for name in names])
    people, codes = np.unique([person_of(name) for name in names], return_inverse=True)
    place = {str(person): number for number, person in enumerate(people)}
    barred = {(place[a], place[b]) for a, b in without if a in place and b in place}
    mated, impostor = [], []
    for row in range(len(names)):
        scores = vectors[row + 1 :] @ vectors[row]
        others = codes[row + 1 :]
        keep = np.ones(len(others), bool)
        for a, b in barred:
            if codes[row] in {a, b}:
                keep &= others != (b if codes[row] == a else a)
        is_mate = others == codes[row]
        mated.append(scores[is_mate])
        impostor.append(scores[~is_mate & keep])
    return np.concatenate(mated), np.concatenate(impostor)


# --- identification ---


@dataclass(frozen=True)
class Searched:
    """What searching the gallery gave, probe by probe."""

    mated_score: NDArray[np.float32]
    mated_first: NDArray[np.bool_]
    mated_person: NDArray[np.str_]
    unknown_score: NDArray[np.float32]


def identification(report: Report, embeddings: Embeddings, how: dict[str, Any]) -> None:
    """Open-set identification: FNIR at FPIR 1e-2 and rank 1, with intervals by bootstrap over people."""
    found = search(embeddings)
    mistakes = 0.01 * len(found.unknown_score)
    fnir, rank1 = open_set(found.mated_score, found.mated_first, found.unknown_score)
    random = np.random.default_rng(0)
    people = np.unique(found.mated_person)
    rows_of = {person: np.flatnonzero(found.mated_person == person) for person in people}
    drawn = []
    for _ in range(BOOTSTRAPS):
        rows = np.concatenate([rows_of[person] for person in random.choice(people, len(people))])
        unknown = random.choice(found.unknown_score, len(found.unknown_score))
        drawn.append(open_set(found.mated_score[rows], found.mated_first[rows], unknown))
    (low, low1), (high, high1) = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
    report.figure(
        "fnir_at_fpir_1e-2",
        round(100 * fnir, 3),
        "%",
        interval=[round(float(100 * low), 2), round(float(100 * high), 2)],
        enrolled=len(people),
        probes=len(found.mated_score),
        unknown=len(found.unknown_score),
        false_positives=int(mistakes),
        **how,
    )
    report.figure(
        "rank1", round(100 * rank1, 3), "%", interval=[round(float(100 * low1), 2), round(float(100 * high1), 2)]
    )


def search(embeddings: Embeddings) -> Searched:
    """Enrol the first photo of everybody who has several, probe with the others and with everybody else."""
    photos: dict[str, list[str]] = {}
    for name in sorted(embeddings):
        photos.setdefault(person_of(name), []).append(name)
    several = sorted(person for person, names in photos.items() if len(names) > 1)
    enrolled = [person for person in several if embeddings[photos[person][0]].any()]
    row_of = {person: row for row, person in enumerate(enrolled)}
    probes = [name for person in several for name in photos[person][1:]]
    strangers = [names[0] for person, names in sorted(photos.items()) if len(names) == 1]
    with index_of(len(next(iter(embeddings.values())))) as (index, _):
        index.add(np.arange(len(enrolled)), np.stack([embeddings[photos[person][0]] for person in enrolled]))
        mated = index.search(_units(embeddings, probes), 1)
        unknown = index.search(_units(embeddings, strangers), 1)
    truth = np.array([row_of.get(person_of(name), -2) for name in probes])
    seen = np.array([embeddings[name].any() for name in probes])
    return Searched(
        mated.scores[:, 0],
        (mated.rows[:, 0] == truth) & seen,
        np.array([person_of(n) for n in probes]),
        unknown.scores[:, 0],
    )


def _units(embeddings: Embeddings, names: list[str]) -> NDArray[np.float32]:
    """Probes; where no face was found any unit vector stands in, and never counts as found."""
    vectors = np.stack([embeddings[name] for name in names])
    vectors[~vectors.any(axis=1), 0] = 1
    return vectors


def open_set(
    scores: NDArray[np.float32], first: NDArray[np.bool_], unknown: NDArray[np.float32]
) -> tuple[float, float]:
    """FNIR at the threshold that one unknown visitor in a hundred reaches, and the share of mates at rank 1."""
    threshold = np.quantile(unknown, 0.99, method="higher")
    return float(np.mean(~(first & (scores > threshold)))), float(np.mean(first))


# --- calibration ---


def held_out(report: Report, lfw: Lfw, embeddings: Embeddings, *, write: bool) -> None:
    """Fit the calibration on people of folds 1 to 7 and see what it promises come true on those of 8 to 10."""
    folds = lfw.folds_of_people()
    if set(folds.values()) != set(range(FOLDS)):
        return
    names = sorted({name for pair in lfw.pairs for name in (pair.a, pair.b) if embeddings[name].any()})
    training = [name for name in names if folds[person_of(name)] in TRAINING_FOLDS]
    testing = [name for name in names if folds[person_of(name)] not in TRAINING_FOLDS]
    calibration = fit(*all_pairs(embeddings, training, without=SAME_PERSON))
    mated, impostor = all_pairs(embeddings, testing, without=SAME_PERSON)
    for rate in (1e-3, 1e-4, 1e-5):
        threshold = calibration.threshold(rate)
        report.figure(
            "held_out_fmr_over_target",
            round(float(np.mean(impostor >= threshold)) / rate, 3),
            "x",
            target=rate,
            threshold=round(threshold, 4),
            fnmr_percent=round(100 * float(np.mean(mated < threshold)), 2),
            false_matches=int(np.sum(impostor >= threshold)),
        )
    if write:
        path: Path = CHECKOUT / "models" / "sface" / "manifest.json"
        manifest = read_manifest(path)
        record = CalibrationRecord(
            data="LFW deep-funneled, all pairs of the photos of View 2 folds 1 to 7, double names left out",
            date=datetime.now(UTC).date().isoformat(),
            people=len({person_of(name) for name in training}),
            **asdict(calibration),
        )
        write_atomic(path, manifest_text(manifest.model_copy(update={"calibration": record})).encode())
        note(f"wrote the calibration into {path}")


def quality_gain(report: Report, lfw: Lfw, embeddings: Embeddings, loop: Loop) -> None:
    """What LLR(s, q) = a + b s + c min(q, q') tells more than a + b s of folds 8 to 10, both fitted on folds 1 to 7."""
    folds = lfw.folds_of_people()
    names = sorted({name for pair in lfw.pairs for name in (pair.a, pair.b) if embeddings[name].any()})
    with ThreadPoolExecutor(loop.threads) as pool:
        quality = dict(zip(names, pool.map(lambda name: loop.quality(lfw.photos[name]), names), strict=True))
    sets = []
    for held in (False, True):
        chosen = [name for name in names if (folds[person_of(name)] not in TRAINING_FOLDS) == held]
        codes = np.unique([person_of(name) for name in chosen], return_inverse=True)[1]
        vectors, lesser = np.stack([embeddings[name] for name in chosen]), np.array([quality[n] for n in chosen])
        one, other = np.triu_indices(len(chosen), 1)
        scores = (vectors @ vectors.T)[one, other]
        both, same = np.stack([scores, np.minimum(lesser[one], lesser[other])], axis=1), codes[one] == codes[other]
        impostor = both[~same]
        sets.append((both[same], impostor[np.random.default_rng(0).integers(0, len(impostor), 500_000)]))
    costs, beta = [], np.zeros(3)
    for features in (1, 2):
        beta = logistic(*(each[:, :features] for each in sets[0]))
        costs.append(cllr(*(beta[0] + each[:, :features] @ beta[1:] for each in sets[1])))
    more = {"cllr": round(costs[0], 5), "cosine_slope": round(float(beta[1]), 2), "slope": round(float(beta[2]), 3)}
    report.figure("quality_gain", round(costs[0] - costs[1], 5), "bits", **more)


if __name__ == "__main__":
    main()
