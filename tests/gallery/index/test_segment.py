import dataclasses
import os
import struct

import numpy as np
import pytest

from service.errors import SnapshotError
from service.gallery.index.codes import Layout, turned
from service.gallery.index.rows import restored
from service.gallery.index.segment import PREFIX, VERSION, Segment, left_for_later, packed, unpacked
from service.gallery.index.threads import Threads
from tests.gallery.index.conftest import OWNER

LONG = dataclasses.replace(OWNER, dim=264)
"""Of vectors that have rests."""


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


def damage(segment, place):
    """Edit a byte, counted from the end, on the disk."""
    with segment.path.open("r+b") as file:
        file.seek(place - 1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(place - 1, os.SEEK_END)
        file.write(bytes([byte ^ 0x80]))


def test_long_vectors_are_kept_as_exactly_as_16_bits_can(sealed, unit):
    segment = sealed(30, owner=LONG)
    kept = segment.restored(np.arange(30))
    np.testing.assert_allclose(kept, turned(unit(30, dim=264), Layout.of(264)), atol=5e-6)
    assert np.abs(restored(segment.numbers, segment.scales) - kept).max() > 5e-4


@pytest.mark.parametrize("place", [0, -264, -29 * 264])
def test_a_vector_whose_rests_are_damaged_is_less_exact_and_told(sealed, threads, caplog, place):
    segment = sealed(32, owner=LONG)
    before = segment.restored(np.arange(32))
    which = 31 + place // 264
    damage(segment, place)
    again = Segment(segment.path, LONG)
    assert again.check(np.ones(32, np.bool_), threads).all()
    found = again.restored(np.arange(32))
    np.testing.assert_array_equal(found[which], restored(segment.numbers, segment.scales)[which])
    np.testing.assert_array_equal(np.delete(found, which, axis=0), np.delete(before, which, axis=0))
    again.restored(np.arange(32))
    assert caplog.text.count("1 vectors or more are less exact") == 1, "told once, and not with every search"


def test_no_opening_reads_what_is_left_for_later(sealed, threads):
    segment = sealed(32, owner=LONG)
    later = left_for_later(264, 32)
    assert 32 * 264 < later < segment.path.stat().st_size / 2
    for place in range(0, -later, -100):
        damage(segment, place)
    assert Segment(segment.path, LONG).check(np.ones(32, np.bool_), threads).all()
    damage(segment, -later - 100)
    with pytest.raises(SnapshotError):
        Segment(segment.path, LONG).check(np.ones(32, np.bool_), threads)


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


@pytest.mark.parametrize("owner", [OWNER, LONG])
def test_what_is_erased_is_gone_from_the_file_and_harms_nobody_else(sealed, threads, caplog, owner):
    segment = sealed(30, owner=owner)
    told = [part.tobytes() for part in (segment.numbers[7], segment.rests(np.array([7]))) if part.size]
    assert all(part in segment.path.read_bytes() for part in told)
    before = segment.restored(np.arange(30))
    dead = np.zeros(30, np.bool_)
    dead[7] = True
    segment.erase(packed(dead))
    assert not any(part in segment.path.read_bytes() for part in told)
    again = Segment(segment.path, owner)
    np.testing.assert_array_equal(again.restored(np.arange(30))[~dead], before[~dead])
    assert "less exact" not in caplog.text
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
