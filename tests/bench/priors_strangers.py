"""Strangers in the priors bench: how many are taken for somebody, arm by arm, whatever is wrong with what is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from service.identify.budget import Budget, floors, share_out
from service.identify.calibration import Calibration
from service.identify.planner import ASK_SHARE, Rule, Tier, in_order, look
from service.identify.prior import digits_given
from tests.bench.priors_scores import NOBODY, SHIFT, Lucky, Scorer, scale
from tests.bench.priors_world import HABITS, REGULARS, Plan, World, own_device, plan, said
from tests.bench.report import Report, note

DIGITS, SLIP = 4, 0.02
CLAIMS, TYPED = 4, 2
"""Claims, and digits typed, that are tried at each device."""

SCALES = 25
"""Scales, each of other pairs, whose thresholds are compared."""


class Strangers:
    """Strangers at some devices of a country, of one effective dimension and at one target rate."""

    def __init__(
        self, report: Report, made: World, devices: list[int], dimension: int, alpha: float, strangers: int, rule: Rule
    ) -> None:
        self.report, self.made, self.devices, self.dimension = report, made, devices, dimension
        self.alpha, self.strangers, self.rule = alpha, strangers, rule
        self.random = np.random.default_rng(dimension)
        self.pairs = int(60 * made.people / alpha)
        self.usual, self.alike = scale(dimension, 0.0, self.pairs), scale(dimension, SHIFT, self.pairs)
        self.intact = self.planned(made)

    def arms(self) -> None:
        """FPIR over its target in every arm, with a 95 % interval."""
        astray, changed = wrong_homes(self.made), replace_regulars(self.made)
        planned, alike = self.planned(astray), self.planned(self.made, near=self.alike)
        every: dict[str, Callable[[bool], Iterator[tuple[int, int]]]] = {
            "intact": lambda safe: self.everywhere(self.made, self.intact, safe=safe),
            "wrong homes": lambda safe: self.everywhere(astray, planned, safe=safe),
            "drift": lambda safe: self.everywhere(changed, self.intact, safe=safe),
            # Safe mode is for those who have no scale of their own for neighbours.
            "look-alikes": lambda safe: self.look_alikes(self.intact if safe else alike, safe=safe),
            "spoofed claim": lambda safe: self.spoofed(self.claims(), safe=safe),
            "spoofed device": lambda safe: self.spoofed(self.devices_of_others(), safe=safe),
            "digits": lambda safe: self.with_digits(safe=safe),
        }
        for arm, safe in ((arm, safe) for arm in every for safe in (False, True)):
            name = f"{arm}, safe" if safe else arm
            note(f"strangers, {name} ...")
            counted = np.array(list(every[arm](safe)))
            errors, searches = int(counted[:, 0].sum()), int(counted[:, 1].sum())
            low, high = poisson_interval(errors)
            unit = searches * self.alpha
            self.report.figure(
                "fpir_over_target",
                round(errors / unit, 3),
                "x",
                arm=name,
                low=round(low / unit, 2),
                high=round(high / unit, 2),
                errors=errors,
                searches=searches,
                d_eff=self.dimension,
                alpha=self.alpha,
                people=self.made.people,
                certainty=self.rule.certainty,
            )

    def scales(self) -> None:
        """What the thresholds spend of the rate by the true distribution of the scores, and with other scales.

        Each scale is fitted to pairs of its own, as many; how they differ is what counting strangers cannot tell, since
        all of them meet the thresholds of one.
        """
        note(f"{SCALES} scales ...")
        spent = [self.spent(scale(self.dimension, 0.0, self.pairs, seed)) for seed in range(SCALES)]
        low, high = np.quantile(spent, [0.025, 0.975])
        self.report.figure(
            "spent_over_target",
            round(float(np.mean(spent)), 3),
            "x",
            low=round(float(low), 2),
            high=round(float(high), 2),
            of_this_scale=round(spent[0], 3),
            scales=SCALES,
            pairs=self.pairs,
            d_eff=self.dimension,
            alpha=self.alpha,
            people=self.made.people,
        )

    def spent(self, usual: Calibration) -> float:
        """How often strangers pass somebody's threshold, over the rate, at all devices together."""
        budgets = [plan(self.made, device, usual, usual, self.alpha, self.alpha).budget for device in self.devices]
        return float(np.mean([Lucky(self.made, each, self.dimension).rate for each in budgets])) / self.alpha

    def planned(self, world: World, *, near: Calibration | None = None, share: float = 1.0) -> dict[int, Plan]:
        """What is expected at each device."""
        scales = (near or self.usual, self.usual)
        return {device: plan(world, device, *scales, share * self.alpha, self.alpha) for device in self.devices}

    def taken(
        self, world: World, here: Plan, count: int, near: NDArray[np.int64] = NOBODY, *, safe: bool = False
    ) -> tuple[int, int]:
        """How many of so many strangers at a device are taken for somebody."""
        shift, wanted = SHIFT if len(near) else 0.0, replace(self.rule, safe=safe)
        budget = strict(here.budget, wanted) if safe else here.budget
        found = 0
        for forced in Lucky(world, budget, self.dimension, near=near, shift=shift).of(count, self.random):
            probe = Scorer(world, self.random, self.dimension, -1, near=near, shift=shift, forced=forced)
            answer = look(here.budget, wanted, self.made.habits, here.tiers, probe.score, probe.search, top=5)
            found += answer.decision == "match"
        return found, count

    def everywhere(self, world: World, plans: dict[int, Plan], *, safe: bool) -> Iterator[tuple[int, int]]:
        """Strangers who do nothing in particular."""
        for here in plans.values():
            yield self.taken(world, here, self.strangers // len(plans), safe=safe)

    def look_alikes(self, plans: dict[int, Plan], *, safe: bool) -> Iterator[tuple[int, int]]:
        """Strangers who look more like those that live or come here."""
        for device, here in plans.items():
            near = np.union1d(self.made.living[int(self.made.where[device])], here.budget.prior.rows)
            yield self.taken(self.made, here, self.strangers // len(plans), near, safe=safe)

    def claims(self) -> Iterator[Plan]:
        """What is expected where somebody claims to be somebody, at each device."""
        for here in self.intact.values():
            for target in self.random.integers(0, self.made.people, CLAIMS).tolist():
                yield said(here.budget.prior, here.budget.scales, here.tiers, target, self.alpha)

    def devices_of_others(self) -> Iterator[Plan]:
        """What is expected where somebody says to be at a device of somebody's own."""
        for owner in self.random.integers(0, self.made.people, CLAIMS * len(self.devices)).tolist():
            yield own_device(self.made, owner, self.usual, self.alpha)

    def spoofed(self, plans: Iterator[Plan], *, safe: bool) -> Iterator[tuple[int, int]]:
        """Strangers who each say what is not so."""
        for here in plans:
            yield self.taken(self.made, here, self.strangers // (CLAIMS * len(self.devices)), safe=safe)

    def with_digits(self, *, safe: bool) -> Iterator[tuple[int, int]]:
        """Strangers who are taken for somebody at the first look, or at the second with whatever digits they type."""
        count, rule = self.strangers // (TYPED * len(self.devices)), replace(self.rule, safe=safe)
        asking = replace(rule, digits=DIGITS)
        for here in self.planned(self.made, share=1 - ASK_SHARE).values():
            for _ in range(TYPED):
                found, _ = self.taken(self.made, here, count, safe=safe)
                after = second(here, typed(self.made, self.random, -1), self.alpha)
                least = strict(after.budget, rule) if safe else after.budget
                for forced in Lucky(self.made, least, self.dimension).of(count, self.random):
                    probe = Scorer(self.made, self.random, self.dimension, -1, forced=forced)
                    first = look(here.budget, asking, self.made.habits, here.tiers, probe.score, probe.search, top=5)
                    if first.decision == "ask":
                        answer = look(
                            after.budget, rule, self.made.habits, after.tiers, probe.score, probe.search, top=5
                        )
                        found += answer.decision == "match"
                yield found, count


def typed(made: World, random: np.random.Generator, row: int) -> NDArray[np.int64]:
    """Whose digits are those that a visitor types."""
    matches = random.integers(0, made.people, random.poisson(made.people * 10.0**-DIGITS))
    return np.unique(np.append(matches, row) if row >= 0 and random.random() >= SLIP else matches)


def second(here: Plan, matches: NDArray[np.int64], alpha: float) -> Plan:
    """What the service expects once digits were given."""
    before = digits_given(here.budget.prior, matches, DIGITS, HABITS)
    limits = floors(alpha, before.residents.people, matches)
    budget = share_out(before, here.budget.scales, alpha * ASK_SHARE, limits, insist=True)
    return Plan(budget, in_order((Tier("digits", matches), *here.tiers), budget))


def strict(budget: Budget, rule: Rule) -> Budget:
    """Thresholds that nobody is under who is accepted in safe mode.

    There the best has certainty times all that speaks for anybody, and that is (1 - pi_u) excess / alpha at least.
    """
    least = rule.certainty * (1 - budget.prior.unknown) * budget.scales.excess / budget.fpir
    whole = budget.prior
    whole = replace(whole, held=np.ones_like(whole.held), others_held=np.ones_like(whole.others_held))
    return replace(budget, demand=float(np.log(least)), prior=whole)


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
