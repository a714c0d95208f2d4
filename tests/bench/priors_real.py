"""The priors bench on real faces: LFW's people live, visit and pass by in a country of a million.

Everybody with several photos is a resident: one photo is enrolled, the others are visits at the device that the country
sends this resident to. Everybody with one photo is a stranger, who comes to several devices. The rest of the gallery
is drawn to LFW's measured impostor statistics: people of LFW fall into `GROUPS` groups of look-alikes, and a drawn one
is the middle of a group and the spread that is left within them all, Gaussian; the weight of the mean of all is chosen
so that as many of them pass the threshold of FMR 1e-4 as people of LFW do. How many pass other ones is reported, beside
people of LFW and among each other. (One Gaussian for all, of the same mean and covariance, has a far tail that is too
thin: real people have look-alikes.)

What scores mean is measured twice, each time by comparing people with the whole gallery as the service does: drawn
people of the gallery, and the templates of LFW's residents, which are what a gallery of real people would compare. The
mates are those of the shipped calibration.
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
from tests.bench.lfw_data import SAME_PERSON, Lfw, person_of
from tests.bench.loop import Loop
from tests.bench.priors_world import HABITS, Plan, plan, world
from tests.bench.report import Report, fresh_settings, note

DEVICES = 120
PASSES = 3
"""Devices that each stranger comes to."""

VISITS = 10
"""Of one resident, at most."""

GROUPS = 200
ROUNDS = 15
"""Of k-means."""

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
    twice = {other for _, other in SAME_PERSON}
    for name in sorted(embeddings):
        if person_of(name) not in twice:
            photos.setdefault(person_of(name), []).append(name)
    several = [names for names in photos.values() if len(names) > 1]
    probes = [(number, name) for number, names in enumerate(several) for name in names[1 : VISITS + 1]]
    return People(
        np.stack([embeddings[names[0]] for names in several]),
        np.stack([embeddings[name] for _, name in probes]),
        np.array([number for number, _ in probes]),
        np.stack([embeddings[names[0]] for names in photos.values() if len(names) == 1]),
    )


def groups(like: Vectors) -> tuple[Vectors, NDArray[np.int64]]:
    """The middles of groups of look-alikes (k-means), and the group of each, (n,)."""
    random = np.random.default_rng(0)
    middles = like[random.choice(len(like), GROUPS, replace=False)]
    for _ in range(ROUNDS):
        which = np.argmax(like @ middles.T - (middles**2).sum(axis=1) / 2, axis=1)
        counts = np.bincount(which, minlength=GROUPS)
        sums = np.zeros_like(middles)
        np.add.at(sums, which, like)
        middles[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return middles, which


def drawn(like: Vectors, scale: Calibration, count: int, report: Report) -> Vectors:
    """People whose cosines with real ones are distributed like those of real people."""
    random, mean = np.random.default_rng(1), like.mean(axis=0)
    middles, which = groups(like - mean)
    within = np.cov(like.T) - np.cov(middles[which].T)
    values, axes = np.linalg.eigh(within)
    root = (axes * np.sqrt(np.maximum(values, 1e-6))).astype(np.float32)

    def some(weight: float, size: int, source: np.random.Generator) -> Vectors:
        spread = source.standard_normal((size, like.shape[1]), np.float32) @ root.T
        made = (weight * mean + middles[source.choice(which, size)] + spread).astype(np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def passing(those: Vectors, rate: float) -> float:
        return float(np.mean(like[::2] @ those.T >= scale.threshold(rate)))

    low, high = 0.3, 2.0
    for _ in range(12):
        middle = (low + high) / 2
        passed = passing(some(middle, 10_000, np.random.default_rng(2)), 1e-4)
        low, high = (middle, high) if passed < 1e-4 else (low, middle)
    those = some(high, 20_000, np.random.default_rng(2))
    real_ones, pairs = like @ like.T, len(like) * (len(like) - 1)
    for rate in (1e-3, 1e-4, 1e-5, 1e-6):
        least = scale.threshold(rate)
        report.figure(
            "drawn_over_real_fmr",
            round(passing(those, rate) / rate, 2),
            "x",
            rate=rate,
            real=round((int((real_ones >= least).sum()) - len(like)) / pairs / rate, 2),
            among_themselves=round(float(np.mean(those[:10_000] @ those[10_000:].T >= least)) / rate, 2),
        )
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
    drawn_ones = np.sort(np.random.default_rng(4).permutation(people)[: int(np.ceil(4 / alpha))])
    scales = {"drawn people": measured(shipped, gallery, gallery[drawn_ones], drawn_ones)}
    if len(rows) >= 4 / alpha:
        scales["residents of LFW"] = measured(shipped, gallery, lfws.residents, np.where(living, rows, -1))
    told = {"alpha": alpha, "people": people, "certainty": rule.certainty, "source": "LFW"}
    ways = [
        Way(
            {**told, "measured_on": by},
            alpha,
            {int(device): plan(made, int(device), scale, scale, alpha, alpha) for device in devices},
            threshold(scale, people, alpha, insist=True).similarity,
            rule,
        )
        for by, scale in scales.items()
    ]
    visitors(report, lfws, gallery, np.where(living, rows, -1), at, ways)
    strangers(report, lfws, gallery, [random.choice(devices, PASSES, replace=False) for _ in lfws.strangers], ways)


@dataclass(frozen=True)
class Way:
    """What is expected at each device and the threshold of a plain search, by one scale; `told` names it."""

    told: dict[str, object]
    alpha: float
    plans: dict[int, Plan]
    plain: float
    rule: Rule


def visitors(
    report: Report, lfws: People, gallery: Vectors, rows: NDArray[np.int64], at: NDArray[np.int64], ways: list[Way]
) -> None:
    """FNIR with and without the prior of residents, who live in these rows (-1 for nowhere) and visit these devices."""
    note("visitors ...")
    visits = np.flatnonzero(rows[lfws.whose] >= 0)
    missed: list[list[tuple[bool, bool, bool]]] = [[] for _ in ways]
    for first in range(0, len(visits), 500):
        part = visits[first : first + 500]
        for place, near in zip(part, compared(lfws.probes[part], gallery), strict=True):
            row, device = int(rows[lfws.whose[place]]), int(at[lfws.whose[place]])
            for way, each in zip(ways, missed, strict=True):
                answer = asked(way.plans[device], lfws.probes[place], gallery, near, way.rule)
                found = answer.decision == "match" and int(answer.rows[0]) == row
                plainly = len(near[0]) > 0 and near[0][0] == row and near[1][0] >= way.plain
                each.append((not plainly, not found, answer.decision == "match" and not found))
    for way, each in zip(ways, missed, strict=True):
        without, with_, wrong = np.array(each).T
        more = {**way.told, "plain_threshold": round(way.plain, 3), "somebody_else": int(wrong.sum())}
        over_people(report, without, with_, lfws.whose[visits], more)


def strangers(
    report: Report, lfws: People, gallery: Vectors, comes_to: list[NDArray[np.int64]], ways: list[Way]
) -> None:
    """FPIR of strangers, each of whom comes to some devices."""
    note("strangers ...")
    taken = np.zeros((len(ways), len(lfws.strangers), PASSES), bool)
    for first in range(0, len(lfws.strangers), 500):
        part = lfws.strangers[first : first + 500]
        for place, near in enumerate(compared(part, gallery)):
            for turn, device in enumerate(comes_to[first + place].tolist()):
                for number, way in enumerate(ways):
                    answer = asked(way.plans[device], part[place], gallery, near, way.rule)
                    taken[number, first + place, turn] = answer.decision == "match"
    for way, errors in zip(ways, taken, strict=True):
        each, again = errors.mean(axis=1), np.random.default_rng(0)
        shares = [again.choice(each, len(each)).mean() for _ in range(BOOTSTRAPS)]
        low, high = np.quantile(shares, [0.025, 0.975]) / way.alpha
        report.figure(
            "fpir_over_target",
            round(float(each.mean()) / way.alpha, 3),
            "x",
            arm="real faces",
            low=round(float(low), 2),
            high=round(float(high), 2),
            errors=int(errors.sum()),
            people_taken=int((each > 0).sum()),
            searches=errors.size,
            **way.told,
        )


def measured(shipped: Calibration, gallery: Vectors, probes: Vectors, own: NDArray[np.int64]) -> Calibration:
    """What the gallery's scores mean, by comparing people with all of it; `own` is the row of each, -1 for none."""
    tally = Tally(shipped, len(probes) * len(gallery))
    for first in range(0, len(gallery), BLOCK):
        block = probes @ gallery[first : first + BLOCK].T
        # Nobody is an impostor of themselves; the few pairs of two probes count twice.
        here = np.flatnonzero((own >= first) & (own < first + BLOCK))
        block[here, own[here] - first] = np.nan
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
