"""Whether a posterior is what it says, in the priors bench: among answers of 0.25, one in four shall be right.

Few visitors leave any doubt, and a decile between 0.1 and 0.9 needs a thousand cases to tell a point. So of visitors
whose own score is far above what the plain search asks for only one in `KEPT` is looked at, and counts for as many;
nobody in doubt is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.identify.calibration import Calibration
from service.identify.decision import threshold
from service.identify.planner import Rule, look
from tests.bench.priors_scores import MATE_DEVIATION, MATE_MEAN, Scorer
from tests.bench.priors_world import Plan, World
from tests.bench.report import Report, note

KEPT: Final = 20
UNKNOWN: Final = 0.2
"""Share of those who come that nobody enrolled."""
CASES: Final = 100
"""Cases that a decile needs to be judged."""
OFTEN: Final = 50_000


@dataclass(frozen=True)
class Told:
    """What was said, case by case: the posterior of the best candidate, whether it was the visitor, and the weight."""

    posterior: NDArray[np.float64]
    true: NDArray[np.bool_]
    weight: NDArray[np.float64]


@dataclass(frozen=True)
class Decile:
    """One tenth of the posteriors: its cases, how far it is off, and what chance alone would have it off by."""

    number: int
    cases: int
    off: float
    noise: float


def reliability(
    report: Report,
    made: World,
    plans: dict[int, Plan],
    scale: Calibration,
    rule: Rule,
    visitors: int,
    more: dict[str, object],
) -> None:
    """How far posteriors are off in each decile with a hundred cases or more.

    Args:
        report: where the figures go.
        made: the country.
        plans: what is expected at each device.
        scale: of the plain search.
        rule: of acceptance.
        visitors: who come, the unknown among them.
        more: what the figures are of: `d_eff`, `alpha` and so on.
    """
    told = asked(
        made, plans, scale, rule, visitors, dimension=float(str(more["d_eff"])), alpha=float(str(more["alpha"]))
    )
    found = deciles(told)
    for each in found:
        report.figure(
            "reliability_decile",
            round(100 * each.off, 2),
            "points",
            decile=each.number,
            cases=each.cases,
            standard_error=round(100 * each.noise, 2),
            **more,
        )
    worst = max(found, key=lambda each: abs(each.off))
    report.figure(
        "reliability_worst_decile",
        round(100 * abs(worst.off), 2),
        "points",
        decile=worst.number,
        cases=worst.cases,
        standard_error=round(100 * worst.noise, 2),
        visitors=visitors,
        **more,
    )


def asked(
    made: World,
    plans: dict[int, Plan],
    scale: Calibration,
    rule: Rule,
    visitors: int,
    *,
    dimension: float,
    alpha: float,
) -> Told:
    """Let people come to the devices, and keep what the service says of them."""
    random = np.random.default_rng(int(dimension))
    clear = threshold(scale, made.people, alpha, insist=True).similarity + dimension**-0.5
    devices = random.choice(list(plans), visitors)
    rows = np.where(random.random(visitors) < UNKNOWN, -1, made.visitors(devices))
    mated = random.normal(MATE_MEAN, MATE_DEVIATION, visitors)
    plain = (rows >= 0) & (mated > clear)
    weights = np.where(plain, KEPT, 1)
    looked = np.flatnonzero(~plain | (random.random(visitors) < 1 / KEPT))
    posterior, true = np.zeros(len(looked)), np.zeros(len(looked), np.bool_)
    for place, visitor in enumerate(looked.tolist()):
        if place % OFTEN == 0:
            note(f"{place:,} of {len(looked):,} looks, d = {dimension:g}, alpha = {alpha:g}")
        row = int(rows[visitor])
        probe = Scorer(made, random, dimension, row)
        if row >= 0:
            probe.mated = probe.forced[row] = float(mated[visitor])
        here = plans[int(devices[visitor])]
        found = look(here.budget, rule, made.habits, here.tiers, probe.score, probe.search, top=5)
        if len(found.rows):
            posterior[place], true[place] = found.posteriors[0], found.rows[0] == row
    return Told(posterior, true, weights[looked].astype(np.float64))


def deciles(told: Told) -> list[Decile]:
    """Those with `CASES` cases or more."""
    tenth = np.minimum((told.posterior * 10).astype(int), 9)
    found = []
    for number in range(10):
        inside = tenth == number
        cases = int(inside.sum())
        if cases >= CASES:
            weight, said = told.weight[inside], told.posterior[inside]
            off = float(np.average(said - told.true[inside], weights=weight))
            noise = float(np.sqrt(np.sum(weight**2 * said * (1 - said))) / weight.sum())
            found.append(Decile(number, cases, off, noise))
    return found
