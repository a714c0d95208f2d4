"""Where rows lie, however many segments there are."""

import numpy as np
import pytest

from service.gallery.index import building
from service.gallery.index.directory import Directory
from service.gallery.index.sealed import Sealed
from service.gallery.index.segment import packed
from tests.gallery.index.conftest import OWNER

FAR = 2**62


@pytest.fixture
def holding(tmp_path, unit):
    """Makes a segment of these rows, of which some may be dead."""
    made = iter(range(100))

    def of(rows, dead=()):
        rows = np.array(rows, np.int64)
        source = building.growing(OWNER, rows, unit(len(rows), dim=OWNER.dim), None)
        segment = building.build(tmp_path / f"1.{next(made)}.segment", OWNER, source, None, lambda: None)[0]
        alive = ~np.isin(rows, dead)
        return Sealed(segment, (), packed(alive), int(alive.sum()))

    return of


def found(directory, *rows):
    return directory.find(np.array(rows, np.int64)).tolist()


def test_no_segment_holds_nobody():
    assert found(Directory(()), 0, 5, FAR) == [-1, -1, -1]
    assert found(Directory(())) == []


def test_places_are_counted_through_all_segments(holding):
    directory = Directory((holding([100, 101, 102]), holding([7, 200])))
    assert directory.starts.tolist() == [0, 3, 5]
    assert found(directory, 200, 100, 7, 102) == [4, 0, 3, 2]


@pytest.mark.parametrize("other", [103, FAR])
def test_rows_of_no_segment_lie_nowhere(holding, other):
    """Whether the rows are many in few numbers or far apart."""
    directory = Directory((holding([100, 101]), holding([105, other])))
    absent = (0, 99, 102, 104, 106, FAR - 1, FAR + 1, -1, np.iinfo(np.int64).max, np.iinfo(np.int64).min)
    assert set(found(directory, *absent)) == {-1}
    assert found(directory, other, 101) == [3, 1]


@pytest.mark.parametrize("other", [103, FAR])
def test_a_row_that_moved_is_found_where_it_lives(holding, other):
    directory = Directory((holding([100, 101, other], dead=[100, other]), holding([other, 100])))
    assert found(directory, 100, 101, other) == [4, 1, 3]


@pytest.mark.parametrize("rows", [[99, 104], [100, 300], [FAR], [3, FAR, 102]])
@pytest.mark.parametrize("before", [[100, 101, 102], [FAR - 9, 7, 102], []])
def test_one_more_segment_is_as_if_all_were_read_again(holding, before, rows):
    first = (holding(before, dead=[each for each in before if each in rows]),) if before else ()
    both = (*first, holding(rows))
    extended, fresh = Directory(first).with_last(both), Directory(both)
    asked = np.array([*before, *rows, 0, 98, 103, 105, 299, 301, FAR - 1, FAR + 1], np.int64)
    assert extended.starts.tolist() == fresh.starts.tolist()
    assert extended.find(asked).tolist() == fresh.find(asked).tolist()
