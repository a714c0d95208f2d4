"""Each augmentation by itself: what it changes and what it leaves alone."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.training.photos import jpeg
from training.augment import Augmentation, augment, degraded, draws_of, erase, part_of, recoloured

OFF = {"flip": 0, "crop": 0, "jitter": 0, "degrade": 0, "erase": 0}


@pytest.fixture
def image():
    return Image.open(io.BytesIO(jpeg(1))).convert("RGB")


def test_with_everything_off_a_crop_stays_as_it_is(image):
    assert np.array_equal(augment(image, Augmentation(**OFF), draws_of(0, 0)), np.array(image))


@pytest.mark.parametrize("name", sorted(OFF))
def test_each_change_is_made_when_it_is_certain(image, name):
    changed = augment(image, Augmentation(**{**OFF, name: 1}), draws_of(0, 1))
    assert changed.shape == (112, 112, 3)
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, np.array(image))


@pytest.mark.parametrize("name", sorted(OFF))
def test_a_change_is_made_as_often_as_asked(image, name):
    how = Augmentation(**{**OFF, name: 0.3})
    changed = [not np.array_equal(augment(image, how, draws_of(0, i)), np.array(image)) for i in range(300)]
    assert 0.2 < np.mean(changed) < 0.4


def test_a_draw_repeats_exactly_and_differs_from_the_next(image):
    how = Augmentation(flip=0.5, crop=1, jitter=1, degrade=1, erase=1)
    assert np.array_equal(augment(image, how, draws_of(5, 9)), augment(image, how, draws_of(5, 9)))
    assert not np.array_equal(augment(image, how, draws_of(5, 9)), augment(image, how, draws_of(5, 10)))


def test_a_flip_exchanges_left_and_right(image):
    flipped = augment(image, Augmentation(**{**OFF, "flip": 1}), draws_of(0, 0))
    assert np.array_equal(flipped, np.array(image)[:, ::-1])


def test_a_part_is_an_enlarged_region_of_the_crop():
    ramp = np.broadcast_to(np.linspace(0, 255, 112).astype(np.uint8)[None, :, None], (112, 112, 3))
    part = np.array(part_of(Image.fromarray(ramp.copy()), 0.3, draws_of(0, 3)))
    row = part[0, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert row[-1] - row[0] < 250


def test_recolouring_moves_no_edges(image):
    black_and_white = Image.fromarray(
        np.where(np.arange(112)[None, :, None] < 56, 0, 255).astype(np.uint8).repeat(3, 2).repeat(112, 0)
    )
    changed = np.array(recoloured(black_and_white, 0.4, draws_of(0, 0)), int)
    assert np.ptp(changed[:, :56]) == 0
    assert np.ptp(changed[:, 56:]) == 0
    assert changed[0, 0, 0] < changed[0, -1, 0]


def test_degrading_removes_detail():
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    blurred = np.array(degraded(Image.fromarray(noise), 0.25, draws_of(0, 0)), float)
    assert np.abs(np.diff(blurred, axis=1)).mean() < 0.5 * np.abs(np.diff(noise.astype(float), axis=1)).mean()


def test_erasing_covers_one_rectangle_of_at_most_the_asked_area():
    for draw in range(50):
        pixels = np.full((112, 112, 3), 44, np.uint8)
        erase(pixels, 0.2, draws_of(0, draw))
        rows, columns = np.nonzero((pixels != 44).any(axis=2))
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 0.015 * 112**2 < area < 0.215 * 112**2
