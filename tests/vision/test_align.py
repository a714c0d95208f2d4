"""Crops, compared with a slow second derivation: singular values, homogeneous matrices and one pixel at a time."""

import math

import numpy as np
import pytest
from PIL import Image

from service.errors import NoFaceError
from service.vision.align import TEMPLATE, align, similarity


def umeyama(source, target):
    """Eq. (38) to (42) of the paper, with the singular value decomposition, as a 3 x 3 matrix."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    covariance = sum(np.outer(t - target_mean, s - source_mean) for s, t in zip(source, target, strict=True)) / 5
    variance = sum(np.sum((s - source_mean) ** 2) for s in source) / 5
    left, values, right = np.linalg.svd(covariance)
    signs = np.diag([1.0, 1.0 if np.linalg.det(covariance) >= 0 else -1.0])
    turn = left @ signs @ right
    scale = np.trace(np.diag(values) @ signs) / variance
    matrix = np.eye(3)
    matrix[:2, :2] = scale * turn
    matrix[:2, 2] = target_mean - scale * turn @ source_mean
    return matrix


def warp(photo, matrix):
    """Bilinear interpolation between pixel centres at whole coordinates; black outside of the outermost edges."""
    height, width = photo.shape[:2]
    back = np.linalg.inv(matrix)
    crop = np.zeros((112, 112, 3))
    for row in range(112):
        for column in range(112):
            x, y, _ = back @ (column, row, 1)
            if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
                continue
            x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
            i, j = min(int(x), width - 2), min(int(y), height - 2)
            u, v = x - i, y - j
            above = (1 - u) * photo[j, i].astype(float) + u * photo[j, i + 1]
            below = (1 - u) * photo[j + 1, i].astype(float) + u * photo[j + 1, i + 1]
            crop[row, column] = (1 - v) * above + v * below
    return crop


def placed(scale, degrees, shift, wobble=0.0):
    """Landmarks in a photo: the template scaled, turned, shifted and disturbed."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    noise = np.random.default_rng(1).normal(0, wobble, (5, 2))
    return (TEMPLATE @ turn.T * scale + shift + noise).astype(np.float32)


def texture(height, width):
    """A smooth random picture."""
    rough = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


PLACES = [(1.0, 0, (20, 30), 0.0), (1.4, 20, (30, -10), 2.0), (0.6, -45, (60, 90), 1.0), (1.9, 100, (150, -20), 3.0)]


@pytest.mark.parametrize("place", PLACES)
def test_the_similarity_is_that_of_umeyama(place):
    landmarks = placed(*place)
    a, b, x, y = similarity(landmarks)
    assert np.allclose([[a, -b, x], [b, a, y], [0, 0, 1]], umeyama(landmarks.astype(float), TEMPLATE), atol=1e-9)


@pytest.mark.parametrize("place", PLACES)
def test_a_crop_is_the_bilinear_warp_of_the_photo(place):
    photo, landmarks = texture(180, 200), placed(*place)
    expected = warp(photo, umeyama(landmarks.astype(float), TEMPLATE))
    assert np.abs(align(photo, landmarks) - expected).max() <= 1.01  # Pillow drops the fraction


def test_a_face_at_the_template_is_copied_as_it_is():
    photo = texture(112, 112)
    assert np.array_equal(align(photo, TEMPLATE), photo)


@pytest.mark.parametrize("scale", [1.5, 2.0, 2.7, 3.3, 5.5, 9.9, 14.0])
def test_large_faces_keep_their_place_to_a_fraction_of_a_pixel(scale):
    side = 2000
    ramp = np.arange(side) * (255 / side)
    photo = np.empty((side, side, 3), np.uint8)
    photo[..., 0], photo[..., 1], photo[..., 2] = np.round(ramp), np.round(ramp)[:, None], 0
    landmarks = placed(scale, 10, (260, 20))
    back = np.linalg.inv(umeyama(landmarks.astype(float), TEMPLATE))
    rows, columns = np.mgrid[0:112, 0:112]
    seen = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back.T
    inside = ((seen[..., :2] > 20) & (seen[..., :2] < side - 20)).all(axis=-1)
    error = (align(photo, landmarks)[..., :2] - seen[..., :2] * (255 / side))[inside] * (side / 255) / scale
    # rounding the photo and dropping the fraction shift each value by half a step on average
    assert np.abs(error.mean(axis=0) + 0.25 * (side / 255) / scale).max() < 0.6 * (side / 255) / scale


def test_large_faces_do_not_alias():
    stripes = np.zeros((1500, 1500, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = align(stripes, placed(10, 0, (50, 50)))
    assert np.ptp(crop[5:-5, 5:-5].astype(int)) <= 2
    assert abs(crop[50, 50, 0].astype(int) - 127) <= 1


def test_what_lies_outside_of_the_photo_is_black():
    white = np.full((112, 112, 3), 255, np.uint8)
    crop = align(white, TEMPLATE - (56, 0))
    assert (crop[:, :56] == 0).all()
    assert (crop[:, 56:] == 255).all()


def test_a_face_in_full_profile_is_still_cut_out():
    profile = TEMPLATE.copy()
    profile[:, 0] = (54, 56, 74, 54, 56)
    assert align(texture(112, 112), profile).any()


def test_the_crop_is_made_of_rgb_bytes():
    crop = align(texture(200, 200), placed(1.2, 0, (20, 20)))
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 50.0),
        np.full((5, 2), np.nan),
        TEMPLATE + np.array([[np.inf, 0]] + [[0, 0]] * 4),
        TEMPLATE * 1e-3,
        TEMPLATE * 1e200,
        TEMPLATE[[3, 4, 2, 1, 0]] * (1, -1) @ np.array([[0, 1], [1, 0]]) * (1, 0),
        TEMPLATE * (-1, 1) + (112, 0),
        TEMPLATE[:4],
        TEMPLATE + 5000,
    ],
    ids=["equal", "nan", "infinite", "tiny", "vast", "in a line", "mirrored", "four", "outside"],
)
def test_landmarks_that_form_no_face_are_refused(landmarks):
    with pytest.raises(NoFaceError):
        align(texture(112, 112), landmarks)
