"""A made-up country for the priors bench: regions, people, devices, their visits, and synthetic scores.

People live in regions whose sizes follow Zipf's law; devices stand where people are. Each device has regulars, whose
frequencies follow Zipf's law too, and is now and then visited by somebody else: a neighbour, or a traveller by gravity.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.identify.budget import Budget, Scales, claiming, floors, share_out
from service.identify.calibration import Calibration
from service.identify.planner import Tier, in_order
from service.identify.prior import Habits, Level, Prior, claimed, prior, recency, residents, unknown_share
from service.identify.travel import Gravity, affinity, mapped

SIDE_KM = 300.0
REGULARS, RETURNING, VISITS, UNKNOWN, DAYS = 150, 0.85, 400, 0.2, 120.0
HABITS = Habits()
GRAVITY = Gravity()


@dataclass
class World:
    """The country.

    Attributes:
        start: first row of the people of each region, (r + 1,); region 0 is empty.
        lat: degrees, (r,).
        lon: degrees, (r,).
        homes: what the gallery believes about where everybody lives, (n,).
        where: region of each device, (m,).
        regulars: rows, (m, REGULARS), the most frequent first.
        rows: who came, visit by visit, (m, VISITS); -1 for somebody unknown.
        days: how long ago, (m, VISITS).
        habits: parameters of the prior that the service has,
        gravity: and those of travel.
    """

    start: NDArray[np.int64]
    lat: NDArray[np.float64]
    lon: NDArray[np.float64]
    homes: NDArray[np.int32]
    where: NDArray[np.int64]
    regulars: NDArray[np.int64]
    rows: NDArray[np.int64]
    days: NDArray[np.float64]
    reach: NDArray[np.float64]
    random: np.random.Generator
    habits: Habits = HABITS
    gravity: Gravity = GRAVITY
    travelled: NDArray[np.float64] = field(init=False)
    living: list[NDArray[np.int64]] = field(init=False)

    def __post_init__(self) -> None:
        regions, known = len(self.lat), self.rows >= 0
        pairs = self.homes[self.rows[known]] * regions + np.repeat(self.where, known.sum(axis=1))
        self.travelled = np.bincount(pairs, minlength=regions**2).reshape(regions, regions).astype(float)
        self.residents = residents(np.arange(self.people), self.homes, regions)
        self.living = np.split(
            np.argsort(self.homes, kind="stable"), np.cumsum(self.residents.population[:-1]).astype(int)
        )
        self.map = mapped(self.lat, self.lon, self.residents.population, self.gravity)

    @property
    def people(self) -> int:
        return int(self.start[-1])

    def visitors(self, devices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Who comes to each of these devices."""
        random, count = self.random, len(devices)
        zipf = 1 / np.arange(1, REGULARS + 1)
        places = random.choice(REGULARS, count, p=zipf / zipf.sum())
        found = self.regulars[devices, places]
        passing = np.flatnonzero(random.random(count) >= RETURNING)
        found[passing] = self.passers(self.where[devices[passing]])
        return found

    def passers(self, regions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Somebody by gravity for each of these regions."""
        homes = np.array([np.searchsorted(self.reach[region], self.random.random()) for region in regions], np.int64)
        low, high = self.start[homes], self.start[homes + 1]
        return (low + self.random.random(len(homes)) * (high - low)).astype(np.int64)


def world(people: int, regions: int, devices: int, *, wrong_homes: float = 0.0, seed: int = 0) -> World:
    """Make a country; `wrong_homes` is the share of people whose stored region is not where they live."""
    random = np.random.default_rng(seed)
    weights = np.concatenate([[0.0], 1 / np.arange(3, regions + 3) ** 0.7])
    sizes = np.floor(people * weights / weights.sum()).astype(np.int64)
    sizes[1] += people - sizes.sum()
    lat, lon = 48 + random.random((2, regions + 1)) * SIDE_KM / 111
    homes = np.repeat(np.arange(regions + 1), sizes).astype(np.int32)
    distance = np.hypot(lat[:, None] - lat, lon[:, None] - lon) * 111
    pulled = (distance + GRAVITY.d0) ** -GRAVITY.beta * sizes[None, :]
    towards = sizes[None, :] * (pulled / pulled.sum(axis=1, keepdims=True)).T
    reach = np.cumsum(towards, axis=1) / np.maximum(towards.sum(axis=1, keepdims=True), 1e-300)
    reach[:, -1] = 1.0
    where = random.choice(regions + 1, devices, p=sizes / people)
    made = World(
        start=np.concatenate([[0], np.cumsum(sizes)]),
        lat=lat,
        lon=lon,
        homes=homes,
        where=where,
        regulars=np.zeros((devices, REGULARS), np.int64),
        rows=np.full((devices, VISITS), -1),
        days=random.random((devices, VISITS)) * DAYS,
        reach=reach,
        random=random,
    )
    made.regulars[:] = made.passers(np.repeat(where, REGULARS)).reshape(devices, REGULARS)
    came = made.visitors(np.repeat(np.arange(devices), VISITS)).reshape(devices, VISITS)
    made.rows[:] = np.where(random.random((devices, VISITS)) < UNKNOWN, -1, came)
    astray = random.random(people) < wrong_homes
    homes[astray] = random.permutation(homes[astray])
    made.__post_init__()
    return made


@dataclass(frozen=True)
class Plan:
    """What the service would keep for a device."""

    budget: Budget
    tiers: list[Tier]


def plan(made: World, device: int, near: Calibration, far: Calibration, alpha: float, whole: float) -> Plan:
    """The prior, the budget and the tiers of a device; `whole` is the rate that `alpha` is a share of."""
    own = _level(made.rows[device], made.days[device], made.habits)
    unknown = unknown_share(float((made.rows[device] < 0).sum()), VISITS, made.habits)
    before, scales, tiers = _before(made, int(made.where[device]), own, unknown, near, far)
    budget = share_out(before, scales, alpha, floors(whole, made.people), insist=True)
    return Plan(budget, in_order(tiers, budget))


def own_device(made: World, owner: int, scale: Calibration, alpha: float) -> Plan:
    """The same of a device that is somebody's own, at home, and that nobody else was ever seen at."""
    own = Level(np.array([owner]), np.array([40.0]), np.array([1.0]))
    unknown = unknown_share(0.0, 40.0, made.habits)
    before, scales, tiers = _before(made, int(made.homes[owner]), own, unknown, scale, scale)
    return said(before, scales, tiers, owner, alpha)


def said(before: Prior, scales: Scales, tiers: list[Tier], person: int, alpha: float) -> Plan:
    """What is expected once somebody claims to be a person, as the service plans it."""
    limits = floors(alpha, len(before.residents.rows))
    usual = share_out(before, scales, alpha, limits, insist=True).thresholds(np.array([person]))
    limits = claiming(limits, person, float(scales.near.survival(usual)[0]))
    budget = share_out(claimed(before, person), scales, alpha, limits, insist=True)
    return Plan(budget, in_order([Tier("claim", np.array([person])), *tiers], budget))


def _before(
    made: World, region: int, own: Level, unknown: float, near: Calibration, far: Calibration
) -> tuple[Prior, Scales, list[Tier]]:
    beside = made.where == region
    cell = _level(made.rows[beside].ravel(), made.days[beside].ravel(), made.habits)
    towards = affinity(made.map, region, made.travelled[:, region], made.travelled.sum(axis=1), made.gravity)
    before = prior([own, cell], made.residents, towards, unknown, made.habits)
    local = np.arange(len(made.lat)) == region
    excess = max(1.0, near.mean_likelihood(), far.mean_likelihood())
    tiers = [Tier("device", own.rows), Tier("cell", cell.rows), Tier("region", made.living[region])]
    return before, Scales(near, far, local, excess), tiers


def _level(rows: NDArray[np.int64], days: NDArray[np.float64], habits: Habits) -> Level:
    known = rows >= 0
    people, places = np.unique(rows[known], return_inverse=True)
    weights, latest = recency(days[known], habits), np.zeros(len(people))
    np.maximum.at(latest, places, weights)
    return Level(people, np.bincount(places, weights, minlength=len(people)), latest)
