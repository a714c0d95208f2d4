"""Detection: the geometry of canvases, the reading of the heads, and real faces in photos of every size."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from service.vision.decode import decode
from service.vision.detect import (
    LARGEST_FACE,
    LAST_SIDE,
    OVERLAP,
    SMALLEST_FACE,
    TILE,
    Canvas,
    Detector,
    candidates,
    canvases,
    faces_from,
    suppress,
)
from tests import faces

SIZES = [(16, 16), (92, 112), (250, 250), (400, 300), (1280, 720), (1920, 1080), (3000, 4000), (9000, 400), (20, 3000)]


def photo_of(width, height):
    """A photo whose red and green tell the position, blue is 255 throughout."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).round()
    pixels[..., 1] = np.linspace(0, 255, height).round()[:, None]
    pixels[..., 2] = 255
    return pixels


def backdrop(width, height):
    """Grey with a coarse pattern, so that there is something to be mistaken for a face."""
    noise = np.random.default_rng(0).normal(128, 25, (height // 20, width // 20, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


def silent_heads(height, width):
    """What the network would say of a canvas without a face."""
    heads = {}
    for stride in (8, 16, 32):
        points = (height // stride) * (width // stride)
        for name, length in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            heads[f"{name}_{stride}"] = np.zeros((points, length), np.float32)
    return heads


FIVE = np.array([[-10, -10], [10, -10], [0, 0], [-8, 10], [8, 10]], np.float32)
"""Landmarks of a face of about 40 pixels, from its centre."""


def say(heads, canvas_width, x, y, size, score):
    """Put a face into the heads at stride 8: its centre, its side, its score."""
    column, row = int(x // 8), int(y // 8)
    point = row * (canvas_width // 8) + column
    heads["cls_8"][point] = heads["obj_8"][point] = score
    heads["bbox_8"][point] = (x / 8 - column, y / 8 - row, math.log(size / 8), math.log(size / 8))
    heads["kps_8"][point] = ((FIVE * size / 40 + (x, y)) / 8 - (column, row)).reshape(-1)


# --- canvases ---


@pytest.mark.parametrize("size", SIZES)
def test_sides_of_canvases_suit_the_network(size):
    for look in canvases(photo_of(*size)):
        assert look.pixels.dtype == np.uint8
        assert look.pixels.flags.c_contiguous
        assert look.pixels.shape[0] % 32 == look.pixels.shape[1] % 32 == 0
        assert max(look.pixels.shape) <= TILE


def test_a_photo_of_a_face_is_one_small_canvas():
    assert [look.pixels.shape for look in canvases(photo_of(250, 250))] == [(256, 256, 3)]


def test_a_crop_of_a_face_has_a_black_border():
    (look,) = canvases(np.full((112, 112, 3), 255, np.uint8))
    lit = look.pixels[..., 0] > 0
    assert lit.sum() == 112 * 112
    assert not lit[:16].any()
    assert not lit[-16:].any()
    assert not lit[:, :16].any()
    assert not lit[:, -16:].any()


@pytest.mark.parametrize("size", SIZES)
def test_scale_and_offset_say_where_a_canvas_pixel_comes_from(size):
    for look in canvases(photo_of(*size)):
        rows, columns = np.nonzero(look.pixels[..., 2] > 200)
        # the last row and column of a reduced level may average fewer photo pixels than the others
        inner = (rows < rows.max()) & (columns < columns.max()) | (look.scale == 1)
        rows, columns = rows[inner], columns[inner]
        for side, channel, at in ((size[0], 0, columns), (size[1], 1, rows)):
            position = (at + 0.5 - look.offset[channel]) / look.scale - 0.5
            expected = position * 255 / (side - 1)
            error = np.abs(look.pixels[rows, columns, channel] - expected)
            assert error.max(initial=0) <= 1.0 + 0.5 * 255 / side


@pytest.mark.parametrize("size", SIZES)
def test_every_level_is_covered_by_its_tiles(size):
    looks = canvases(photo_of(*size))
    for scale in {look.scale for look in looks}:
        width, height = round(size[0] * scale), round(size[1] * scale)
        seen = np.zeros((height + 8, width + 8), bool)
        for look in (look for look in looks if look.scale == scale):
            rows, columns = np.nonzero(look.pixels[..., 2] > 0)
            seen[rows - look.offset[1], columns - look.offset[0]] = True
        assert seen[: height - 1, : width - 1].all()


@pytest.mark.parametrize("length", [TILE + 1, 1500, 1920, 2560])
def test_what_fits_into_the_overlap_lies_whole_in_a_tile(length):
    looks = [look for look in canvases(photo_of(length, 400)) if look.scale == 1]
    spans = [(max(look.seams[0], 0) - look.offset[0], min(look.seams[2], 1e9) - look.offset[0]) for look in looks]
    for start in range(length - OVERLAP):
        assert any(left <= start and start + OVERLAP <= right for left, right in spans)


@pytest.mark.parametrize("size", SIZES)
def test_levels_follow_each_other_until_a_face_that_fills_the_photo_is_small(size):
    scales = sorted({look.scale for look in canvases(photo_of(*size))}, reverse=True)
    assert scales[0] == min(1, 4096 / max(size))
    assert all(fine == coarse * 4 for fine, coarse in itertools.pairwise(scales))
    assert max(size) * scales[-1] <= LAST_SIDE


def test_neighbouring_levels_share_a_range_of_sizes():
    assert LARGEST_FACE / 4 > SMALLEST_FACE * 1.2


# --- heads ---


def test_heads_are_read_as_the_network_means_them():
    chance = np.random.default_rng(3)
    look = Canvas(np.zeros((64, 96, 3), np.uint8), 0.5, (8.0, 4.0), (-math.inf,) * 2 + (math.inf,) * 2, (0.0, math.inf))
    heads = silent_heads(64, 96)
    for name, head in heads.items():
        uniform = name.startswith(("cls", "obj"))
        head[:] = chance.uniform(0, 1, head.shape) if uniform else chance.normal(0, 1, head.shape)
    expected = []
    for stride in (8, 16, 32):
        for row in range(64 // stride):
            for column in range(96 // stride):
                point = row * (96 // stride) + column
                score = math.sqrt(heads[f"cls_{stride}"][point, 0] * heads[f"obj_{stride}"][point, 0])
                if score < 0.6:
                    continue
                dx, dy, dw, dh = heads[f"bbox_{stride}"][point]
                x, y, width, height = (
                    (column + dx) * stride,
                    (row + dy) * stride,
                    math.exp(dw) * stride,
                    math.exp(dh) * stride,
                )
                numbers = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
                numbers += [(heads[f"kps_{stride}"][point, i] + (column, row)[i % 2]) * stride for i in range(10)]
                in_photo = [(value + 0.5 - (8.0, 4.0)[i % 2]) / 0.5 - 0.5 for i, value in enumerate(numbers)]
                expected.append([score, *in_photo])
    scores, boxes, landmarks = candidates(heads, look, 0.6)
    found = np.column_stack([scores, boxes, landmarks.reshape(-1, 10)])
    assert len(expected) > 10
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_numbers_beyond_all_bounds_do_no_harm():
    (look,) = canvases(photo_of(250, 250))
    heads = silent_heads(256, 256)
    say(heads, 256, 100, 100, 40, 1.5)
    heads["bbox_8"][:, 2:] = 1e6
    (face,) = faces_from([heads], [look], (250, 250), max_faces=9)
    assert face.score == 1
    assert (face.box.width, face.box.height) == (250, 250)


def test_a_face_cut_by_a_seam_is_left_to_the_neighbouring_tile():
    looks = [look for look in canvases(photo_of(1920, 600)) if look.scale == 1]
    first, second = looks[:2]
    width = first.pixels.shape[1]
    for distance, expected in ((30, 1), (10, 0)):
        heads = [silent_heads(look.pixels.shape[0], width) for look in looks]
        say(heads[0], width, first.seams[2] - distance, 100, 40, 0.9)
        assert len(faces_from(heads, looks, (1920, 600), max_faces=9)) == expected
    heads = [silent_heads(look.pixels.shape[0], width) for look in looks]
    say(heads[1], width, second.seams[0] + 10, 100, 40, 0.9)
    assert faces_from(heads, looks, (1920, 600), max_faces=9) == []


def test_each_level_answers_for_its_own_sizes():
    looks = canvases(photo_of(800, 800))
    fine, coarse = looks
    assert (fine.sizes, coarse.sizes) == ((0, LARGEST_FACE), (SMALLEST_FACE, math.inf))
    for number, look, size, expected in ((0, fine, 300, 0), (0, fine, 30, 1), (1, coarse, 100, 1), (1, coarse, 30, 0)):
        heads = [silent_heads(*other.pixels.shape[:2]) for other in looks]
        say(heads[number], look.pixels.shape[1], 100, 100, size, 0.9)
        assert len(faces_from(heads, looks, (800, 800), max_faces=9)) == expected


def test_a_face_seen_on_two_levels_is_one_face():
    looks = canvases(photo_of(800, 800))
    heads = [silent_heads(*look.pixels.shape[:2]) for look in looks]
    for head, look, score in zip(heads, looks, (0.8, 0.9), strict=True):
        at = [(400 + 0.5) * look.scale + offset - 0.5 for offset in look.offset]
        say(head, look.pixels.shape[1], *at, 200 * look.scale, score)
    (face,) = faces_from(heads, looks, (800, 800), max_faces=9)
    assert face.score == pytest.approx(0.9)


def test_faces_come_largest_first_and_no_more_than_asked_for():
    (look,) = canvases(photo_of(250, 250))
    heads = silent_heads(256, 256)
    for x, size in ((40, 30), (100, 50), (180, 40)):
        say(heads, 256, x, 100, size, 0.9)
    found = faces_from([heads], [look], (250, 250), max_faces=2)
    assert [round(face.box.width) for face in found] == [50, 40]


def test_boxes_end_where_the_photo_ends():
    (look,) = canvases(photo_of(250, 250))
    heads = silent_heads(256, 256)
    say(heads, 256, 10, 240, 60, 0.9)
    (face,) = faces_from([heads], [look], (250, 250), max_faces=9)
    assert (face.box.x, face.box.y + face.box.height) == (-0.5, 249.5)


def test_landmarks_that_form_no_face_are_no_face():
    (look,) = canvases(photo_of(250, 250))
    heads = silent_heads(256, 256)
    say(heads, 256, 100, 100, 40, 0.9)
    heads["kps_8"][:] = 3
    assert faces_from([heads], [look], (250, 250), max_faces=9) == []


# --- duplicates ---


def test_suppression_keeps_what_a_slow_one_keeps():
    chance = np.random.default_rng(5)
    corners = chance.uniform(0, 60, (80, 2))
    boxes = np.concatenate([corners, corners + chance.uniform(5, 40, (80, 2))], axis=1).astype(np.float32)
    scores = chance.uniform(0, 1, 80).astype(np.float32)

    def iou(a, b):
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    kept = []
    for i in sorted(range(80), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j]) <= 0.4 for j in kept):
            kept.append(i)
    assert 5 < len(kept) < 75
    assert suppress(boxes, scores, 0.4).tolist() == kept


def test_nothing_is_suppressed_from_nothing():
    assert suppress(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0.4).size == 0


# --- real faces ---


def test_each_of_four_hundred_small_portraits_shows_one_face(heads):
    detector = Detector(heads)
    counts = [
        len(detector.detect(faces.orl_pixels(person, photo))) for person in range(1, 41) for photo in range(1, 11)
    ]
    assert counts == [1] * 400


def test_landmarks_are_in_the_order_of_the_template(heads):
    (face,) = Detector(heads).detect(faces.orl_pixels(1, 1))
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert face.landmarks.dtype == np.float32
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_faces_of_forty_pixels_are_found_in_twelve_megapixels(heads):
    canvas = backdrop(4000, 3000)
    places = [(60 + 620 * i, 50 + 480 * j) for i in range(6) for j in range(6)]
    for number, place in enumerate(places):
        portrait = Image.fromarray(faces.orl_pixels(number + 1, 1)).resize((41, 50), Image.Resampling.BOX)
        canvas.paste(portrait, place)
    found = Detector(heads).detect(np.asarray(canvas))
    centres = [(face.box.x + face.box.width / 2, face.box.y + face.box.height / 2) for face in found]
    seen = [any(abs(x - left - 20) < 15 and abs(y - top - 25) < 15 for x, y in centres) for left, top in places]
    assert all(seen)
    assert len(found) == len(places)


@pytest.mark.parametrize("size", [(3000, 4000), (1080, 1920), (448, 448), (700, 640)])
def test_a_face_that_fills_a_large_photo_is_found_once(heads, size):
    for person in (1, 7, 23):
        portrait = Image.fromarray(faces.orl_pixels(person, 1)).crop((8, 15, 84, 112))
        (face,) = Detector(heads).detect(np.asarray(portrait.resize(size, Image.Resampling.BICUBIC)))
        assert face.box.height > size[1] / 2


@pytest.mark.parametrize("factor", [1.5, 3, 6, 12])
def test_landmarks_grow_with_the_photo(heads, factor):
    portrait = Image.fromarray(faces.orl_pixels(2, 1))
    (small,) = Detector(heads).detect(np.asarray(portrait))
    size = round(92 * factor), round(112 * factor)
    (large,) = Detector(heads).detect(np.asarray(portrait.resize(size, Image.Resampling.BICUBIC)))
    expected = (small.landmarks + 0.5) * factor - 0.5
    assert np.abs(large.landmarks - expected).mean() < 0.03 * small.box.height * factor


def test_two_hundred_faces_are_counted(heads):
    crowd = decode(faces.crowd(200), max_bytes=1 << 24, max_pixels=50_000_000)
    assert abs(len(Detector(heads, max_faces=500).detect(crowd.pixels)) - 200) <= 2
    assert len(Detector(heads, max_faces=50).detect(crowd.pixels)) == 50


@pytest.mark.parametrize("pixels", [np.zeros((480, 640, 3), np.uint8), np.asarray(backdrop(640, 480))])
def test_no_face_is_found_where_there_is_none(heads, pixels):
    assert Detector(heads).detect(pixels) == []


def test_canvases_of_several_photos_may_share_a_batch(heads):
    looks = [canvases(faces.orl_pixels(person, 1))[0] for person in (1, 2, 3)]
    together = heads(np.stack([look.pixels for look in looks]))
    for number, look in enumerate(looks):
        shared = faces_from([{name: head[number] for name, head in together.items()}], [look], (92, 112), max_faces=9)
        (alone,) = Detector(heads).detect(faces.orl_pixels(number + 1, 1))
        assert np.abs(shared[0].landmarks - alone.landmarks).max() < 1e-3
