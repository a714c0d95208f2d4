"""How people of one region come to be in another: gravity at first, and what was seen once it was seen often.

    K(h, g)  = (C_hg + kappa K0(h, g)) / (C_h + kappa)            visits in g among all visits of people who live in h
    K0(h, g) ~ population_g (distance(h, g) + d0)^-beta           summing to 1 over g

Regions are cells of the map, known here by their centres alone; region 0 is for people whose home is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Degrees = NDArray[np.floating[Any]]

EARTH_KM: Final = 6371.0
ROWS: Final = 256
"""Rows of the matrix of distances that are computed at once."""


@dataclass(frozen=True)
class Gravity:
    """The parameters of K.

    Attributes:
        d0: kilometres that nobody counts.
        beta: how fast distance deters.
        kappa: visits that the first guess K0 is worth.
    """

    d0: float = 5.0
    beta: float = 2.0
    kappa: float = 50.0


@dataclass(frozen=True, eq=False)
class Map:
    """Regions with their people; region 0 is nowhere, its centre is not used.

    Attributes:
        lat: degrees, (r,).
        lon: degrees, (r,).
        population: people enrolled who live there, (r,).
        pull: sum over g of population_g (distance + d0)^-beta, which makes K0 sum to 1, (r,).
    """

    lat: Degrees
    lon: Degrees
    population: Numbers
    pull: Numbers


def mapped(lat: Degrees, lon: Degrees, population: Numbers, gravity: Gravity) -> Map:
    """Prepare a map; takes time with the square of the regions, so it is kept until the population has changed much."""
    pull = np.ones(len(lat))
    known = slice(1, None)
    for first in range(1, len(lat), ROWS):
        rows = slice(first, min(first + ROWS, len(lat)))
        near = (_distance(lat[rows, None], lon[rows, None], lat[None, known], lon[None, known]) + gravity.d0) ** (
            -gravity.beta
        )
        pull[rows] = near @ np.maximum(population[known], 1.0)
    return Map(lat, lon, population, pull)


def affinity(map_: Map, region: int, seen: Numbers, totals: Numbers, gravity: Gravity) -> Numbers:
    """K(h, g) for every home h, (r,).

    Args:
        map_: the regions.
        region: g, where the probe was taken; 0 where that is not known: then nobody is nearer than others.
        seen: C_hg, visits in g of people who live in h, (r,).
        totals: C_h, all visits of people who live in h, (r,).
        gravity: the parameters.
    """
    if region == 0:
        return np.ones(len(map_.lat))
    distance = _distance(map_.lat, map_.lon, map_.lat[region], map_.lon[region])
    first = max(float(map_.population[region]), 1.0) * (distance + gravity.d0) ** -gravity.beta / map_.pull
    found: Numbers = (seen + gravity.kappa * first) / (totals + gravity.kappa)
    # Of people whose home is not known nothing is known but that they are people like the others.
    people = map_.population[1:].sum()
    found[0] = found[1:] @ map_.population[1:] / people if people else 1.0
    return found


def _distance(lat: Degrees, lon: Degrees, other_lat: Any, other_lon: Any) -> Numbers:
    """Great-circle kilometres (haversine)."""
    a, b = np.radians(lat), np.radians(other_lat)
    half = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lon - other_lon) / 2) ** 2
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1))))
