"""What becomes of photos in every format, and of files that are no photos."""

import contextlib
import hashlib
import io
import random
import re
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from service.errors import (
    PhotoAnimatedError,
    PhotoDamagedError,
    PhotoEmptyError,
    PhotoError,
    PhotoFormatError,
    PhotoTooLargeError,
    PhotoTooSmallError,
)
from service.vision.decode import Photo, decode
from tests import faces
from tests.faces import png_of, saved, scene

LIMITS = {"max_bytes": 16 << 20, "max_pixels": 50_000_000}


def pixels(data):
    return decode(data, **LIMITS).pixels


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x011A] = 72.0
    return exif


LOSSLESS = {
    "png": saved(scene(), "PNG"),
    "bmp": saved(scene(), "BMP"),
    "webp": saved(scene(), "WEBP", lossless=True),
    "ppm": saved(scene(), "PPM"),
    "tiff": saved(scene(), "TIFF"),
}
LOSSY = {
    "jpeg": saved(scene(), "JPEG", quality=95, subsampling=0, exif=turned(1)),
    "progressive jpeg": saved(scene(), "JPEG", quality=95, subsampling=0, progressive=True),
    "cmyk jpeg": faces.cmyk_jpeg(),
    "webp": saved(scene(), "WEBP", quality=95),
    "avif": saved(scene(), "AVIF", quality=95, subsampling="4:4:4", exif=turned(1)),
    "gif": saved(scene(), "GIF"),
    "palette png": saved(scene().quantize(256), "PNG"),
}
ANIMATED = {
    "gif": faces.animated_gif(),
    "png": faces.animated_png(),
    "webp": faces.animated_webp(),
    "avif": saved(scene(), "AVIF", save_all=True, append_images=[scene().rotate(180)]),
    "tiff": saved(scene(), "TIFF", save_all=True, append_images=[scene().rotate(180)]),
}


# --- formats ---


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_lossless_photo_is_decoded_exactly(kind):
    assert np.array_equal(pixels(LOSSLESS[kind]), np.asarray(scene()))


@pytest.mark.parametrize("kind", LOSSY)
def test_a_lossy_photo_is_decoded_closely(kind):
    # the sharp edge of the blue quarter is where coarse palettes and transforms differ
    assert np.abs(pixels(LOSSY[kind]).astype(int) - np.asarray(scene())).mean() < 6


def test_pixels_are_rgb_bytes_that_nobody_can_change():
    photo = decode(LOSSLESS["png"], **LIMITS)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    assert not photo.pixels.flags.writeable


def test_the_digest_is_that_of_the_bytes():
    data = LOSSLESS["png"]
    assert decode(data, **LIMITS).digest == hashlib.sha256(data).hexdigest()


def test_grey_becomes_three_equal_channels():
    decoded = pixels(saved(scene().convert("L"), "PNG"))
    assert np.array_equal(decoded, np.asarray(scene().convert("L"))[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind):
    with Image.open(io.BytesIO(faces.grey16_png())) as ramp:
        data = saved(ramp, kind)
    assert np.array_equal(pixels(data)[0, :, 0], np.arange(256))


def test_a_black_and_white_bitmap_is_black_and_white():
    bitmap = scene().convert("1")
    assert np.array_equal(pixels(saved(bitmap, "PNG"))[..., 0], np.asarray(bitmap) * 255)


def test_transparency_lies_on_white():
    image = scene().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    colour, alpha = np.asarray(scene()).astype(float), np.asarray(image)[..., 3:] / 255
    assert np.abs(pixels(saved(image, "PNG")) - (colour * alpha + 255 * (1 - alpha))).max() < 1.01


def test_transparent_entries_of_a_palette_lie_on_white():
    image = Image.new("P", (32, 32), 1)
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.paste(0, (0, 0, 16, 32))
    decoded = pixels(saved(image, "PNG", transparency=bytes([0, 255])))
    assert decoded[5, 5].tolist() == [255, 255, 255]
    assert decoded[5, 25].tolist() == [0, 100, 0]


@pytest.mark.parametrize(("mode", "key"), [("L", 90), ("RGB", (90, 90, 90))])
def test_a_transparent_colour_lies_on_white(mode, key):
    image = Image.new(mode, (32, 32), key)
    image.paste(Image.new(mode, (16, 32)), (0, 0))
    decoded = pixels(saved(image, "PNG", transparency=key))
    assert decoded[5, 5].tolist() == [0, 0, 0]
    assert decoded[5, 25].tolist() == [255, 255, 255]


def test_only_the_first_picture_of_a_multi_picture_jpeg_is_taken():
    data = saved(scene(), "MPO", save_all=True, append_images=[scene().rotate(180)], quality=95, subsampling=0)
    assert np.abs(pixels(data).astype(int) - np.asarray(scene())).mean() < 2


# --- orientation ---


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_of_any_orientation_is_set_upright(orientation):
    decoded = pixels(faces.turned_jpeg(orientation))
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - np.asarray(scene())).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "TIFF"])
def test_other_formats_are_set_upright_too(kind):
    stored = scene().transpose(Image.Transpose.ROTATE_90)
    decoded = pixels(saved(stored, kind, quality=95, exif=turned(6)))
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - np.asarray(scene())).mean() < 8


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_unreadable_exif_data_leave_the_photo_as_it_is(exif):
    assert pixels(saved(scene(), "JPEG", exif=exif)).shape == (48, 64, 3)


