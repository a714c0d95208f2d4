"""What a prior is worth, and what it may never cost: `python -m tests.bench.priors`.

A made-up country (`priors_world`) visits its devices; every answer comes from the service's own prior, budget and
planner. Scores are synthetic (`priors_scores`), of two effective dimensions, or those of a real index where time is
measured; what a change of the gallery costs is measured on a real catalog (`priors_revisions`). A last part
(`priors_real`) does the same with the faces of LFW.

Arms in which strangers are counted (`priors_strangers`): the history is right; the homes on file are wrong for a fifth
of the people; half of the regulars of each device have changed since; neighbours look alike, with a scale of their own
and, in safe mode, without; every stranger claims to be somebody, or says to be at a device of somebody's own; and every
stranger types digits when asked. Each is counted in safe mode as well.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery.index.local import LocalIndex
from service.identify.attributes import Known, Observable, weighed
from service.identify.budget import Budget, floors, share_out
from service.identify.calibration import Calibration, fit
from service.identify.cost import cllr, min_cllr
from service.identify.decision import threshold
from service.identify.planner import ASK_SHARE, Found, Rule, Score, Search, look
from tests.bench.indexed import index_of
from tests.bench.lfw import TRAINING_FOLDS, all_pairs
from tests.bench.lfw_data import SAME_PERSON, Lfw, load_lfw, person_of
from tests.bench.loop import Loop
from tests.bench.priors_habits import fitted
from tests.bench.priors_real import real
from tests.bench.priors_reliability import reliability
from tests.bench.priors_revisions import revisions
from tests.bench.priors_scores import Scorer, scale
from tests.bench.priors_strangers import DIGITS, Strangers, second, typed
from tests.bench.priors_world import HABITS, Plan, World, plan, world
from tests.bench.report import Report, chart, fresh_settings, note, parser

DIMENSIONS = (120, 250)
BOOTSTRAPS = 500
CERTAINTIES = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
INDEXED_DIM = 64
PARTS = ["mated", "reliability", "strangers", "time", "revisions", "calibration", "real"]


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    people: int
    regions: int
    devices: int
    visited: int
    mated: int
    reliability: int
    strangers: int
    alphas: tuple[float, ...]
    indexed: tuple[int, ...]


FULL = Size(1_000_000, 400, 4_000, 40, 12_000, 200_000, 1_000_000, (1e-3, 3e-3), (100_000, 1_000_000, 10_000_000))
QUICK = Size(50_000, 40, 400, 20, 1_500, 4_000, 20_000, (3e-3,), (10_000, 50_000))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--strangers", type=int, help="strangers in each arm")
    options.add_argument("--indexed", type=int, action="append", help="only galleries of this size are timed")
    options.add_argument("--visitors", type=int, help="visitors of the parts mated and reliability")
    options.add_argument("--dimension", type=int, action="append", help="only these effective dimensions; 0 for none")
    options.add_argument("--alpha", type=float, action="append", help="only these target rates")
    options.add_argument("--certainty", type=float, default=Rule().certainty, help="least posterior of a match")
    options.add_argument("--cap", type=float, default=HABITS.cap, help="most that a context may lift a person")
    options.add_argument("--fitted", action="store_true", help="fit the prior to the visits before anything is counted")
    options.add_argument("--scales", type=int, default=1, help="of pairs of their own, that devices have in turn")
    options.add_argument("--embeddings", type=Path, help="file that keeps the embeddings of LFW between runs")
    options.add_argument("--only", choices=PARTS, help="only this part")
    options.add_argument("--out", type=Path, help="folder for plots")
    asked = options.parse_args()
    size = QUICK if asked.quick else FULL
    size = replace(
        size,
        mated=asked.visitors or size.mated,
        reliability=asked.visitors or size.reliability,
        strangers=asked.strangers or size.strangers,
        alphas=tuple(asked.alpha) if asked.alpha else size.alphas,
        indexed=tuple(asked.indexed) if asked.indexed else size.indexed,
    )
    lfw = load_lfw(asked.data)
    report = Report("priors")
    if asked.only in {None, "calibration"}:
        calibration_loss(report, lfw, quick=asked.quick)
    if asked.only in {None, "mated", "reliability", "strangers"}:
        synthetic(report, size, asked)
    if asked.only in {None, "time"}:
        search_time(report, size, asked)
    if asked.only in {None, "revisions"}:
        revisions(report, size.people)
    if asked.only == "real" or (asked.only is None and not asked.quick):
        for alpha in size.alphas:
            real(report, lfw, size.people, alpha, Rule(certainty=asked.certainty), asked.embeddings)
    report.table()


def synthetic(report: Report, size: Size, asked: argparse.Namespace) -> None:
    """Every effective dimension at every target rate."""
    made = world(size.people, size.regions, size.devices)
    made = replace(made, habits=replace(made.habits, cap=asked.cap))
    if asked.fitted:
        made = fitted(report, made, list(range(size.visited)))
    for dimension in asked.dimension or DIMENSIONS:
        for alpha in size.alphas:
            note(f"d = {dimension}, alpha = {alpha:g} ...")
            bench = Bench(report, size, made, dimension, alpha, Rule(certainty=asked.certainty))
            if asked.only in {None, "mated"}:
                bench.mated()
            if asked.only in {None, "reliability"}:
                more = {**bench.told, "scales": asked.scales}
                reliability(report, made, bench.plans(asked.scales), bench.scale, bench.rule, size.reliability, more)
            if asked.only in {None, "strangers"}:
                strangers = Strangers(report, made, bench.devices, dimension, alpha, size.strangers, bench.rule)
                strangers.scales()
                strangers.arms()


class Bench:
    """Visitors who are enrolled, of one effective dimension and at one target rate."""

    def __init__(self, report: Report, size: Size, made: World, dimension: int, alpha: float, rule: Rule) -> None:
        self.report, self.size, self.world, self.dimension, self.alpha = report, size, made, dimension, alpha
        self.rule = rule
        self.told: dict[str, object] = {"d_eff": dimension, "alpha": alpha, "people": size.people}
        self.told |= {"certainty": rule.certainty, "cap": made.habits.cap, "eps": made.habits.eps}
        self.random = np.random.default_rng(dimension)
        self.pairs = int(60 * size.people / alpha)
        self.scale = scale(dimension, 0.0, self.pairs, 0)
        self.devices: list[int] = self.random.choice(size.devices, size.visited, replace=False).tolist()

    def plans(self, scales: int = 1) -> dict[int, Plan]:
        """What is expected at each device, by so many scales that were each fitted to other pairs."""
        found = {}
        for seed in range(scales):
            its = scale(self.dimension, 0.0, self.pairs, seed)
            for device in self.devices[seed::scales]:
                found[device] = plan(self.world, device, its, its, self.alpha, self.alpha)
        return found

    def mated(self) -> None:
        """FNIR of visitors who are enrolled, with the prior, without, with hard tiers, and with digits."""
        size, plain = self.size, threshold(self.scale, self.size.people, self.alpha, insist=True).similarity
        plans = self.plans()
        share = self.alpha * (1 - ASK_SHARE)
        asking = {d: plan(self.world, d, self.scale, self.scale, share, self.alpha) for d in self.devices}
        devices = self.random.choice(self.devices, size.mated)
        visitors = self.world.visitors(devices)
        missed, missed_plain, missed_digits, scored, known, cosines, tier = ([] for _ in range(7))
        by_certainty = np.zeros((len(CERTAINTIES), 2), np.int64)
        for device, row in zip(devices.tolist(), visitors.tolist(), strict=True):
            here = plans[device]
            probe = Scorer(self.world, self.random, self.dimension, row)
            found = self.look(here, self.rule, probe)
            missed.append(not right(found, row))
            missed_plain.append(probe.mated < plain)
            missed_digits.append(not right(self.twice(asking[device], row, probe.mated), row))
            scored.append(sum(each.scored for each in found.tiers) / size.people)
            is_known = bool(here.budget.prior.names(np.array([row]))[0])
            known.append(is_known)
            cosines.append(probe.mated)
            tier.append(0 if row in here.tiers[0].rows else 1 if is_known else 2)
            posterior = float(found.posteriors[0]) if len(found.rows) else 0.0
            for place, certainty in enumerate(CERTAINTIES):
                again = found
                if posterior < certainty or certainty < self.rule.certainty:
                    again = self.look(here, replace(self.rule, certainty=certainty), probe)
                by_certainty[place] += again.decision != "match", again.decision == "match" and not right(again, row)
        miss, plainly, digits, familiar = (np.array(each) for each in (missed, missed_plain, missed_digits, known))
        more = {**self.told, "searches": size.mated, "known": round(float(familiar.mean()), 3)}
        self.ratio("fnir_ratio", plainly, miss, more)
        self.ratio("strangers_fnir_ratio", miss[~familiar], plainly[~familiar], more)
        self.ratio("digits_ratio", miss, digits, more)
        hard, shares = hard_tiers(np.array(cosines), np.array(tier), self.scale, plans, size.people, self.alpha)
        self.ratio("hard_tiers_over_posterior", hard, miss, {**more, "shares": shares})
        self.report.figure(
            "scored_share_median", round(100 * float(np.median(np.array(scored)[familiar])), 4), "%", **more
        )
        for certainty, (none, other) in zip(CERTAINTIES, by_certainty.tolist(), strict=True):
            fnir = (none + other) / size.mated
            told_ = {**self.told, "certainty": certainty, "misses": none + other, "somebody_else": other}
            self.report.figure("fnir_at_certainty", round(100 * fnir, 3), "%", **told_)

    def look(self, here: Plan, rule: Rule, probe: Scorer) -> Found:
        """The service's own look at a probe."""
        return look(here.budget, rule, self.world.habits, here.tiers, probe.score, probe.search, top=5)

    def twice(self, here: Plan, row: int, mated: float) -> Found:
        """The answer of a visitor who is asked for digits where that helps, and mistypes them now and then."""
        probe = Scorer(self.world, self.random, self.dimension, row, forced={row: mated})
        probe.forced[row] = mated
        found = self.look(here, replace(self.rule, digits=DIGITS), probe)
        if found.decision != "ask":
            return found
        matches = typed(self.world, self.random, row)
        return self.look(second(here, matches, self.alpha), self.rule, probe)

    def ratio(self, figure: str, over: NDArray[np.bool_], under: NDArray[np.bool_], more: dict[str, object]) -> None:
        """The ratio of two rates of misses of the same searches, with a 95 % interval by bootstrap."""
        random, count = np.random.default_rng(0), len(over)
        ratios = []
        for _ in range(BOOTSTRAPS):
            drawn = random.integers(0, count, count)
            ratios.append(over[drawn].mean() / max(under[drawn].mean(), 0.5 / count))
        low, high = np.quantile(ratios, [0.025, 0.975])
        value = over.mean() / max(under.mean(), 0.5 / count)
        self.report.figure(
            figure,
            round(float(value), 3),
            "x",
            low=round(float(low), 2),
            high=round(float(high), 2),
            misses=[int(over.sum()), int(under.sum())],
            **more,
        )


