import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.recognition.roll import Roll

PEOPLE = st.dictionaries(st.integers(0, 30), st.integers(0, 5), max_size=8)


def put(roll, people):
    rows = sorted(people)
    roll.put(np.array(rows, np.int64), {"home": np.array([people[row] for row in rows], np.int32)})


def shown(roll):
    return dict(zip(roll.rows.tolist(), roll.numbers("home").tolist(), strict=True))


@given(st.lists(st.tuples(PEOPLE, st.sets(st.integers(0, 30), max_size=4)), max_size=8))
def test_it_shows_what_a_dictionary_would_and_what_was_handed_out_stays(changes):
    roll, expected, handed_out = Roll(("home",)), {}, []
    for coming, leaving in changes:
        put(roll, coming)
        expected |= coming
        roll.strike(np.array(sorted(leaving), np.int64))
        expected = {row: home for row, home in expected.items() if row not in leaving}
        assert shown(roll) == expected
        assert (np.diff(roll.rows) > 0).all()
        handed_out.append((roll.rows, roll.numbers("home"), dict(expected)))
    for rows, homes, then in handed_out:
        assert dict(zip(rows.tolist(), homes.tolist(), strict=True)) == then


@pytest.mark.parametrize("what", ["somebody new", "somebody as before"])
def test_a_small_change_copies_nothing_of_the_rest(what):
    roll, count = Roll(("home",)), 200_000
    roll.put(np.arange(count), {"home": np.zeros(count, np.int32)})
    put(roll, {count: 1})
    tracemalloc.start()
    put(roll, {count + 1: 1} if what == "somebody new" else {7: 0})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50_000
    assert shown(roll)[count] == 1
