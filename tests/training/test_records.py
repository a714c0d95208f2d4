"""The .rec, .idx and .bin formats against bytes put together by hand."""

import pickle
import struct

import numpy as np
import pytest

from tests.training.photos import jpeg
from training.errors import DataError
from training.records import MAGIC, PackedPairs, RecordFile, read_bin, write_bin, write_records
from training.sources import open_source


def test_what_was_written_is_read_back(tmp_path):
    people = [[jpeg(0), jpeg(1)], [jpeg(2)], [jpeg(3), jpeg(4), jpeg(5)]]
    write_records(tmp_path / "train.rec", people)
    records = open_source(tmp_path / "train.rec")
    assert records.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert [records.read(i) for i in range(6)] == [jpeg(i) for i in range(6)]


def test_the_bytes_are_those_of_the_format(tmp_path):
    write_records(tmp_path / "train.rec", [[b"abcde"]])
    data = (tmp_path / "train.rec").read_bytes()
    first = MAGIC + struct.pack("<I", 32) + struct.pack("<IfQQ", 2, 0.0, 0, 0) + struct.pack("<ff", 2.0, 3.0)
    photo = MAGIC + struct.pack("<I", 29) + struct.pack("<IfQQ", 0, 0.0, 1, 0) + b"abcde" + b"\0\0\0"
    person = MAGIC + struct.pack("<I", 32) + struct.pack("<IfQQ", 2, 0.0, 2, 0) + struct.pack("<ff", 1.0, 2.0)
    assert data == first + photo + person
    assert (tmp_path / "train.idx").read_text() == f"0\t0\n1\t{len(first)}\n2\t{len(first + photo)}\n"


@pytest.mark.parametrize("gap", [0, 1, 2, 4, 7])
def test_a_photo_that_holds_the_magic_number_survives(tmp_path, gap):
    photo = MAGIC + b"x" * gap + MAGIC + b"end" + MAGIC
    write_records(tmp_path / "train.rec", [[photo, b"after"]])
    records = RecordFile(tmp_path / "train.rec")
    assert [records.read(0), records.read(1)] == [photo, b"after"]


def test_records_without_insightface_s_first_record_are_read_too(tmp_path):
    record = MAGIC + struct.pack("<I", 24 + 4) + struct.pack("<IfQQ", 0, 7.0, 0, 0) + b"face"
    (tmp_path / "plain.rec").write_bytes(record + record)
    (tmp_path / "plain.idx").write_text(f"0\t0\n1\t{len(record)}\n")
    records = RecordFile(tmp_path / "plain.rec")
    assert records.labels.tolist() == [7, 7]
    assert records.read(1) == b"face"


def test_a_record_with_several_labels_counts_by_its_first(tmp_path):
    body = struct.pack("<IfQQ", 2, 0.0, 0, 0) + struct.pack("<ff", 5.0, 9.0) + b"face"
    (tmp_path / "plain.rec").write_bytes(MAGIC + struct.pack("<I", len(body)) + body)
    (tmp_path / "plain.idx").write_text("0\t0\n")
    assert RecordFile(tmp_path / "plain.rec").labels.tolist() == [5]


def test_a_cut_file_is_refused(tmp_path):
    write_records(tmp_path / "train.rec", [[jpeg(0)]])
    data = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(data[:500])
    with pytest.raises(DataError, match="cut short"):
        RecordFile(tmp_path / "train.rec").read(0)


def test_a_missing_index_is_refused(tmp_path):
    (tmp_path / "train.rec").write_bytes(b"")
    with pytest.raises(DataError, match=r"train\.idx cannot be read"):
        RecordFile(tmp_path / "train.rec")


def test_a_verification_set_is_read_back(tmp_path):
    packed = PackedPairs([jpeg(i) for i in range(4)], np.array([True, False]))
    write_bin(tmp_path / "lfw.bin", packed)
    again = read_bin(tmp_path / "lfw.bin")
    assert again.photos == packed.photos
    assert again.same.tolist() == [True, False]


def test_the_photos_of_pairs_are_taken_once_each():
    a, b, c = (jpeg(i) for i in range(3))
    photos, pairs = PackedPairs([b, a, a, b, c, b, b, b], np.array([True, False, True, False])).distinct()
    assert photos == [b, a, c]
    assert pairs.tolist() == [[0, 1], [1, 0], [2, 0], [0, 0]]


def test_a_verification_set_of_arrays_written_by_python_2_is_read(tmp_path):
    photos = [np.frombuffer(jpeg(i), np.uint8) for i in range(2)]
    (tmp_path / "old.bin").write_bytes(pickle.dumps((photos, [True]), protocol=2))
    assert read_bin(tmp_path / "old.bin").photos == [jpeg(0), jpeg(1)]


def test_a_verification_set_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    (tmp_path / "bad.bin").write_bytes(pickle.dumps(([Harm()], [True])))
    with pytest.raises(DataError, match=r"builtins\.print"):
        read_bin(tmp_path / "bad.bin")


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps(([b"a"], [True])), pickle.dumps(5)])
def test_a_damaged_verification_set_is_refused(tmp_path, content):
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.bin"):
        read_bin(tmp_path / "bad.bin")
