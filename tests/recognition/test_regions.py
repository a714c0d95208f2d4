import math

import h3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequestError
from service.recognition.regions import RESOLUTION, cell_at, cell_of


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_every_point_on_earth_has_a_cell(lat, lon):
    cell = cell_at(lat, lon)
    assert h3.get_resolution(cell) == RESOLUTION
    assert cell_of(cell) == cell


def test_a_point_lies_in_its_cell():
    cell = cell_at(48.137, 11.575)
    lat, lon = h3.cell_to_latlng(cell)
    assert math.hypot(lat - 48.137, (lon - 11.575) * math.cos(math.radians(48))) < 0.01


@pytest.mark.parametrize("resolution", [0, 5, 15])
def test_cells_of_every_resolution_are_taken(resolution):
    cell = h3.latlng_to_cell(48.137, 11.575, resolution)
    assert cell_of(cell.upper()) == cell


@pytest.mark.parametrize(
    "point", [(91, 0), (-90.1, 0), (0, 181), (0, -181), (math.nan, 0), (0, math.nan), (math.inf, 0), (0, -math.inf)]
)
def test_a_point_that_is_nowhere_is_refused(point):
    with pytest.raises(InvalidRequestError):
        cell_at(*point)


@given(st.one_of(st.text(max_size=40), st.text("0123456789abcdef", max_size=40)))
def test_any_other_text_is_refused_or_a_cell(text):
    try:
        cell = cell_of(text)
    except InvalidRequestError:
        return
    assert h3.is_valid_cell(cell)


@pytest.mark.parametrize(
    "text",
    ["", "f" * 32, "8828308281fffff0", "0x8828308281fff", "-1", " 8828308281fffff", "8_828308281ffff", "\uff18" * 15],
)
def test_text_that_is_no_cell_is_refused(text):
    with pytest.raises(InvalidRequestError):
        cell_of(text)
