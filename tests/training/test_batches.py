"""Crops and batches: which photo is in which place, and what stands in for one that breaks."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.training.photos import jpeg, people_folder
from training.augment import Augmentation
from training.batches import Crops, batches
from training.errors import DataError
from training.folder import Folder
from training.photos import decode
from training.samplers import RandomPlan
from training.shards import write_shards
from training.sources import open_source

PLAIN = Augmentation(flip=0)


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
