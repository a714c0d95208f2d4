"""The priors bench on real faces: LFW's people live, visit and pass by in a country of a million.

Everybody with several photos is a resident: one photo is enrolled, the others are visits at the device that the country
sends this resident to. Everybody with one photo is a stranger, who comes to several devices. The rest of the gallery
is drawn to LFW's measured impostor statistics: Gaussian directions with the mean and the covariance of its people, the
weight of the mean chosen so that as many of them pass the threshold of FMR 1e-4 as people of LFW do; how many pass
stricter ones is reported. The scale is the gallery's own, from its templates compared with each other, as the service
measures it; the mates are those of the shipped calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artifact.store import ModelStore
from service.identify.calibration import Calibration
from service.identify.decision import threshold
from service.identify.impostors import Tally
from service.identify.planner import Found, Rule, look
from service.recognition.product import calibration_of
from service.settings import CHECKOUT
from tests.bench.lfw_data import Lfw, person_of
from tests.bench.loop import Loop
from tests.bench.priors_world import HABITS, Plan, plan, world
from tests.bench.report import Report, fresh_settings, note

DEVICES = 40
PASSES = 3
"""Devices that each stranger comes to."""

PROBES = 4_000
"""Visits of residents, at most."""

KEPT_FROM = 0.36
BLOCK = 20_000
BOOTSTRAPS = 500
Vectors = NDArray[np.float32]


@dataclass
class People:
    """LFW's people: `residents` (n, dim) with the visits `probes` of `whose`, and strangers (m, dim)."""

    residents: Vectors
    probes: Vectors
    whose: NDArray[np.int64]
    strangers: Vectors


def embedded(lfw: Lfw, file: Path | None) -> dict[str, Vectors]:
    """An embedding of every photo with a face; read from a file or kept there, where one is named."""
    if file is not None and file.is_file():
        kept = np.load(file)
        names, rows = kept["names"].tolist(), kept["e"]
    else:
        names = sorted(lfw.photos)
        with fresh_settings() as folder:
            loop = Loop(engine="onnxruntime", memory=folder / "engines.json")
            rows, _ = loop.embed([lfw.photos[name] for name in names])
        if file is not None:
            np.savez(file, names=np.array(names), e=rows)
    return {name: row for name, row in zip(names, rows, strict=True) if row.any()}


def people_of(embeddings: dict[str, Vectors]) -> People:
    """Who lives here, who visits, who passes by."""
    photos: dict[str, list[str]] = {}
    for name in sorted(embeddings):
        photos.setdefault(person_of(name), []).append(name)
    several = [names for names in photos.values() if len(names) > 1]
    probes = [(number, name) for number, names in enumerate(several) for name in names[1:]]
    chosen = np.sort(np.random.default_rng(0).permutation(len(probes))[:PROBES])
    return People(
        np.stack([embeddings[names[0]] for names in several]),
        np.stack([embeddings[probes[place][1]] for place in chosen]),
        np.array([probes[place][0] for place in chosen]),
        np.stack([embeddings[names[0]] for names in photos.values() if len(names) == 1]),
    )


