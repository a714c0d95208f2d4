"""Folders, shards and batches: what is read, what is left out, and in which order."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.training.photos import jpeg, people_folder
from training.augment import Augmentation
from training.data import Crops, Folder, Joined, batches, decode, frequent, open_source, usable
from training.errors import DataError
from training.records import RecordFile, write_records
from training.samplers import RandomPlan
from training.shards import Shards, write_shards

PLAIN = Augmentation(flip=0)


def test_a_folder_gives_people_as_labels_in_the_order_of_their_names(tmp_path):
    folder = Folder(people_folder(tmp_path, people=3, each=2))
    assert folder.people == ["person-000", "person-001", "person-002"]
    assert folder.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert folder.read(3) == (tmp_path / "person-001" / "1.jpg").read_bytes()


def test_files_that_are_no_photos_are_left_out_and_listed(tmp_path):
    people_folder(tmp_path, people=2, each=2)
    (tmp_path / "person-000" / "notes.txt").write_text("hello")
    (tmp_path / "person-001" / "cut.jpg").write_bytes(jpeg(9)[:300])
    (tmp_path / "person-001" / "empty.png").write_bytes(b"")
    report = Folder(tmp_path).report
    assert sorted(path.rsplit("/", 1)[1] for path, _ in report.skipped) == ["cut.jpg", "empty.png", "notes.txt"]
    assert report.photos == 4
    assert "3 unreadable files" in report.summary()


def test_a_photo_whose_bytes_cannot_be_had_is_left_out_and_listed(tmp_path):
    people_folder(tmp_path, people=2, each=2)
    (tmp_path / "person-000" / "bad.jpg").symlink_to("/proc/self/mem")  # reading it is an I/O error, also for root
    folder = Folder(tmp_path)
    assert len(folder) == 4
    assert folder.report.skipped == [(str(tmp_path / "person-000" / "bad.jpg"), "cannot be read: Input/output error")]


def test_a_photo_that_two_people_share_is_left_out_for_both(tmp_path):
    people_folder(tmp_path, people=2, each=2)
    (tmp_path / "person-001" / "copy.jpg").write_bytes((tmp_path / "person-000" / "0.jpg").read_bytes())
    folder = Folder(tmp_path)
    assert [path.rsplit("/", 2)[1:] for path in folder.report.shared] == [
        ["person-000", "0.jpg"],
        ["person-001", "copy.jpg"],
    ]
    assert len(folder) == 3


def test_people_with_one_photo_are_listed_and_can_be_left_out(tmp_path):
    people_folder(tmp_path, people=2, each=2)
    (tmp_path / "person-001" / "1.jpg").unlink()
    assert Folder(tmp_path).report.single == ["person-001"]
    assert Folder(tmp_path, least=2).people == ["person-000"]


def test_an_empty_person_is_listed_and_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "all" / "nobody").mkdir(parents=True)
    with pytest.raises(DataError, match="no photo that can be used: 0 photos of 0 people"):
        Folder(tmp_path / "all")
    people_folder(tmp_path / "all", people=1, each=1)
    assert Folder(tmp_path / "all").report.empty == ["nobody"]


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        open_source(tmp_path / "nowhere")


def test_only_the_asked_people_are_taken(tmp_path):
    assert Folder(people_folder(tmp_path), only=["person-002", "nobody"]).people == ["person-002"]


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


def test_a_photo_that_breaks_while_training_is_replaced_by_another_of_its_person(tmp_path):
    write_shards(tmp_path, [(b"broken", 0), (jpeg(1), 1), (jpeg(2), 0), (b"broken", 2)])
    crops = Crops(open_source(tmp_path), PLAIN, seed=0)
    crop, label, number, unreadable = crops[0, 7]
    assert (crop == np.array(decode(jpeg(2)))).all()
    assert (label, number) == (0, 2)
    ((which, reason),) = unreadable
    assert which == 0
    assert reason.startswith("no readable photo")
    crop, label, number, unreadable = crops[3, 7]  # nobody of its person is left: anybody stands in
    assert number in {1, 2}
    assert label == crops.source.labels[number]
    assert (crops[3, 7][0] == crop).all()
    assert {3} <= {which for which, _ in unreadable} <= {0, 3}


def test_what_stands_in_changes_no_other_crop(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder, first in ((whole, jpeg(0)), (broken, b"broken")):
        folder.mkdir()
        write_shards(folder, [(first, 0), *((jpeg(i), i % 2) for i in range(1, 8))])
    one, other = (Crops(open_source(folder), Augmentation(crop=1, erase=1), seed=3) for folder in (whole, broken))
    plan = RandomPlan(8, 4).epoch(0)
    for mine, theirs in zip(batches(one, plan, first_draw=0), batches(other, plan, first_draw=0), strict=True):
        rows = mine.numbers != 0
        assert (mine.crops[rows] == theirs.crops[rows]).all()
        assert [number for number, _ in theirs.unreadable] == [0] * int((~rows).sum())


def test_a_data_set_of_which_nothing_can_be_read_stops_the_run(tmp_path):
    write_shards(tmp_path, [(b"broken", 0), (b"broken", 0)])
    with pytest.raises(DataError, match=r"shard-000000\.tar, byte 512: no readable photo.*; nor can 9 in its place"):
        Crops(open_source(tmp_path), PLAIN, seed=0)[0, 0]


def test_a_photo_of_another_size_or_colour_becomes_a_crop():
    file = io.BytesIO()
    Image.new("L", (50, 80), 7).save(file, "PNG")
    image = decode(file.getvalue())
    assert (image.size, image.mode) == ((112, 112), "RGB")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_any_number_of_workers_and_from_any_step_on(tmp_path, workers):
    source = Folder(people_folder(tmp_path))
    plan = RandomPlan(len(source), 4).epoch(0)
    crops = Crops(source, Augmentation(flip=0.5, crop=1, jitter=1, degrade=1, erase=1), seed=3)
    whole = list(batches(crops, plan, first_draw=100))
    resumed = list(batches(crops, plan, first_draw=100, start=1, workers=workers))
    assert len(resumed) == len(whole) - 1
    for one, other in zip(whole[1:], resumed, strict=True):
        assert (one.crops == other.crops).all()
        assert (one.labels == other.labels).all()
        assert (one.numbers == other.numbers).all()


def test_mixed_crops_lie_between_two_others_and_are_the_same_in_every_draw(tmp_path):
    source = Folder(people_folder(tmp_path))
    whole = Crops(source, PLAIN, seed=3)
    mixed = Crops(source, PLAIN, seed=3, mix=0.5)
    photos = [whole[number, 0][0].astype(float) for number in range(len(source))]
    shares = []
    for draw in range(40):
        crop, label, number, _ = mixed[0, draw]
        assert np.array_equal(crop, mixed[0, draw][0])
        assert (label, number) == (int(source.labels[0]), 0)
        if np.array_equal(crop, photos[0]):
            continue
        fits = []
        for other in photos[1:]:
            way = photos[0] - other
            share = float(((crop - other) * way).sum() / (way * way).sum())
            fits.append((np.abs(crop - (share * photos[0] + (1 - share) * other)).max(), share))
        error, share = min(fits)
        assert error < 1
        shares.append(share)
    assert 8 <= len(shares) <= 32
    assert min(shares) < 0.3
    assert max(shares) > 0.7


def test_ranks_share_a_batch_without_overlap(tmp_path):
    source = Folder(people_folder(tmp_path))
    crops = Crops(source, Augmentation(), seed=3)
    plan = RandomPlan(len(source), 4).epoch(0)
    whole = [batch.crops for batch in batches(crops, plan, first_draw=0)]
    halves = [[b.crops for b in batches(crops, plan, first_draw=0, rank=rank, ranks=2)] for rank in range(2)]
    for step, crop in enumerate(whole):
        assert np.array_equal(crop.numpy(), np.concatenate([half[step].numpy() for half in halves]))
