"""Habits fitted to the visits of the priors bench, as `vultus calibrate --prior` fits those of a gallery."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.identify.habits import Log, Scene, fit_habits
from service.identify.travel import Gravity, Map, affinity, mapped
from tests.bench.priors_world import DAYS, World
from tests.bench.report import Report, note

CUT: Final = DAYS / 5
"""Days before now from which on visits are held out."""


def fitted(report: Report, made: World, devices: list[int]) -> World:
    """The same country whose service has fitted its prior to what happened at these devices."""
    note(f"fitting habits to {len(devices)} devices ...")
    maps: dict[Gravity, Map] = {}
    scenes = [_scene(made, device, maps) for device in devices]
    found = fit_habits(scenes, made.residents, made.habits, made.gravity)
    habits, gravity = found.habits, found.gravity
    report.figure(
        "bits_gained",
        round(found.bits, 2),
        "bits",
        before=round(found.bits_before, 2),
        visits=found.visits,
        tau=habits.tau,
        discount=habits.discount,
        theta=habits.theta,
        cell_discount=habits.cell_discount,
        cell_theta=habits.cell_theta,
        eps=habits.eps,
        d0=gravity.d0,
        beta=gravity.beta,
        kappa=gravity.kappa,
    )
    return replace(made, habits=habits, gravity=gravity)


def _scene(made: World, device: int, maps: dict[Gravity, Map]) -> Scene:
    """One device; visits that are held out do not count among the travels that shall tell them."""
    region = int(made.where[device])
    beside = made.where == region
    rows, days = made.rows[beside].ravel(), made.days[beside].ravel()
    later = np.bincount(made.homes[rows[(rows >= 0) & (days < CUT)]], minlength=len(made.lat))
    seen = made.travelled[:, region] - later
    totals = made.travelled.sum(axis=1) - later

    def towards(gravity: Gravity) -> NDArray[np.float64]:
        key = replace(gravity, kappa=0.0)
        if key not in maps:
            maps[key] = mapped(made.lat, made.lon, made.residents.population, gravity)
        return affinity(maps[key], region, seen, totals, gravity)

    return Scene(_log(made.rows[device], made.days[device]), (_log(rows, days),), towards)


def _log(rows: NDArray[np.int64], days: NDArray[np.float64]) -> Log:
    known = rows >= 0
    return Log(rows[known], days[known] - CUT)
