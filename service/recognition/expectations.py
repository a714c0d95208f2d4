"""What is expected where: the catalog's people and visits, turned into a prior, a budget and tiers, and kept.

A plan costs some milliseconds and is kept as long as the gallery, its visits and the day are the same; what a claim or
digits change is worked out on top of it for the one request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.gallery import galleries, people
from service.gallery.catalog import Catalog, Reading
from service.gallery.records import GalleryRecord
from service.gallery.schema import EPOCH
from service.gallery.visits import DaysAtPlace, Place, Visits
from service.identify.attributes import weighed
from service.identify.budget import Budget, Scales, claiming, floors, share_out
from service.identify.habits import Log, Scene
from service.identify.planner import ASK_SHARE, Tier, in_order
from service.identify.prior import (
    Habits,
    Level,
    Prior,
    Residents,
    claimed,
    digits_given,
    prior,
    recency,
    unknown_share,
)
from service.identify.travel import Gravity, Map, affinity, mapped
from service.recognition.calibrated import Calibrated, excess
from service.recognition.everybody import Everybody
from service.recognition.regions import CELL_RESOLUTION, REGION_RESOLUTION, coarser

Rows = NDArray[np.int64]
Places = tuple[tuple[Place, str | None], ...]

KEPT: Final = 4096
"""Plans that are kept; the one that was not used for longest leaves first."""

RATES_KEPT: Final = 4
"""Rates that a plan is kept for: callers choose them freely, and each has the tiers' priors."""

TRAVELS_KEPT: Final = timedelta(minutes=10)
"""For how long the counts of travels are used; reading them takes a pass over all visits."""

MOST_DEVICES: Final = 50
"""Devices whose visits habits are fitted to."""

HELD_OUT: Final = 0.2

TRAVEL: Final = "travel_"
"""Before the names of the parameters of travel, where they are kept with a gallery's habits."""

DIGITS: Final = 4
"""How many digits a visitor is asked for."""


@dataclass(frozen=True)
class Context:
    """What is known beside the face.

    Attributes:
        device: where the probe was taken.
        cell: H3 cell of that place, of any resolution.
        at: when; None is now.
        person: who the visitor claims to be.
        digits: the digits that the visitor gave.
        observed: what was seen beside the face, by the name of the attribute: a value, or [least, most].
    """

    device: str | None = None
    cell: str | None = None
    at: datetime | None = None
    person: str | None = None
    digits: str | None = None
    observed: Mapping[str, Any] | None = None

    @property
    def says_something(self) -> bool:
        """Whether a prior can be made of it."""
        return any(each is not None for each in (self.device, self.cell, self.person, self.digits)) or bool(
            self.observed
        )


@dataclass(frozen=True, eq=False)
class Expected:
    """Who is expected, and what that asks of a face.

    Attributes:
        fpir: the rate that the answer stands for.
        budget: everybody's threshold.
        tiers: whom to examine first.
        digits: how many digits may be asked for; 0 where nobody's are kept, or they were given already.
        habits: parameters of the prior.
    """

    fpir: float
    budget: Budget
    tiers: Sequence[Tier]
    digits: int
    habits: Habits


@dataclass(frozen=True)
class _Terms:
    """What an answer is bound to.

    Attributes:
        gallery_pk: the gallery.
        alpha: the rate that the answer shall stand for,
        share: and what of it this call may spend.
        insist: see `share_out`.
        asking: whether digits may be asked for.
        scan_share: see `in_order`.
    """

    gallery_pk: int
    alpha: float
    share: float
    insist: bool
    asking: bool
    scan_share: float


@dataclass(frozen=True, eq=False)
class _Plan:
    stamp: tuple[int, ...]
    seen_stamp: tuple[int, ...]
    seen: list[DaysAtPlace]
    habits: Habits
    prior: Prior
    local: NDArray[np.bool_]
    tiers: tuple[Tier, ...]
    budgets: OrderedDict[tuple[float, float, bool], Expected] = field(default_factory=OrderedDict)