def right(found: Found, row: int) -> bool:
    """Whether the answer is this person."""
    return found.decision == "match" and int(found.rows[0]) == row


def hard_tiers(
    cosines: NDArray[np.float64],
    tier: NDArray[np.int64],
    made: Calibration,
    plans: dict[int, Plan],
    people: int,
    alpha: float,
) -> tuple[NDArray[np.bool_], list[float]]:
    """Who is missed by fixed tiers (device, cell and region, everybody) at the best way to share alpha among them.

    Bound by the same 1:1 floor, and generous otherwise: whoever passes the threshold of the own tier counts as found,
    and the shares are chosen on the very searches that they are judged by.
    """
    floor = floors(alpha, people).fmr
    sizes = [float(np.median([len(each.tiers[0].rows) for each in plans.values()])), 2000.0, float(people)]
    best, chosen = np.ones(len(cosines), bool), [0.0, 0.0]
    for first in np.linspace(0.05, 0.9, 18):
        for other in np.linspace(0.05, 0.9, 18):
            if first + other < 1:
                shares = np.array([first, other, 1 - first - other]) * alpha / np.array(sizes)
                least = [made.threshold(min(max(float(s), made.least_fmr), floor)) for s in shares]
                missed = cosines < np.array(least)[tier]
                if missed.sum() < best.sum():
                    best, chosen = missed, [round(float(first), 2), round(float(other), 2)]
    return best, chosen


