"""From the bytes of a photo to RGB pixels, trusting nothing about the bytes.

    bytes -> size limit -> format, by its first bytes -> header -> pixel limit -> pixels -> upright -> RGB

Only formats listed in `_SIGNATURES` are tried, each with its own Pillow plugin and never with `Image.open`, which would
try others and applies limits of its own that belong to the whole process. The pixel limit is checked on the header, so
that a bomb costs microseconds. Whatever goes wrong inside a decoder ends as one of the `PhotoError` types.

Colours are taken as sRGB: embedded colour profiles are ignored, which recognition does not notice.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from service.errors import (
    PhotoAnimatedError,
    PhotoDamagedError,
    PhotoEmptyError,
    PhotoError,
    PhotoFormatError,
    PhotoTooLargeError,
    PhotoTooSmallError,
)

MIN_SIDE = 16
"""Shortest side, in pixels, that can show a face at all."""

MAX_SCANS = 20
"""Decoding work allowed to a progressive JPEG, in passes over a photo of `max_pixels`; cameras write about ten."""

BACKGROUND = (255, 255, 255)
"""What transparent pixels lie on: white, as viewers show them and as the studios that cut portraits out expect."""

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, upright, C-contiguous and read-only.
        digest: SHA-256 of the bytes it came from, in hex.
    """

    pixels: NDArray[np.uint8]
    digest: str


def decode(data: bytes, *, max_bytes: int, max_pixels: int) -> Photo:
    """Decode a photo. Any number of threads may call this at once.

    Args:
        data: the file: JPEG, PNG, WebP, AVIF, BMP, GIF, PNM or uncompressed TIFF with one frame; HEIC where
            `pillow-heif` is installed.
        max_bytes: most bytes looked at.
        max_pixels: most pixels (width times height) decoded.

    Raises:
        PhotoEmptyError: there are no bytes.
        PhotoFormatError: the bytes are in none of the formats, or in a variant that shows no photo.
        PhotoDamagedError: they start like one of them and cannot be decoded to the end.
        PhotoAnimatedError: they hold several frames.
        PhotoTooLargeError: a limit is passed.
        PhotoTooSmallError: a side is shorter than `MIN_SIDE`.
    """
    if not data:
        raise PhotoEmptyError("the file holds no bytes")
    if len(data) > max_bytes:
        raise PhotoTooLargeError(f"the photo has {len(data)} bytes, {max_bytes} are allowed", limit=max_bytes)
    kind = _kind(data)
    try:
        # The parsers of rarer containers warn about odd metadata. Silencing warnings is a switch of the whole process,
        # hence the lock; JPEG, PNG, WebP, BMP and PNM are opened in ways that cannot warn and run side by side.
        with _without_warnings() if kind in _TALKATIVE else contextlib.nullcontext():
            image = _OPENERS[kind](data)
            _check_size(image, data, max_pixels)
            image.load()
            image = _to_rgb(_upright(image))
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoTooLargeError("the photo needs more memory than there is") from error
    except Image.DecompressionBombError as error:
        raise PhotoTooLargeError(f"the photo has more than {max_pixels} pixels", limit=max_pixels) from error
    except Exception as error:  # decoders raise whatever their parsers stumble over
        raise PhotoDamagedError(f"the file starts like {kind} and cannot be decoded to its end") from error
    return Photo(np.asarray(image), hashlib.sha256(data).hexdigest())


# --- which format ---


def _kind(data: bytes) -> str:
    """Name the format by the file's first bytes."""
    for kind, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in brands for brand in _HEIF_BRANDS):
            return "HEIC"
    if data[:1] == b"P" and data[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6") and data[2:3].isspace():
        return "PNM"
    raise PhotoFormatError("the file is no JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF, TIFF or PNM image")


_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "BMP": (b"BM",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*"),
}


class _QuietJpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG whose print resolution is not looked up in its EXIF data, a reader that warns about damaged ones.

    It also takes the first picture of a multi-picture file (depth maps, gain maps) for the photo.
    """

    def _read_dpi_from_exif(self) -> None:
        pass


def _open_png(data: bytes) -> Image.Image:
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        if data[at + 4 : at + 8] == b"acTL":
            raise PhotoAnimatedError("the PNG is animated")
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return PngImagePlugin.PngImageFile(io.BytesIO(data))


def _open_tiff(data: bytes) -> Image.Image:
    image = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    if any(tile.codec_name == "libtiff" for tile in image.tile):
        # libtiff is a large target for hostile files, prints to the terminal, and photos hardly come this way
        raise PhotoFormatError("TIFF photos are read only when they are not compressed")
    return image


def _open_heic(data: bytes) -> Image.Image:
    if importlib.util.find_spec("pillow_heif") is None:
        raise PhotoFormatError("HEIC photos are read only where the package pillow-heif is installed")
    from pillow_heif import HeifImageFile  # noqa: PLC0415  # an optional package, loaded at the first HEIC photo

    image: Image.Image = HeifImageFile(io.BytesIO(data))
    return image


_OPENERS: dict[str, Callable[[bytes], Image.Image]] = {
    "JPEG": lambda data: _QuietJpeg(io.BytesIO(data)),
    "PNG": _open_png,
    "WebP": lambda data: WebPImagePlugin.WebPImageFile(io.BytesIO(data)),
    "AVIF": lambda data: AvifImagePlugin.AvifImageFile(io.BytesIO(data)),
    "HEIC": _open_heic,
    "BMP": lambda data: BmpImagePlugin.BmpImageFile(io.BytesIO(data)),
    "GIF": lambda data: GifImagePlugin.GifImageFile(io.BytesIO(data)),
    "TIFF": _open_tiff,
    "PNM": lambda data: PpmImagePlugin.PpmImageFile(io.BytesIO(data)),
}
_TALKATIVE = {"AVIF", "HEIC", "GIF", "TIFF"}
_warnings_lock = threading.Lock()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- limits, on the header alone ---


def _check_size(image: Image.Image, data: bytes, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoTooLargeError(f"the photo has {width} x {height} pixels, {max_pixels} are allowed", limit=max_pixels)
    if getattr(image, "is_animated", False):
        raise PhotoAnimatedError("the file holds several frames")
    if min(width, height) < MIN_SIDE:
        raise PhotoTooSmallError(f"the photo has {width} x {height} pixels, a side needs at least {MIN_SIDE}")
    if isinstance(image, _QuietJpeg) and data.count(b"\xff\xda") * width * height > MAX_SCANS * max_pixels:
        raise PhotoTooLargeError("the JPEG has too many scans for its size")


# --- pixels ---


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation asks (TIFF and HEIC files are turned by their own readers)."""
    exif = image.info.get("exif")
    turn = _TURNS.get(_orientation(exif)) if isinstance(exif, bytes) else None
    return image if turn is None else image.transpose(turn)


def _orientation(exif: bytes) -> int:
    """Read the orientation (1 to 8; 1 where absent or unreadable) from the first directory of EXIF data."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, _type, _count, value = struct.unpack_from(order + "HHIH", tiff, at)
            if tag == _ORIENTATION_TAG:
                return int(value)
    except struct.error:
        return 1
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Flatten any mode to RGB: transparency onto `BACKGROUND`, 16 bits scaled to 8, palettes and CMYK resolved."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise PhotoFormatError("floating-point images have no agreed brightness and are not accepted")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    return image.convert("RGB")
