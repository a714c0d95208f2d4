import dataclasses
import json
import os
import stat

import numpy as np
import pytest

from service.errors import SnapshotError, StorageError, StorageFullError
from service.gallery.index import snapshot
from service.gallery.index.protocol import Owner
from service.gallery.index.snapshot import Header

OWNER = Owner(catalog="c", gallery_pk=3, model_digest="d1", dim=16)
HEADER = Header(OWNER, revision=41, count=30)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "3.snapshot"


@pytest.fixture
def written(path, unit):
    snapshot.write(path, HEADER, np.arange(30) * 7, unit(30))
    return path


def test_a_snapshot_is_read_as_it_was_written(written, unit):
    read = snapshot.read(written, OWNER, newest=50)
    assert read.header == HEADER
    np.testing.assert_array_equal(read.rows, np.arange(30) * 7)
    np.testing.assert_array_equal(read.embeddings, unit(30))


def test_its_arrays_are_mapped_and_cannot_be_changed(written):
    read = snapshot.read(written, OWNER, newest=50)
    assert isinstance(read.embeddings, np.memmap)
    assert not read.embeddings.flags.writeable
    assert read.rows.offset % 64 == 0


def test_an_empty_snapshot_is_read(path):
    header = dataclasses.replace(HEADER, count=0)
    snapshot.write(path, header, np.empty(0, np.int64), np.empty((0, 16), np.float32))
    read = snapshot.read(path, OWNER, newest=50)
    assert (read.rows.shape, read.embeddings.shape) == ((0,), (0, 16))


def test_it_is_readable_to_its_owner_alone(written):
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_any_edited_byte_is_noticed(written):
    content = written.read_bytes()
    for place in sorted({*range(300), *range(300, len(content), 41), *range(len(content) - 40, len(content))}):
        edited = bytearray(content)
        edited[place] ^= 0x10
        written.write_bytes(edited)
        with pytest.raises(SnapshotError):
            snapshot.read(written, OWNER, newest=50)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 100, 300, 1000, -33, -1])
def test_a_file_cut_short_is_noticed(written, length):
    os.truncate(written, length % written.stat().st_size)
    with pytest.raises(SnapshotError):
        snapshot.read(written, OWNER, newest=50)


def test_a_file_with_more_behind_it_is_noticed(written):
    written.write_bytes(written.read_bytes() + b"\x00")
    with pytest.raises(SnapshotError):
        snapshot.read(written, OWNER, newest=50)


@pytest.mark.parametrize("fields", [{"count": 10**18}, {"count": -1}, {"owner": {"dim": 16}}, {"extra": 1}])
def test_a_header_that_makes_no_sense_is_noticed(path, fields):
    text = json.dumps(dataclasses.asdict(HEADER) | fields).encode()
    path.write_bytes(snapshot.PREFIX.pack(snapshot.MAGIC, snapshot.VERSION, len(text)) + text)
    with pytest.raises(SnapshotError):
        snapshot.read(path, OWNER, newest=50)


def test_a_newer_format_is_told(written):
    content = bytearray(written.read_bytes())
    content[8:12] = (snapshot.VERSION + 1).to_bytes(4, "little")
    written.write_bytes(content)
    with pytest.raises(SnapshotError, match=f"format {snapshot.VERSION + 1}"):
        snapshot.read(written, OWNER, newest=50)


@pytest.mark.parametrize("other", [{"catalog": "x"}, {"gallery_pk": 4}, {"model_digest": "d2"}, {"dim": 8}])
def test_a_snapshot_of_something_else_is_told(written, other):
    with pytest.raises(SnapshotError, match="another"):
        snapshot.read(written, dataclasses.replace(OWNER, **other), newest=50)


def test_a_snapshot_beyond_the_catalog_is_told(written):
    with pytest.raises(SnapshotError, match="revision 41"):
        snapshot.read(written, OWNER, newest=40)
    assert snapshot.read(written, OWNER, newest=41)


def test_no_snapshot_is_no_damage(path):
    with pytest.raises(FileNotFoundError):
        snapshot.read(path, OWNER, newest=50)


def test_a_write_that_fails_leaves_the_old_snapshot_and_nothing_else(written, unit):
    before = written.read_bytes()

    class Dying(np.ndarray):
        def __getitem__(self, where):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageFullError, match="No space"):
        snapshot.write(written, HEADER, np.arange(30), unit(30).view(Dying))
    assert list(written.parent.iterdir()) == [written]
    assert written.read_bytes() == before


def test_a_missing_folder_is_told(tmp_path, unit):
    with pytest.raises(StorageError):
        snapshot.write(tmp_path / "nowhere" / "3.snapshot", HEADER, np.arange(30), unit(30))


def test_a_header_that_does_not_describe_the_arrays_is_refused(path, unit):
    with pytest.raises(ValueError, match="header"):
        snapshot.write(path, HEADER, np.arange(29), unit(29))
