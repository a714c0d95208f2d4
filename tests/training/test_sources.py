"""Shards, parts of data sets and several as one: what is read, and what is left out."""

import io
import tarfile

import pytest

from tests.training.photos import jpeg
from training.errors import DataError
from training.records import RecordFile, write_records
from training.shards import Shards, write_shards
from training.sources import Joined, frequent, open_source, usable


def test_shards_give_back_what_was_written(tmp_path):
    photos = [(jpeg(i), i % 3) for i in range(7)]
    paths = write_shards(tmp_path, photos, each=3)
    shards = open_source(tmp_path)
    assert isinstance(shards, Shards)
    assert len(paths) == 3
    assert [(shards.read(i), int(shards.labels[i])) for i in range(len(shards))] == photos


def test_shards_are_in_the_layout_of_webdataset(tmp_path):
    (path,) = write_shards(tmp_path, [(jpeg(1), 42)])
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["000000000.jpg", "000000000.cls"]
        assert tar.extractfile("000000000.cls").read() == b"42"


def test_a_shard_without_a_label_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("x.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(DataError, match=r"no label \(\.cls\) for x"):
        open_source(tmp_path / "a.tar")


def test_a_damaged_shard_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"this is no tar file" * 100)
    with pytest.raises(DataError, match=r"a\.tar cannot be read"):
        open_source(tmp_path / "a.tar")


def test_joined_sources_have_labels_without_gaps_and_their_own_people(tmp_path):
    write_shards(tmp_path, [(jpeg(0), 5), (jpeg(1), 100), (jpeg(2), 5)])
    write_records(tmp_path / "a.rec", [[jpeg(3)], [jpeg(4), jpeg(5)]])
    joined = Joined([Shards([tmp_path / "shard-000000.tar"]), RecordFile(tmp_path / "a.rec")])
    assert joined.labels.tolist() == [0, 1, 0, 2, 3, 3]
    assert joined.classes == 4
    assert [joined.read(i) for i in range(6)] == [jpeg(i) for i in range(6)]


@pytest.mark.parametrize("kind", ["folder", "shards", "records"])
def test_a_data_set_is_known_by_its_photos_and_labels_and_not_by_where_it_lies(tmp_path, kind):
    def made(where, people):
        (tmp_path / where).mkdir()
        path = tmp_path / where
        if kind == "folder":
            for name, photos in enumerate(people):
                (path / str(name)).mkdir()
                for number, photo in enumerate(photos):
                    (path / str(name) / f"{number}.jpg").write_bytes(photo)
        elif kind == "shards":
            write_shards(path, [(photo, label) for label, photos in enumerate(people) for photo in photos])
        else:
            path = path / "photos.rec"
            write_records(path, people)
        return Joined([open_source(path)]).digest()

    whole = [[jpeg(0), jpeg(1)], [jpeg(2), jpeg(3)]]
    assert made("one", whole) == made("moved", whole)
    others = [[[jpeg(0), jpeg(1)], [jpeg(2), jpeg(4)]], [[jpeg(0)], [jpeg(1), jpeg(2), jpeg(3)]], [*whole, [jpeg(4)]]]
    assert len({made("same", whole), *(made(f"other-{number}", each) for number, each in enumerate(others))}) == 4


def test_unreadable_and_shared_photos_of_a_shard_are_left_out_and_listed(tmp_path):
    photos = [(jpeg(0), 0), (b"broken", 1), (jpeg(2), 2), (jpeg(3), 2), (jpeg(3), 2), (jpeg(0), 1), (jpeg(4), 1)]
    write_shards(tmp_path, photos)
    source = open_source(tmp_path)
    good, skipped = usable(source, block=2)
    assert [(good.read(i), int(good.labels[i])) for i in range(len(good))] == [photos[i] for i in (2, 3, 4, 6)]
    assert [place for place, _ in skipped] == [source.place(i) for i in (0, 1, 5)]
    assert [reason.split(":")[0] for _, reason in skipped] == [
        "several people have it",
        "no readable photo",
        "several people have it",
    ]


def test_a_shard_of_which_nothing_can_be_used_is_refused(tmp_path):
    write_shards(tmp_path, [(b"broken", 0)])
    with pytest.raises(DataError, match="no photo of the data set is left"):
        usable(open_source(tmp_path))


def test_people_with_few_photos_can_be_left_out_of_any_data_set(tmp_path):
    write_shards(tmp_path, [(jpeg(0), 0), (jpeg(1), 1), (jpeg(2), 0)])
    assert frequent(open_source(tmp_path), 2).labels.tolist() == [0, 0]
    assert len(frequent(open_source(tmp_path), 1)) == 3