class Expectations:
    """The plans of all galleries; safe to use from threads.

    Args:
        catalog: where people are,
        visits: and where they were.
        calibrated: what cosines mean, gallery by gallery.
        habits: parameters of the prior, where a gallery has none of its own.
        gravity: parameters of travel.
    """

    def __init__(
        self, catalog: Catalog, visits: Visits, calibrated: Calibrated, habits: Habits, gravity: Gravity
    ) -> None:
        self._habits = habits
        self._catalog = catalog
        self._visits = visits
        self._calibrated = calibrated
        self._gravity = gravity
        self._everybody: dict[int, Everybody] = {}
        self._plans: OrderedDict[tuple[int, str | None, str | None], _Plan] = OrderedDict()
        self._lock = threading.Lock()

    def of(
        self, gallery_pk: int, context: Context, alpha: float, *, insist: bool, now: datetime, scan_share: float
    ) -> Expected:
        """Who is expected in a context. Blocks.

        A request that brings digits spends one share of the rate and the one before it, that asked for them, the rest;
        so the two together keep to it.

        Args:
            gallery_pk: the gallery.
            context: what is known beside the face.
            alpha: the rate that the answer shall stand for.
            insist: see `share_out`.
            now: the moment of the request.
            scan_share: what a search of everybody costs; see `planner.in_order`.

        Raises:
            FpirNotSupportedError: the caller insists on a rate that the calibration cannot vouch for.
            GalleryNotFoundError: the gallery does not exist.
        """
        with self._catalog.read() as reading:
            everybody = self._of_gallery(gallery_pk)
            plan = self._plan(reading, gallery_pk, everybody, context, now)
            asking = everybody.any_digits
            evidence = everybody.evidence(context.observed) if context.observed else None
            claim = self._claim(reading, gallery_pk, context)
            matches = None
            if context.digits is not None:
                hashed = self._catalog.digits_hash(gallery_pk, context.digits)
                matches = np.array(people.with_digits(reading, gallery_pk, hashed), np.int64)
        share = alpha * (ASK_SHARE if matches is not None else 1 - ASK_SHARE if asking else 1.0)
        terms = _Terms(gallery_pk, alpha, share, insist, asking and matches is None, scan_share)
        if claim is None and matches is None and evidence is None:
            return self._usual(terms, plan)
        before, tiers, local = plan.prior, plan.tiers, plan.local
        if evidence is not None and len(evidence) == len(before.residents.rows):
            before = weighed(before, evidence)
            local = np.repeat(local, len(before.others) // len(local))
        if claim is not None:
            before, tiers = claimed(before, claim), (Tier("claim", np.array([claim])), *tiers)
        if matches is not None and context.digits is not None:
            before = digits_given(before, matches, len(context.digits), plan.habits)
            tiers = (Tier("digits", matches), *tiers)
        anyway = None
        if claim is not None:
            anyway = claim, float(self._usual(terms, plan).budget.thresholds(np.array([claim]))[0])
        return self._expected(terms, before, local, tiers, plan.habits, matches, anyway)

    def scenes(self, gallery_pk: int, *, now: datetime) -> tuple[list[Scene], Residents]:
        """The visits of the busiest devices, cut so that a fifth of the days of each lies after the cut. Blocks."""
        with self._catalog.read() as reading:
            everybody = self._of_gallery(gallery_pk)
            gravity = gravity_of(galleries.by_pk(reading, gallery_pk), self._gravity)
            maps: dict[tuple[float, float], Map] = {}
            found: list[tuple[Scene, int]] = []
            for device in self._visits.devices(reading, gallery_pk, limit=MOST_DEVICES):
                cell, region = self._visits.place_of(reading, gallery_pk, device)
                people_, map_, here = everybody.follow(reading, gallery_pk, gravity, region)
                places: Places = (("device", device), ("cell", cell), ("region", region))
                seen = [self._visits.at_place(reading, gallery_pk, kind, name) for kind, name in places if name]
                cut = float(np.quantile(seen[0].days, 1 - HELD_OUT))
                logs = [_log(each, cut) for each in seen]
                seen_from, totals = self._travelled(reading, gallery_pk, everybody, len(map_.lat), here, now)
                # What is held out must not be counted among the travels that shall tell it.
                later = _later(seen[-1], cut, people_) if region is not None else 0.0
                seen_from, totals = np.maximum(seen_from - later, 0.0), np.maximum(totals - later, 0.0)
                scene = Scene(logs[0], tuple(logs[1:]), partial(_towards, maps, map_, here, seen_from, totals))
                found.append((scene, len(totals)))
            people_, map_, _ = everybody.follow(reading, gallery_pk, gravity, None)
        return [scene for scene, regions in found if regions == len(people_.population)], people_

    def _usual(self, terms: _Terms, plan: _Plan) -> Expected:
        """What a plan expects of whoever claims nothing, as it was worked out before where that is kept."""
        key = (terms.alpha, terms.share, terms.insist)
        with self._lock:
            kept = plan.budgets.get(key)
            if kept is not None:
                plan.budgets.move_to_end(key)
                return kept
        made = self._expected(terms, plan.prior, plan.local, plan.tiers, plan.habits)
        with self._lock:
            plan.budgets[key] = made
            while len(plan.budgets) > RATES_KEPT:
                plan.budgets.popitem(last=False)
        return made

    def _expected(
        self,
        terms: _Terms,
        before: Prior,
        local: NDArray[np.bool_],
        tiers: Sequence[Tier],
        habits: Habits,
        matches: Rows | None = None,
        claim: tuple[int, float] | None = None,
    ) -> Expected:
        """Share the rate out; `claim` is whom the visitor claims to be and the cosine that suffices without it."""
        alpha, share = terms.alpha, terms.share
        limits = floors(alpha, before.residents.people, matches)
        scales = self._scales(terms.gallery_pk, before, local, alpha)
        if claim is not None:
            row, anyway = claim
            limits = claiming(limits, row, float(scales.near.survival(np.array([anyway]))[0]))
        budget = share_out(before, scales, share, limits, insist=terms.insist)
        stated = alpha if budget.fpir <= share else min(1.0, budget.fpir + alpha - share)
        asked = DIGITS if terms.asking else 0
        return Expected(stated, budget, in_order(tiers, budget, terms.scan_share), asked, habits)

    def _scales(self, gallery_pk: int, before: Prior, local: NDArray[np.bool_], alpha: float) -> Scales:
        """What cosines mean near and far, by the calibrations that can vouch for the rate."""
        neighbours = len(before.rows) + int(before.counts @ local)
        far = self._calibrated.far(gallery_pk, before.residents.people, alpha)
        near = self._calibrated.near(gallery_pk, far, neighbours, alpha)
        return Scales(near, far, local, excess(near, far))

    def as_of(self, gallery_pk: int) -> int:
        """The revision whose people were read last, -1 where nobody was yet."""
        return self._of_gallery(gallery_pk).revision

    def prepare(self, gallery_pk: int) -> None:
        """Read who lives where if there are visits that a prior is made of: a million people take seconds. Blocks."""
        with self._catalog.read() as reading:
            visited = self._visits.last_of(reading, gallery_pk) > 0
        if visited:
            self.residents(gallery_pk)

    def everybody(self, gallery_pk: int) -> Everybody:
        """Everybody of a gallery, as of its newest revision. Blocks."""
        with self._catalog.read() as reading:
            found = self._of_gallery(gallery_pk)
            found.follow(reading, gallery_pk, gravity_of(galleries.by_pk(reading, gallery_pk), self._gravity), None)
        return found

    def residents(self, gallery_pk: int) -> Residents:
        """Everybody who can be found, by home region. Blocks."""
        with self._catalog.read() as reading:
            gravity = gravity_of(galleries.by_pk(reading, gallery_pk), self._gravity)
            return self._of_gallery(gallery_pk).follow(reading, gallery_pk, gravity, None)[0]

    def _of_gallery(self, gallery_pk: int) -> Everybody:
        with self._lock:
            return self._everybody.setdefault(gallery_pk, Everybody())

    def _claim(self, reading: Reading, gallery_pk: int, context: Context) -> int | None:
        """Whom the visitor claims to be, or whose own device this is; nobody where that is not clear."""
        if context.person is not None:
            found = people.find(reading, gallery_pk, context.person)
            return None if found is None or not found.faces else found.pk
        if context.device is not None:
            owners = people.owners(reading, gallery_pk, context.device)
            return owners[0] if len(owners) == 1 else None
        return None

    def _plan(self, reading: Reading, gallery_pk: int, everybody: Everybody, context: Context, now: datetime) -> _Plan:
        cell, region = _cells(context.cell)
        if region is None and context.device is not None:
            cell, region = self._visits.place_of(reading, gallery_pk, context.device)
        day = ((context.at or now) - EPOCH).days
        gallery = galleries.by_pk(reading, gallery_pk)
        gravity = gravity_of(gallery, self._gravity)
        found, map_, here = everybody.follow(reading, gallery_pk, gravity, region)
        own = self._calibrated.version(gallery_pk)
        # Visits are read again when one was added, when somebody left with theirs, and every day.
        seen_stamp = (self._visits.last_of(reading, gallery_pk), everybody.left, day)
        stamp = (everybody.revision, *seen_stamp, own)
        key = (gallery_pk, context.device, cell or region)
        with self._lock:
            kept = self._plans.get(key)
            if kept is not None and kept.stamp == stamp:
                self._plans.move_to_end(key)
                return kept
        habits = habits_of(gallery, self._habits)
        places: Places = (("device", context.device), ("cell", cell), ("region", region))
        if kept is not None and kept.seen_stamp == seen_stamp:
            seen = kept.seen
        else:
            seen = [
                _NOWHERE if name is None else self._visits.at_place(reading, gallery_pk, kind, name)
                for kind, name in places
            ]
        seen_from, totals = self._travelled(reading, gallery_pk, everybody, len(map_.lat), here, now)
        levels = [_level(each, day, habits) for each in seen]
        strangers, total = _strangers(seen[0], day, habits)
        before = prior(
            levels,
            found,
            affinity(map_, here, seen_from, totals, gravity),
            unknown_share(strangers, total, habits),
            habits,
        )
        local = np.zeros(len(map_.lat), bool)
        local[here] = here > 0
        living = everybody.living_in(found, here) if here else _NO_ROWS
        tiers = (
            Tier("device", levels[0].rows),
            Tier("cell", levels[1].rows),
            Tier("region", np.union1d(levels[2].rows, living)),
        )
        plan = _Plan(stamp, seen_stamp, seen, habits, before, local, tiers)
        with self._lock:
            self._plans[key] = plan
            self._plans.move_to_end(key)
            while len(self._plans) > KEPT:
                self._plans.popitem(last=False)
        return plan

    def _travelled(
        self, reading: Reading, gallery_pk: int, everybody: Everybody, regions: int, here: int, now: datetime
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """C_hg and C_h of every home."""
        towards, totals = np.zeros(regions), np.zeros(regions)
        with everybody.following:
            if everybody.travels_read is None or abs(now - everybody.travels_read) > TRAVELS_KEPT:
                everybody.travels, everybody.travels_read = self._visits.travels(reading, gallery_pk), now
            found = list(everybody.travels)
        for home, there, count in found:
            origin, target = (
                everybody.regions.get(coarser(home, REGION_RESOLUTION) or "", 0),
                everybody.regions.get(there),
            )
            if origin < regions:
                totals[origin] += count
                towards[origin] += count * (target == here)
        return towards, totals


_NO_ROWS: Final = np.empty(0, np.int64)
_NOWHERE: Final = DaysAtPlace(_NO_ROWS, _NO_ROWS, _NO_ROWS)


def _cells(cell: str | None) -> tuple[str | None, str | None]:
    """The small cell and the region of a place, each None where the place is given more coarsely."""
    if cell is None:
        return None, None
    return coarser(cell, CELL_RESOLUTION), coarser(cell, REGION_RESOLUTION)


def _level(seen: DaysAtPlace, day: int, habits: Habits) -> Level:
    """The visits of one place, by person, weighed by their age."""
    known = seen.rows >= 0
    weights = recency((day - seen.days[known]).astype(np.float64), habits)
    rows, places = np.unique(seen.rows[known], return_inverse=True)
    latest = np.zeros(len(rows))
    np.maximum.at(latest, places, weights)
    counts = np.bincount(places, weights * seen.counts[known], minlength=len(rows)).astype(np.float64)
    return Level(rows, counts, latest)


def _log(seen: DaysAtPlace, cut: float) -> Log:
    """The visits of people at one place, each day of a person's as one visit."""
    known = seen.rows >= 0
    return Log(seen.rows[known], cut - seen.days[known].astype(np.float64))


def habits_of(gallery: GalleryRecord, default: Habits) -> Habits:
    """The parameters that were fitted for a gallery, or the default."""
    found = {name: value for name, value in (gallery.habits or {}).items() if not name.startswith(TRAVEL)}
    return replace(default, **found)


def gravity_of(gallery: GalleryRecord, default: Gravity) -> Gravity:
    """The same of the parameters of travel."""
    found = {name: value for name, value in (gallery.habits or {}).items() if name.startswith(TRAVEL)}
    return replace(default, **{name.removeprefix(TRAVEL): value for name, value in found.items()})


def _later(seen: DaysAtPlace, cut: float, everybody: Residents) -> NDArray[np.float64]:
    """Visits after the cut, by the home of who came, (r,)."""
    later = (seen.rows >= 0) & (seen.days > cut)
    homes = everybody.homes(seen.rows[later])
    return np.bincount(homes, seen.counts[later], minlength=len(everybody.population)).astype(np.float64)


def _towards(
    maps: dict[tuple[float, float], Map],
    map_: Map,
    region: int,
    seen: NDArray[np.float64],
    totals: NDArray[np.float64],
    gravity: Gravity,
) -> NDArray[np.float64]:
    """K towards a region by other parameters; `maps` keeps what was worked out for them."""
    key = gravity.d0, gravity.beta
    if key not in maps or len(maps[key].lat) != len(map_.lat):
        maps[key] = mapped(map_.lat, map_.lon, map_.population, gravity)
    return affinity(maps[key], region, seen, totals, gravity)


def _strangers(seen: DaysAtPlace, day: int, habits: Habits) -> tuple[float, float]:
    """Visits of strangers, and all visits, weighed by their age."""
    weights = seen.counts * recency((day - seen.days).astype(np.float64), habits)
    return float(weights[seen.rows < 0].sum()), float(weights.sum())
