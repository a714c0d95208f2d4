"""Each part of the quality, the whole, and what real faces get before and after something is done to them."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from service.vision.align import TEMPLATE, align
from service.vision.detect import Box, Detector, Face
from service.vision.quality import Quality, angle, assess, detail, exposure, face_side, ramp, reasons
from tests import faces

FLOOR = 0.3
HEAD = np.array([[-31, 0, 0], [31, 0, 0], [0, 36, 29], [-25, 70, 4], [25, 70, 4]], float)
"""Eyes, nose and mouth of a head in millimetres: right, down, towards the camera."""


def face(landmarks=TEMPLATE, score=0.93):
    return Face(Box(0, 0, 112, 112), np.asarray(landmarks, np.float32), score)


def head(yaw=0.0, pitch=0.0, roll=0.0, scale=1.3):
    """Landmarks of the head, turned to the side, nodded and leant by degrees, seen from far away."""
    y, p, r = (math.radians(degrees) for degrees in (yaw, pitch, roll))
    about_down = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_right = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    about_view = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return (HEAD @ about_down.T @ about_right.T @ about_view.T)[:, :2] * scale + 200


@pytest.fixture(scope="module")
def portraits(heads):
    """Sixty crops of thirty people, with their faces."""
    detector = Detector(heads)
    found = []
    for person in range(1, 31):
        for photo in (1, 6):
            pixels = faces.orl_pixels(person, photo)
            (one,) = detector.detect(pixels)
            found.append((align(pixels, one.landmarks), one))
    return found


def changed(portraits, change):
    """Scores of the portraits after something was done to the crop."""
    return np.array([assess(change(crop), one).score for crop, one in portraits])


# --- the parts ---


@pytest.mark.parametrize(("value", "expected"), [(1, 0), (2, 0), (3, 0.25), (6, 1), (9, 1)])
def test_a_ramp_rises_from_the_worst_to_the_best(value, expected):
    assert ramp(value, 2, 6) == expected
    assert ramp(-value, -2, -6) == expected


@pytest.mark.parametrize(("pixels", "expected"), [(10, 0), (16, 0), (32, 0.5), (64, 1), (500, 1)])
def test_size_counts_the_photo_pixels_that_the_crop_spans(pixels, expected):
    landmarks = TEMPLATE * pixels / 112 + 20
    assert face_side(landmarks) == pytest.approx(pixels)
    crop = np.zeros((112, 112, 3), np.uint8)
    assert assess(crop, face(landmarks)).size == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("yaw", [-75, -60, -45, -30, 0, 30, 45, 60, 75])
def test_the_angle_of_a_turned_head_is_estimated(yaw):
    assert angle(head(yaw=yaw)) == pytest.approx(abs(yaw), abs=12)


@pytest.mark.parametrize("pitch", [-30, 30])
def test_the_angle_of_a_nodding_head_is_estimated(pitch):
    assert angle(head(pitch=pitch)) == pytest.approx(30, abs=13)


def test_leaning_sideways_costs_nothing():
    assert angle(head(yaw=20, roll=30)) == pytest.approx(angle(head(yaw=20)))


def test_landmarks_without_height_are_seen_from_the_side():
    assert angle(np.array([[0, 0], [2, 0], [1, 0], [0, 0], [2, 0]])) == 90


def test_detail_is_the_laplacian_over_the_contrast():
    grey = np.random.default_rng(0).uniform(0, 255, (112, 112)).astype(np.float32)
    region = grey[30:106, 24:88].astype(float)
    height, width = region.shape
    smooth = np.zeros((height, width))
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            for down, weight_down in ((-1, 1), (0, 2), (1, 1)):
                for right, weight_right in ((-1, 1), (0, 2), (1, 1)):
                    smooth[row, column] += weight_down * weight_right * region[row + down, column + right] / 16
    squares = [
        (4 * smooth[r, c] - smooth[r - 1, c] - smooth[r + 1, c] - smooth[r, c - 1] - smooth[r, c + 1]) ** 2
        for r in range(2, height - 2)
        for c in range(2, width - 2)
    ]
    assert detail(grey, 112) == pytest.approx(math.sqrt(np.mean(squares)) / region.std(), rel=1e-4)


def test_a_small_face_is_not_called_blurred(heads):
    pixels = faces.orl_pixels(3, 1)
    half = np.asarray(Image.fromarray(pixels).resize((46, 56), Image.Resampling.BOX))
    parts = []
    for photo in (pixels, half):
        (one,) = Detector(heads).detect(photo)
        parts.append(assess(align(photo, one.landmarks), one))
    assert parts[1].size < parts[0].size
    assert parts[1].sharpness >= parts[0].sharpness - 0.1


@pytest.mark.parametrize(
    ("brightness", "expected"), [((60, 180), 1), ((0, 12), 0), ((246, 255), 0), ((120, 124), 0), ((20, 42), 0.35)]
)
def test_exposure_wants_light_and_contrast(brightness, expected):
    rows = np.linspace(*brightness, 112, dtype=np.float32)
    assert exposure(rows[:, None].repeat(112, axis=1)) == pytest.approx(
        expected, abs=0.25 if expected == 0.35 else 0.02
    )


def test_exposure_wants_both_sides_lit():
    rows = np.linspace(60, 180, 112, dtype=np.float32)[:, None].repeat(112, axis=1)
    for share, expected in ((1, 1), (0.45, 1), (0.235, 0.5), (0.02, 0)):
        for half in (np.s_[:, :56], np.s_[:, 56:]):
            lit = rows.copy()
            lit[half] *= share
            assert exposure(lit) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("score", "expected"), [(0.6, 0), (0.76, 0.5), (0.92, 1), (1, 1)])
def test_detection_follows_the_detector(score, expected):
    assert assess(np.zeros((112, 112, 3), np.uint8), face(score=score)).detection == pytest.approx(expected)


# --- the whole ---


def test_the_score_is_the_product_of_the_parts(portraits):
    for crop, one in portraits:
        quality = assess(crop, one)
        parts = quality.size, quality.sharpness, quality.pose, quality.exposure, quality.detection
        assert quality.score == pytest.approx(math.prod(parts))
        assert all(0 <= part <= 1 for part in parts)


def test_four_hundred_portraits_pass(heads):
    detector = Detector(heads)
    for person in range(1, 41):
        for photo in range(1, 11):
            pixels = faces.orl_pixels(person, photo)
            (one,) = detector.detect(pixels)
            assert assess(align(pixels, one.landmarks), one).score > 0.6, (person, photo)


def test_blur_lowers_the_score_the_more_the_stronger(portraits):
    means = [
        changed(
            portraits, lambda crop, b=b: np.asarray(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(b)))
        ).mean()
        for b in (0, 1, 2, 3, 4)
    ]
    assert all(less < more - 0.02 for more, less in itertools.pairwise(means[:4]))
    assert means[4] < FLOOR / 3


def test_strongly_blurred_faces_are_refused(portraits):
    scores = changed(portraits, lambda crop: np.asarray(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(4))))
    assert (scores < FLOOR).mean() > 0.98


def test_faces_with_a_side_in_the_dark_are_refused(portraits):
    def darken(crop):
        dark = crop.copy()
        dark[:, :56] = dark[:, :56] * 0.05
        return dark

    assert (changed(portraits, darken) < FLOOR).all()


@pytest.mark.parametrize("light", [0.1, 6])
def test_faces_without_light_or_drowned_in_it_are_refused(portraits, light):
    assert (changed(portraits, lambda crop: (crop * float(light)).clip(0, 255).astype(np.uint8)) < FLOOR).all()


def test_faces_of_fifteen_pixels_are_refused(portraits):
    for crop, _ in portraits[:5]:
        assert assess(crop, face(TEMPLATE * 15 / 112)).score < FLOOR


@pytest.mark.parametrize("yaw", [-90, -70, 70, 90])
def test_faces_in_profile_are_refused(portraits, yaw):
    for crop, _ in portraits[:5]:
        assert assess(crop, face(head(yaw=yaw))).score < FLOOR


def test_doubtful_detections_are_refused(portraits):
    for crop, one in portraits[:5]:
        assert assess(crop, face(one.landmarks, score=0.66)).score < FLOOR


# --- reasons ---


def quality_of(**parts):
    values = {"size": 1.0, "sharpness": 1.0, "pose": 1.0, "exposure": 1.0, "detection": 1.0} | parts
    return Quality(**values, score=math.prod(values.values()))


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("size", "too_small"),
        ("sharpness", "blurred"),
        ("pose", "turned"),
        ("exposure", "badly_exposed"),
        ("detection", "doubtful_detection"),
    ],
)
def test_a_bad_part_alone_refuses_and_is_named(part, reason):
    assert reasons(quality_of(**{part: 0.29}), FLOOR) == [reason]


def test_the_worst_reason_comes_first():
    assert reasons(quality_of(size=0.5, pose=0.1, exposure=0.4), FLOOR) == ["turned", "badly_exposed", "too_small"]


def test_many_small_faults_name_at_least_the_worst():
    quality = quality_of(size=0.7, sharpness=0.65, pose=0.7, exposure=0.8)
    assert reasons(quality, FLOOR) == ["blurred"]


def test_a_face_that_passes_has_no_reasons():
    assert reasons(quality_of(size=0.4), FLOOR) == []