def drawn(like: Vectors, scale: Calibration, count: int, report: Report) -> Vectors:
    """People whose cosines with real ones are distributed like those of real people."""
    random, mean = np.random.default_rng(1), like.mean(axis=0)
    root = np.linalg.cholesky(np.cov(like.T) + 1e-6 * np.eye(like.shape[1])).astype(np.float32)

    def some(weight: float, size: int, source: np.random.Generator) -> Vectors:
        made = (weight * mean + source.standard_normal((size, like.shape[1]), np.float32) @ root.T).astype(np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def passing(weight: float, rate: float) -> float:
        return float(np.mean(like[:2_000] @ some(weight, 20_000, np.random.default_rng(2)).T >= scale.threshold(rate)))

    low, high = 0.3, 2.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if passing(middle, 1e-4) < 1e-4 else (low, middle)
    for rate in (1e-3, 1e-4, 1e-5, 1e-6):
        report.figure("drawn_over_real_fmr", round(passing(high, rate) / rate, 2), "x", rate=rate)
    made = np.empty((count, like.shape[1]), np.float32)
    for first in range(0, count, BLOCK):
        made[first : first + BLOCK] = some(high, min(BLOCK, count - first), random)
    return made


def compared(probes: Vectors, gallery: Vectors) -> list[tuple[NDArray[np.int64], Vectors]]:
    """For each probe everybody who scores at least `KEPT_FROM`, the best first: what an exact search would return."""
    rows: list[list[NDArray[np.int64]]] = [[] for _ in probes]
    scores: list[list[Vectors]] = [[] for _ in probes]
    for first in range(0, len(gallery), BLOCK):
        block = probes @ gallery[first : first + BLOCK].T
        which, who = np.nonzero(block >= KEPT_FROM)
        ends = np.searchsorted(which, np.arange(1, len(probes)))
        for place, (rows_, scores_) in enumerate(
            zip(np.split(who + first, ends), np.split(block[which, who], ends), strict=True)
        ):
            rows[place].append(rows_)
            scores[place].append(scores_)
    found = []
    for rows_, scores_ in zip(rows, scores, strict=True):
        both = np.concatenate(rows_), np.concatenate(scores_)
        order = np.argsort(-both[1])[:200]
        found.append((both[0][order], both[1][order]))
    return found


def real(report: Report, lfw: Lfw, people: int, alpha: float, rule: Rule, file: Path | None) -> None:
    """FNIR and FPIR of LFW's people among so many, with and without the prior."""
    shipped = calibration_of(ModelStore(CHECKOUT / "models").manifest("sface"))
    lfws = people_of(embedded(lfw, file))
    note("drawing the others ...")
    gallery = drawn(np.concatenate([lfws.residents, lfws.strangers]), shipped, people, report)
    made = world(people, 400, 4_000)
    random = np.random.default_rng(3)
    devices = random.choice(4_000, DEVICES, replace=False)
    at = random.choice(devices, len(lfws.residents))
    rows = made.visitors(at)
    _, once = np.unique(rows, return_index=True)
    living = np.zeros(len(rows), bool)
    living[once] = True
    gallery[rows[living]] = lfws.residents[living]
    note("measuring the gallery on its own people ...")
    scale = measured(shipped, gallery, people, alpha)
    plans = {int(device): plan(made, int(device), scale, scale, alpha, alpha) for device in devices}
    plain = threshold(scale, people, alpha, insist=True).similarity
    told = {"alpha": alpha, "people": people, "certainty": rule.certainty, "source": "LFW"}
    note("visitors ...")
    visits = np.flatnonzero(living[lfws.whose])
    missed, missed_plain, wrong = [], [], 0
    for first in range(0, len(visits), 500):
        part = visits[first : first + 500]
        for place, near in zip(part, compared(lfws.probes[part], gallery), strict=True):
            row = int(rows[lfws.whose[place]])
            answer = asked(plans[int(at[lfws.whose[place]])], lfws.probes[place], gallery, near, rule)
            found = answer.decision == "match" and int(answer.rows[0]) == row
            missed.append(not found)
            wrong += answer.decision == "match" and not found
            missed_plain.append(not (len(near[0]) and near[0][0] == row and near[1][0] >= plain))
    over_people(report, np.array(missed_plain), np.array(missed), lfws.whose[visits], {**told, "somebody_else": wrong})
    note("strangers ...")
    taken = np.zeros((len(lfws.strangers), PASSES), bool)
    for first in range(0, len(lfws.strangers), 500):
        part = lfws.strangers[first : first + 500]
        for place, near in enumerate(compared(part, gallery)):
            for turn, device in enumerate(random.choice(devices, PASSES, replace=False).tolist()):
                taken[first + place, turn] = asked(plans[device], part[place], gallery, near, rule).decision == "match"
    each = taken.mean(axis=1)
    again = np.random.default_rng(0)
    shares = [again.choice(each, len(each)).mean() for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(shares, [0.025, 0.975]) / alpha
    report.figure(
        "fpir_over_target",
        round(float(each.mean()) / alpha, 3),
        "x",
        arm="real faces",
        low=round(float(low), 2),
        high=round(float(high), 2),
        errors=int(taken.sum()),
        searches=taken.size,
        **told,
    )


def measured(shipped: Calibration, gallery: Vectors, people: int, alpha: float) -> Calibration:
    """What the gallery's scores mean, by comparing so many of its people with all as the rate needs."""
    probes = int(np.ceil(4 / alpha))
    tally = Tally(shipped, probes * people)
    chosen = np.sort(np.random.default_rng(4).permutation(people)[:probes])
    for first in range(0, people, BLOCK):
        block = gallery[chosen] @ gallery[first : first + BLOCK].T
        # Nobody is an impostor of themselves; the few pairs of two probes count twice.
        own = chosen[(chosen >= first) & (chosen < first + BLOCK)]
        block[np.searchsorted(chosen, own), own - first] = np.nan
        tally.add(block[~np.isnan(block)])
    return tally.fitted()


def asked(here: Plan, probe: Vectors, gallery: Vectors, near: tuple[NDArray[np.int64], Vectors], rule: Rule) -> Found:
    """The service's own look at a real probe."""
    return look(
        here.budget,
        rule,
        HABITS,
        here.tiers,
        lambda rows: gallery[rows] @ probe,
        lambda k: (near[0][:k], near[1][:k]),
        top=5,
    )


def over_people(
    report: Report,
    plain: NDArray[np.bool_],
    prior: NDArray[np.bool_],
    whose: NDArray[np.int64],
    told: dict[str, object],
) -> None:
    """The ratio of misses with a 95 % interval by bootstrap over people."""
    random, ratios = np.random.default_rng(0), []
    _, person = np.unique(whose, return_inverse=True)
    misses = np.stack([np.bincount(person, each) for each in (plain, prior)])
    for _ in range(BOOTSTRAPS):
        without, with_ = misses[:, random.integers(0, misses.shape[1], misses.shape[1])].sum(axis=1)
        ratios.append(without / max(with_, 0.5))
    low, high = np.quantile(ratios, [0.025, 0.975])
    report.figure(
        "fnir_ratio",
        round(float(plain.sum() / max(prior.sum(), 0.5)), 3),
        "x",
        low=round(float(low), 2),
        high=round(float(high), 2),
        misses=[int(plain.sum()), int(prior.sum())],
        searches=len(plain),
        **told,
    )
