"""Whether a posterior is what it says, in the priors bench: among answers of 0.25, one in four shall be right.

Few visitors leave any doubt, and a decile between 0.1 and 0.9 needs a thousand cases to tell a point. So only one in
`KEPT` is looked at of visitors whose own score is far above what the plain search asks for, and of strangers for whom
nobody's posterior can reach `DOUBT`; each counts for as many.

The other strangers are drawn as such. Whoever could reach `DOUBT` passes a threshold, and how many a stranger passes is
Poisson, of mean r. One of them is drawn and the rest of the gallery as it comes; a look at that counts for r / k, k how
many passed in all (Mecke's formula: E[f] = r E'[f / k], with one more point under E'). So the mean is that of all
strangers at the cost of those in doubt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.identify.budget import Budget, Floors
from service.identify.calibration import Calibration
from service.identify.decision import threshold
from service.identify.planner import GALLERY, Found, Rule, look
from tests.bench.priors_scores import MATE_DEVIATION, MATE_MEAN, NOBODY, Lucky, Scorer
from tests.bench.priors_world import Plan, World
from tests.bench.report import Report, note

KEPT: Final = 50
DOUBT: Final = 0.1
TOP: Final = 50
"""Strangers reach `DOUBT` with a few people at most, who are among so many."""

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
    looks = Looks(made, rule, dimension, random)
    devices = random.choice(list(plans), visitors)
    stranger = random.random(visitors) < UNKNOWN
    rows, mated = made.visitors(devices[~stranger]), random.normal(MATE_MEAN, MATE_DEVIATION, visitors)[~stranger]
    kept = (mated <= clear) | (random.random(len(mated)) < 1 / KEPT)
    for device, row, score in zip(devices[~stranger][kept].tolist(), rows[kept].tolist(), mated[kept], strict=True):
        looks.enrolled(plans[device], row, float(score), KEPT if score > clear else 1)
    for device, here in plans.items():
        looks.strangers(here, int((devices[stranger] == device).sum()))
    return looks.told


class Looks:
    """Looks at visitors, one after the other, and what was said of them."""

    def __init__(self, made: World, rule: Rule, dimension: float, random: np.random.Generator) -> None:
        self._made, self._rule, self._dimension, self._random = made, rule, dimension, random
        self._said: list[tuple[float, bool, float]] = []

    @property
    def told(self) -> Told:
        """Everything that was said so far."""
        posterior, true, weight = np.array(self._said).reshape(-1, 3).T
        return Told(posterior, true.astype(np.bool_), weight)

    def enrolled(self, here: Plan, row: int, mated: float, weight: float) -> None:
        """A visitor who is enrolled, with the score of their own, for so many like them."""
        probe = Scorer(self._made, self._random, self._dimension, -1, forced={row: mated})
        self._tell(self._look(here, probe), row, weight)

    def strangers(self, here: Plan, count: int) -> None:
        """So many visitors whom nobody enrolled, at one device."""
        doubted = in_doubt(here.budget)
        lucky = Lucky(self._made, doubted, self._dimension)
        for _ in range(int(self._random.poisson(lucky.rate * count))):
            probe = Scorer(self._made, self._random, self._dimension, -1, forced=lucky.passing(1, self._random))
            found = self._look(here, probe)
            # Rounding alone can leave whoever was drawn to pass a hair below the threshold.
            self._tell(found, -1, 1 / max(self._passed(doubted, probe, found), 1))
        for _ in range(int(self._random.binomial(count, 1 / KEPT))):
            probe = Scorer(self._made, self._random, self._dimension, -1)
            found = self._look(here, probe)
            if not self._passed(doubted, probe, found):
                self._tell(found, -1, KEPT)

    def _look(self, here: Plan, probe: Scorer) -> Found:
        return look(here.budget, self._rule, self._made.habits, here.tiers, probe.score, probe.search, top=5)

    def _passed(self, doubted: Budget, probe: Scorer, found: Found) -> int:
        """Whose threshold of doubt was passed, in the whole gallery."""
        if not found.tiers or found.tiers[-1].tier != GALLERY:
            probe.search(TOP)
        high = probe.scores > 0
        return int((probe.scores[high] >= doubted.thresholds(probe.rows[high])).sum())

    def _tell(self, found: Found, row: int, weight: float) -> None:
        if len(self._said) % OFTEN == 0:
            note(f"{len(self._said):,} looks, d = {self._dimension:g}")
        best = len(found.rows) > 0
        true = best and int(found.rows[0]) == row
        self._said.append((float(found.posteriors[0]) if best else 0.0, true, float(weight)))


def in_doubt(budget: Budget) -> Budget:
    """Thresholds that everybody passes whose posterior reaches `DOUBT`.

    v_i = pi_i L_i / (pi_u + S + R) >= DOUBT asks for pi_i L_i >= DOUBT / (1 - DOUBT) pi_u at least, since S has
    pi_i L_i in it. No floor and no cap.
    """
    prior, anybody = budget.prior, budget.scales.far.fmr[0]
    whole = replace(prior, held=np.ones_like(prior.held), others_held=np.ones_like(prior.others_held))
    demand = float(np.log(DOUBT / (1 - DOUBT) * prior.unknown))
    return replace(budget, demand=demand, floors=Floors(anybody, anybody, NOBODY, anybody, NOBODY), prior=whole)


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
