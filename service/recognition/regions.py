"""Regions: H3 cells, given as such or as a point."""

from __future__ import annotations

import math
import re
from typing import Final

import h3

from service.errors import InvalidRequestError

CELL: Final = re.compile(r"[0-9a-fA-F]{15}")
"""How a cell is written; the library alone would also read signs, spaces and a prefix, and overflow on long text."""

RESOLUTION: Final = 8
"""Of the cell that stands for a point: about 0.7 square kilometres (H3's table of cell statistics)."""

CELL_RESOLUTION: Final = 7
"""Of the cells in which visits are counted: about 5 square kilometres, a neighbourhood,"""

REGION_RESOLUTION: Final = 5
"""and of the regions that hold them: about 253 square kilometres, a town."""


def cell_of(region: str) -> str:
    """Return an H3 cell as it is kept, in lower case.

    Raises:
        InvalidRequestError: it is no H3 cell.
    """
    if not CELL.fullmatch(region) or not h3.is_valid_cell(region):
        raise InvalidRequestError("a region is an H3 cell such as 8828308281fffff, or a point with lat and lon")
    return region.lower()


def cell_at(lat: float, lon: float) -> str:
    """Return the cell of a point given in degrees.

    Raises:
        InvalidRequestError: there is no such point.
    """
    if not (math.isfinite(lat) and math.isfinite(lon) and abs(lat) <= 90 and abs(lon) <= 180):
        raise InvalidRequestError("lat is between -90 and 90 degrees, lon between -180 and 180")
    return str(h3.latlng_to_cell(lat, lon, RESOLUTION))


def coarser(cell: str, resolution: int) -> str | None:
    """The cell of a resolution that holds a cell; None where the cell is larger than that."""
    return None if h3.get_resolution(cell) < resolution else str(h3.cell_to_parent(cell, resolution))


def point_of(cell: str) -> tuple[float, float]:
    """The middle of a cell, latitude and longitude in degrees."""
    lat, lon = h3.cell_to_latlng(cell)
    return float(lat), float(lon)
