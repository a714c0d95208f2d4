"""What a prior is worth, and what it may never cost: `python -m tests.bench.priors`.

A made-up country (`priors_world`) visits its devices; every answer comes from the service's own prior, budget and
planner. Scores are synthetic, of two effective dimensions (the cosine of two strangers is N(0, 1/d)), or those of a
real index where time is measured. The calibration is measured on Labeled Faces in the Wild.

Arms in which strangers are counted: the history is right; the homes on file are wrong for a fifth of the people; half
of the regulars of each device have changed since; neighbours look alike, with a scale of their own and, in safe mode,
without; and every stranger claims to be somebody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.gallery.index.flat import FlatIndex
from service.identify.budget import floors, share_out
from service.identify.calibration import Calibration, fit
from service.identify.cost import cllr, min_cllr
from service.identify.decision import threshold
from service.identify.planner import ASK_SHARE, Found, Rule, Score, Search, Tier, in_order, look
from service.identify.prior import claimed, digits_given
from tests.bench.lfw import TRAINING_FOLDS, all_pairs
from tests.bench.lfw_data import SAME_PERSON, Lfw, load_lfw, person_of
from tests.bench.loop import Loop
from tests.bench.priors_world import HABITS, REGULARS, Plan, Scorer, World, calibrations, plan, world
from tests.bench.report import Report, fresh_settings, note, parser

DIMENSIONS = (120, 250)
DIGITS, SLIP = 4, 0.02
NOBODY = np.empty(0, np.int64)
BOOTSTRAPS = 500


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    people: int
    regions: int
    devices: int
    visited: int
    mated: int
    strangers: int
    alphas: tuple[float, ...]
    indexed: tuple[int, ...]


FULL = Size(1_000_000, 400, 4_000, 100, 6_000, 12_000, (1e-3, 3e-3), (100_000, 1_000_000))
QUICK = Size(50_000, 40, 400, 30, 1_500, 1_500, (3e-3,), (10_000, 50_000))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--strangers", type=int, help="strangers in each arm")
    options.add_argument("--dimension", type=int, action="append", help="only these effective dimensions")
    options.add_argument("--alpha", type=float, action="append", help="only these target rates")
    options.add_argument("--certainty", type=float, default=0.99, help="least posterior of a match")
    asked = options.parse_args()
    size = QUICK if asked.quick else FULL
    size = replace(
        size, strangers=asked.strangers or size.strangers, alphas=tuple(asked.alpha) if asked.alpha else size.alphas
    )
    lfw = load_lfw(asked.data)
    report = Report("priors")
    calibration_loss(report, lfw, quick=asked.quick)
    del lfw
    for dimension in asked.dimension or DIMENSIONS:
        for alpha in size.alphas:
            bench = Bench(report, size, dimension, alpha, Rule(certainty=asked.certainty))
            bench.mated()
            bench.strangers()
    search_time(report, size)
    report.table()


class Bench:
    """One effective dimension at one target rate."""

    def __init__(self, report: Report, size: Size, dimension: int, alpha: float, rule: Rule) -> None:
        note(f"d = {dimension}, alpha = {alpha:g} ...")
        self.report, self.size, self.dimension, self.alpha = report, size, dimension, alpha
        self.rule = rule
        self.told = {"d_eff": dimension, "alpha": alpha, "people": size.people, "certainty": rule.certainty}
        self.random = np.random.default_rng(dimension)
        self.pairs = int(60 * size.people / alpha)
        self.world = world(size.people, size.regions, size.devices)
        self.scale = calibrations(dimension, look_alikes=False, pairs=self.pairs)[1]
        self.devices = self.random.choice(size.devices, size.visited, replace=False)
        self.plans = self.planned(self.world, alpha)
        self.asking = self.planned(self.world, alpha * (1 - ASK_SHARE), whole=alpha)

    def planned(
        self, made: World, alpha: float, *, whole: float | None = None, near: Calibration | None = None
    ) -> dict[int, Plan]:
        return {
            int(device): plan(made, int(device), near or self.scale, self.scale, alpha, whole or alpha)
            for device in self.devices
        }

    # --- visitors who are enrolled ---

    def mated(self) -> None:
        """FNIR of visitors who are enrolled, with the prior, without, with hard tiers, and with digits."""
        size, plain = self.size, threshold(self.scale, self.size.people, self.alpha, insist=True).similarity
        devices = self.random.choice(self.devices, size.mated)
        visitors = self.world.visitors(devices)
        missed, missed_plain, missed_digits, scored, known, cosines, tier = ([] for _ in range(7))
        certain: list[tuple[float, bool]] = []
        for device, row in zip(devices.tolist(), visitors.tolist(), strict=True):
            here = self.plans[device]
            probe = Scorer(self.world, self.random, self.dimension, row, NOBODY, 0.0)
            found = look(here.budget, self.rule, HABITS, here.tiers, probe.score, probe.search, top=5)
            missed.append(not right(found, row))
            missed_plain.append(probe.mated < plain)
            missed_digits.append(not right(self.twice(device, row, probe.mated), row))
            scored.append(sum(each.scored for each in found.tiers) / size.people)
            is_known = bool(here.budget.prior.names(np.array([row]))[0])
            known.append(is_known)
            cosines.append(probe.mated)
            tier.append(0 if row in here.tiers[0].rows else 1 if is_known else 2)
            if len(found.rows):
                certain.append((float(found.posteriors[0]), bool(found.rows[0] == row)))
        miss, plainly, digits, familiar = (np.array(each) for each in (missed, missed_plain, missed_digits, known))
        more = {**self.told, "searches": size.mated, "known": round(float(familiar.mean()), 3)}
        self.ratio("fnir_ratio", plainly, miss, more)
        self.ratio("strangers_fnir_ratio", miss[~familiar], plainly[~familiar], more)
        self.ratio("digits_ratio", miss, digits, more)
        hard = hard_tiers(np.array(cosines), np.array(tier), self.scale, self.plans, size.people, self.alpha)
        self.report.figure("hard_tiers_over_posterior", round(hard / max(miss.mean(), 1e-9), 3), "x", fnir=hard, **more)
        share = float(np.median(np.array(scored)[familiar]))
        self.report.figure("scored_share_median", round(100 * share, 4), "%", **more)
        off, counted = reliability(certain)
        self.report.figure("reliability_worst_decile", round(100 * off, 2), "points", cases=counted, **self.told)

    def twice(self, device: int, row: int, mated: float) -> Found:
        """The answer of a visitor who is asked for digits where that helps, and mistypes them now and then."""
        here, random = self.asking[device], self.random
        probe = Scorer(self.world, random, self.dimension, row, NOBODY, 0.0)
        probe.mated = mated
        found = look(
            here.budget, replace(self.rule, digits=DIGITS), HABITS, here.tiers, probe.score, probe.search, top=5
        )
        if found.decision != "ask":
            return found
        matches = random.integers(0, self.size.people, random.poisson(self.size.people * 10.0**-DIGITS))
        if row >= 0 and random.random() >= SLIP:
            matches = np.append(matches, row)
        matches = np.unique(matches)
        before = digits_given(here.budget.prior, matches, DIGITS, HABITS)
        limits = floors(self.alpha, self.size.people, matches)
        budget = share_out(before, here.budget.scales, self.alpha * ASK_SHARE, limits, insist=True)
        tiers = in_order((Tier("digits", matches), *here.tiers), budget)
        return look(budget, self.rule, HABITS, tiers, probe.score_again, probe.search, top=5)

    def ratio(self, figure: str, over: NDArray[np.bool_], under: NDArray[np.bool_], more: dict[str, object]) -> None:
        """The ratio of two rates of misses of the same searches, with a 95 % interval by bootstrap."""
        random, count = np.random.default_rng(0), len(over)
        drawn = random.integers(0, count, (BOOTSTRAPS, count))
        ratios = over[drawn].mean(axis=1) / np.maximum(under[drawn].mean(axis=1), 0.5 / count)
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

    # --- strangers ---

    def strangers(self) -> None:
        """FPIR over its target, arm by arm."""
        alike, _ = calibrations(self.dimension, look_alikes=True, pairs=self.pairs)
        changed = replace_regulars(self.world)
        arms: dict[str, Callable[[], float]] = {
            "intact": lambda: self.taken(self.world, self.plans),
            "wrong homes": lambda: self.taken(self.world, self.planned(wrong_homes(self.world), self.alpha)),
            "drift": lambda: self.taken(changed, self.plans),
            "look-alikes": lambda: self.taken(self.world, self.planned(self.world, self.alpha, near=alike), shift=True),
            "look-alikes, safe": lambda: self.taken(self.world, self.plans, shift=True, safe=True),
            "spoofed claim": lambda: self.taken(self.world, self.plans, claims=True),
            "digits": self.taken_twice,
        }
        for arm, run in arms.items():
            over = run() / self.alpha
            errors = round(over * self.alpha * self.size.strangers)
            low, high = poisson_interval(errors)
            scale = 1 / (self.size.strangers * self.alpha)
            self.report.figure(
                "fpir_over_target",
                round(over, 3),
                "x",
                arm=arm,
                low=round(low * scale, 2),
                high=round(high * scale, 2),
                errors=errors,
                searches=self.size.strangers,
                **self.told,
            )

    def taken(
        self,
        made: World,
        plans: dict[int, Plan],
        *,
        shift: bool = False,
        claims: bool = False,
        safe: bool = False,
    ) -> float:
        """The share of strangers who are taken for somebody."""
        wrong = 0
        alike = {d: np.flatnonzero(made.homes == made.where[d]) for d in plans} if shift else {}
        for device in self.random.choice(self.devices, self.size.strangers).tolist():
            here = plans[device]
            near = np.union1d(alike[device], here.budget.prior.rows) if shift else NOBODY
            probe = Scorer(made, self.random, self.dimension, -1, near, 0.05 if shift else 0.0)
            budget, tiers = here.budget, here.tiers
            if claims:
                target = int(self.random.integers(0, made.people))
                budget = share_out(
                    claimed(budget.prior, target),
                    budget.scales,
                    self.alpha,
                    floors(self.alpha, made.people),
                    insist=True,
                )
                tiers = [Tier("claim", np.array([target])), *tiers]
            found = look(budget, replace(self.rule, safe=safe), HABITS, tiers, probe.score, probe.search, top=5)
            wrong += found.decision == "match"
        return wrong / self.size.strangers

    def taken_twice(self) -> float:
        """The share of strangers who are taken for somebody at the first look or, with any digits, at the second."""
        devices = self.random.choice(self.devices, self.size.strangers).tolist()
        return sum(self.twice(device, -1, 0.0).decision == "match" for device in devices) / self.size.strangers


def right(found: Found, row: int) -> bool:
    """Whether the answer is this person."""
    return found.decision == "match" and int(found.rows[0]) == row


def hard_tiers(
    cosines: NDArray[np.float64],
    tier: NDArray[np.int64],
    scale: Calibration,
    plans: dict[int, Plan],
    people: int,
    alpha: float,
) -> float:
    """The least FNIR of fixed tiers (device, cell and region, everybody), over all ways to share alpha among them.

    Bound by the same 1:1 floor, and generous otherwise: whoever passes the threshold of the own tier counts as found.
    """
    floor = floors(alpha, people).fmr
    sizes = [float(np.median([len(each.tiers[0].rows) for each in plans.values()])), 2000.0, float(people)]
    best = 1.0
    for first in np.linspace(0.05, 0.9, 18):
        for second in np.linspace(0.05, 0.9, 18):
            if first + second < 1:
                shares = np.array([first, second, 1 - first - second]) * alpha / np.array(sizes)
                least = [scale.threshold(min(max(float(s), scale.least_fmr), floor)) for s in shares]
                best = min(best, float(np.mean(cosines < np.array(least)[tier])))
    return round(best, 5)


def reliability(certain: list[tuple[float, bool]]) -> tuple[float, int]:
    """How far the posterior is off in the worst decile with a hundred cases or more, and its cases."""
    posterior, true = np.array([each[0] for each in certain]), np.array([each[1] for each in certain])
    decile = np.minimum((posterior * 10).astype(int), 9)
    worst, cases = 0.0, 0
    for each in range(10):
        inside = decile == each
        if inside.sum() >= 100:
            off = abs(float(posterior[inside].mean() - true[inside].mean()))
            if off >= worst:
                worst, cases = off, int(inside.sum())
    return worst, cases


def poisson_interval(errors: int) -> tuple[float, float]:
    """A 95 % interval of an expected count (Garwood 1936)."""
    from scipy.stats import chi2

    return (0.0 if errors == 0 else float(chi2.ppf(0.025, 2 * errors) / 2)), float(chi2.ppf(0.975, 2 * errors + 2) / 2)


def wrong_homes(made: World) -> World:
    """The same country, the homes on file shuffled for a fifth of the people."""
    homes = made.homes.copy()
    astray = np.random.default_rng(1).random(len(homes)) < 0.2
    homes[astray] = np.random.default_rng(2).permutation(homes[astray])
    return replace(made, homes=homes)


def replace_regulars(made: World) -> World:
    """The same country, half of the regulars of each device replaced."""
    regulars = made.regulars.copy()
    count = regulars[:, ::2].size
    regulars[:, ::2] = made.passers(np.repeat(made.where, REGULARS // 2)).reshape(len(made.where), -1)[:, :count]
    return replace(made, regulars=regulars)


def search_time(report: Report, size: Size) -> None:
    """The search part of identify for a known visitor, over a real index, on one thread."""
    for people in size.indexed:
        made = world(people, max(20, people // 2_500), max(40, people // 250))
        index, random = FlatIndex(128), np.random.default_rng(0)
        for first in range(0, people, 50_000):
            drawn = random.standard_normal((min(50_000, people - first), 128), np.float32)
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
            index.add(np.arange(first, first + len(drawn)), drawn)
        scale = calibrations(128, look_alikes=False, pairs=int(20 * people / 3e-3))[1]
        spent = []
        for device in random.choice(len(made.where), 20, replace=False).tolist():
            here = plan(made, device, scale, scale, 3e-3, 3e-3)
            for row in made.visitors(np.full(10, device)).tolist():
                if not here.budget.prior.names(np.array([row]))[0]:
                    continue
                mate = index.score(np.eye(128, dtype=np.float32), np.array([row]))[:, 0]
                probe = 0.65 * mate + np.sqrt(1 - 0.65**2) * drawn[int(random.integers(0, len(drawn)))]
                probe = (probe / np.linalg.norm(probe)).astype(np.float32)[None]

                started = time.perf_counter()
                look(here.budget, Rule(), HABITS, here.tiers, *over(index, probe), top=5)
                spent.append(1000 * (time.perf_counter() - started))
        report.figure("search_ms_median", round(float(np.median(spent)), 3), "ms", people=people, searches=len(spent))


def over(index: FlatIndex, probe: NDArray[np.float32]) -> tuple[Score, Search]:
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
