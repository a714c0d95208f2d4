import dataclasses
import os
import struct

import numpy as np
import pytest

from service.errors import SnapshotError
from service.gallery.index.segment import PREFIX, VERSION, Segment, packed, unpacked
from service.gallery.index.threads import Threads
from tests.gallery.index.conftest import OWNER


@pytest.fixture
def threads():
    threads = Threads(2)
    yield threads
    threads.close()


def test_a_segment_holds_what_was_given(sealed, unit, threads):
    segment = sealed(30)
    assert segment.check(np.ones(30, np.bool_), threads).all()
    assert segment.rows.tolist() == list(range(100, 130))


def test_rows_of_a_place_lie_together(sealed):
    segment = sealed(30, places=np.arange(30) % 3)
    assert segment.rows[:10].tolist() == list(range(100, 130, 3))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 100, 300, 2000, -1])
def test_a_file_cut_short_is_noticed(sealed, length):
    path = sealed(30).path
    os.truncate(path, length % path.stat().st_size)
    with pytest.raises(SnapshotError):
        Segment(path, OWNER)


def test_any_edited_byte_that_counts_is_noticed(sealed, threads):
    path = sealed(30).path
    content = path.read_bytes()
    missed = []
    for place in range(0, len(content), 7):
        edited = bytearray(content)
        edited[place] ^= 0x10
        path.write_bytes(edited)
        try:
            Segment(path, OWNER).check(np.ones(30, np.bool_), threads)
        except SnapshotError:
            continue
        missed.append(place)
    path.write_bytes(content)
    assert all(content[place] == 0 for place in missed), "only what fills up to the next multiple of 64 may be edited"
    assert len(missed) < 60


def test_a_newer_format_is_told(sealed):
    path = sealed(5).path
    content = bytearray(path.read_bytes())
    content[8:12] = struct.pack("<I", VERSION + 1)
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=f"format {VERSION + 1}"):
        Segment(path, OWNER)


@pytest.mark.parametrize("other", [{"catalog": "x"}, {"gallery_pk": 4}, {"model_digest": "d2"}])
def test_a_segment_of_something_else_is_told(sealed, other):
    with pytest.raises(SnapshotError, match="another"):
        Segment(sealed(5).path, dataclasses.replace(OWNER, **other))


def test_what_is_erased_is_gone_from_the_file_and_harms_nobody_else(sealed, threads):
    segment = sealed(30)
    vector = segment.numbers[7].tobytes()
    assert vector in segment.path.read_bytes()
    dead = np.zeros(30, np.bool_)
    dead[7] = True
    segment.erase(packed(dead))
    assert vector not in segment.path.read_bytes()
    again = Segment(segment.path, OWNER)
    np.testing.assert_array_equal(again.check(~dead, threads), ~dead)
    # A snapshot from before does not know; the file does.
    np.testing.assert_array_equal(again.check(np.ones(30, np.bool_), threads), ~dead)


def test_nothing_lies_under_a_name_until_it_is_whole(tmp_path, unit):
    from service.gallery.index import building

    class StopError(Exception):
        pass

    def stop():
        raise StopError

    source = building.growing(OWNER, np.arange(9), unit(9), None)
    with pytest.raises(StopError):
        building.build(tmp_path / "1.9.segment", OWNER, source, None, stop)
    assert list(tmp_path.iterdir()) == []


def test_bits_are_flags():
    flags = np.random.default_rng(0).random(77) < 0.5
    np.testing.assert_array_equal(unpacked(packed(flags), 77), flags)
    assert PREFIX.size == 16