def search_time(report: Report, size: Size, asked: argparse.Namespace) -> None:
    """The search part of identify for a known visitor, over a real index, on one thread."""
    medians = []
    for people in size.indexed:
        made = world(people, max(20, people // 2_500), max(40, min(people // 250, 4_000)))
        random = np.random.default_rng(0)
        with index_of(INDEXED_DIM) as (index, settle):
            for first in range(0, people, 50_000):
                drawn = random.standard_normal((min(50_000, people - first), INDEXED_DIM), np.float32)
                drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
                index.add(np.arange(first, first + len(drawn)), drawn)
            settle()
            here_scale = scale(INDEXED_DIM, 0.0, int(20 * people / 3e-3))
            note(f"searching {people:,} people ...")
            spent = []
            for device in random.choice(len(made.where), 20, replace=False).tolist():
                here = plan(made, device, here_scale, here_scale, 3e-3, 3e-3)
                for row in made.visitors(np.full(10, device)).tolist():
                    if not here.budget.prior.names(np.array([row]))[0]:
                        continue
                    mate = index.score(np.eye(INDEXED_DIM, dtype=np.float32), np.array([row]))[:, 0]
                    probe = 0.75 * mate + np.sqrt(1 - 0.75**2) * drawn[int(random.integers(0, len(drawn)))]
                    probe = (probe / np.linalg.norm(probe)).astype(np.float32)[None]

                    started = time.perf_counter()
                    look(here.budget, Rule(certainty=asked.certainty), HABITS, here.tiers, *over(index, probe), top=5)
                    spent.append(1000 * (time.perf_counter() - started))
            medians.append(float(np.median(spent)))
            told_ = {"people": people, "searches": len(spent), "p95": round(float(np.quantile(spent, 0.95)), 3)}
            report.figure("search_ms_median", round(medians[-1], 3), "ms", dim=INDEXED_DIM, **told_)
        observed_time(report, made, here.budget)
        note(f"{people:,} people done")
        del made
    chart(asked.out, "priors_search_ms", {"prior on": (list(size.indexed), medians)}, x="people", y="ms", log_x=True)


def observed_time(report: Report, made: World, budget: Budget, turns: int = 20) -> None:
    """What a request costs more that says what was seen beside the face; no plan is kept for such a one."""
    random = np.random.default_rng(0)
    height, gender = Known(), Known()
    height.which = height.places(np.round(random.normal(172, 9, made.people)).tolist())
    gender.which = gender.places(random.integers(0, 2, made.people).astype(float).tolist())
    spent = []
    for _ in range(turns):
        started = time.perf_counter()
        seen = height.logs(Observable("number", spread=4.0), 168, 172) + gender.logs(Observable("category"), 1, 1)
        before = weighed(budget.prior, seen)
        local = np.repeat(budget.scales.local, len(before.others) // len(budget.scales.local))
        share_out(before, replace(budget.scales, local=local), 3e-3, budget.floors, insist=True)
        spent.append(1000 * (time.perf_counter() - started))
    report.figure("observed_ms_median", round(float(np.median(spent)), 2), "ms", people=made.people, attributes=2)


def over(index: LocalIndex, probe: NDArray[np.float32]) -> tuple[Score, Search]:
    """How the planner reaches an index."""

    def search(k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = index.search(probe, k)
        return found.rows[0], found.scores[0]

    return lambda rows: index.score(probe, rows)[0], search


def calibration_loss(report: Report, lfw: Lfw, *, quick: bool) -> None:
    """Cllr less minCllr on people whom the calibration has not seen: LFW folds 8 to 10."""
    folds = lfw.folds_of_people()
    names = sorted({name for pair in lfw.pairs for name in (pair.a, pair.b)})
    if quick:
        names = [name for name in names if folds[person_of(name)] in {0, 9}]
    with fresh_settings() as folder:
        rows, _ = Loop(engine="auto", memory=folder / "engines.json").embed([lfw.photos[name] for name in names])
    embeddings = {name: row for name, row in zip(names, rows, strict=True) if row.any()}
    training = [name for name in embeddings if folds[person_of(name)] in TRAINING_FOLDS]
    testing = [name for name in embeddings if folds[person_of(name)] not in TRAINING_FOLDS]
    fitted = fit(*all_pairs(embeddings, training, without=SAME_PERSON))
    mated, impostor = all_pairs(embeddings, testing, without=SAME_PERSON)
    some = np.random.default_rng(0).integers(0, len(impostor), min(len(impostor), 1_000_000))
    cost, least = cllr(fitted.llr(mated), fitted.llr(impostor[some])), min_cllr(mated, impostor[some])
    report.figure(
        "cllr_loss",
        round(cost - least, 4),
        "bits",
        cllr=round(cost, 4),
        min_cllr=round(least, 4),
        mated=len(mated),
        impostor=len(some),
        complete=not quick,
    )


if __name__ == "__main__":
    main()