# --- refusals ---


def test_no_bytes_are_an_empty_photo():
    with pytest.raises(PhotoEmptyError):
        decode(b"", **LIMITS)


@pytest.mark.parametrize(
    "data",
    [b"Dear diary, this is no photo." * 50, b"\0", b"%PDF-1.7", b"RIFF\0\0\0\0WAVE", b"P7\n", b"\0\0\0\x18ftypisom"],
)
def test_other_files_are_of_no_accepted_format(data):
    with pytest.raises(PhotoFormatError):
        decode(data, **LIMITS)


def test_heic_bytes_that_cannot_be_read_are_refused():
    with pytest.raises((PhotoFormatError, PhotoDamagedError)):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), **LIMITS)


def test_compressed_tiff_is_refused():
    with pytest.raises(PhotoFormatError):
        decode(saved(scene(), "TIFF", compression="tiff_lzw"), **LIMITS)


def test_floating_point_images_are_refused():
    with pytest.raises(PhotoFormatError):
        decode(saved(scene().convert("F"), "TIFF"), **LIMITS)


@pytest.mark.parametrize("kind", LOSSLESS | LOSSY)
def test_a_photo_cut_short_is_damaged(kind):
    whole = (LOSSLESS | LOSSY)[kind]
    with pytest.raises(PhotoDamagedError):
        decode(whole[: len(whole) // 2], **LIMITS)


def test_a_jpeg_cut_short_in_its_pixels_is_damaged():
    with pytest.raises(PhotoDamagedError):
        decode(faces.truncated_jpeg(), **LIMITS)


def test_a_photo_of_no_width_and_height_is_damaged():
    with pytest.raises(PhotoDamagedError):
        decode(png_of(0, 0), **LIMITS)


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_a_photo_without_room_for_a_face_is_too_small(size):
    with pytest.raises(PhotoTooSmallError):
        decode(saved(Image.new("RGB", size), "PNG"), **LIMITS)


@pytest.mark.parametrize("kind", ANIMATED)
def test_animations_are_refused(kind):
    with pytest.raises(PhotoAnimatedError):
        decode(ANIMATED[kind], **LIMITS)


def test_bytes_over_the_limit_are_not_looked_at():
    with pytest.raises(PhotoTooLargeError) as refusal:
        decode(b"no photo at all", max_bytes=14, max_pixels=1_000_000)
    assert refusal.value.extra == {"limit": 14}


@pytest.mark.parametrize("kind", LOSSLESS | LOSSY)
def test_pixels_over_the_limit_are_refused(kind):
    with pytest.raises(PhotoTooLargeError):
        decode((LOSSLESS | LOSSY)[kind], max_bytes=1 << 20, max_pixels=64 * 48 - 1)


def test_a_bomb_is_refused_at_once():
    data = faces.bomb_png()
    start = time.perf_counter()
    with pytest.raises(PhotoTooLargeError):
        decode(data, **LIMITS)
    assert time.perf_counter() - start < 0.1


def test_refusing_a_bomb_takes_no_memory():
    program = """
import resource
from service.errors import PhotoTooLargeError
from service.vision.decode import decode
from tests.faces import bomb_png, png_of
data = bomb_png()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(data, max_bytes=16 << 20, max_pixels=50_000_000)
except PhotoTooLargeError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(said) < 10_000  # KiB


def test_a_jpeg_of_endless_scans_is_refused():
    whole = saved(scene(640, 480), "JPEG", progressive=True)
    first, second = (found.start() for found in list(re.finditer(b"\xff\xda", whole))[:2])
    limits = {"max_bytes": 1 << 20, "max_pixels": 640 * 480}
    assert isinstance(decode(whole, **limits), Photo)
    with pytest.raises(PhotoTooLargeError):
        decode(whole[:first] + whole[first:second] * 40 + whole[second:], **limits)


# --- hostile files ---


@pytest.mark.parametrize("kind", LOSSLESS | LOSSY | {f"animated {kind}": data for kind, data in ANIMATED.items()})
def test_flipped_bytes_give_a_photo_or_a_named_error_and_no_warning(kind):
    files = LOSSLESS | LOSSY | {f"animated {name}": data for name, data in ANIMATED.items()}
    chance = random.Random(kind)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for _ in range(150):
            data = bytearray(files[kind])
            for _ in range(chance.choice((1, 2, 5))):
                data[chance.randrange(chance.choice((64, len(data))))] = chance.randrange(256)
            with contextlib.suppress(PhotoError):
                assert isinstance(decode(bytes(data), max_bytes=1 << 20, max_pixels=1_000_000), Photo)
    assert [str(warning.message) for warning in leaked] == []


def test_threads_do_not_disturb_each_other():
    files = [*LOSSLESS.values(), *LOSSY.values()] * 8
    alone = [pixels(data) for data in files]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(pixels, files))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    assert list(warnings.filters) == filters
