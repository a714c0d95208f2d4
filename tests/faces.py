"""Photos for the tests: real faces, fetched once into the user's cache, and odd or broken files, made on the spot."""

import functools
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from service.artifact.orl import orl_faces

# --- real faces ---


@functools.cache
def orl() -> Path:
    """The folder of the ORL faces: `s1` ... `s40`, each with `1.pgm` ... `10.pgm`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return orl_faces(Path(home) / "vultus")


def orl_photo(person: int, photo: int) -> bytes:
    """One photo file, persons 1 to 40, photos 1 to 10."""
    return (orl() / f"s{person}" / f"{photo}.pgm").read_bytes()


def orl_pixels(person: int, photo: int) -> np.ndarray:
    """One photo, (112, 92, 3) uint8 RGB."""
    with Image.open(orl() / f"s{person}" / f"{photo}.pgm") as image:
        return np.asarray(image.convert("RGB"))


def blurred(person: int, photo: int) -> bytes:
    """An ORL photo of 14 x 17 pixels, made large again."""
    small = Image.fromarray(orl_pixels(person, photo)).resize((14, 17), Image.Resampling.BOX)
    return saved(small.resize((368, 448), Image.Resampling.BICUBIC), "PNG")


def crowd(count: int, *, columns: int = 20) -> bytes:
    """A JPEG with `count` faces side by side, one to four hundred."""
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * 92, rows * 112))
    for place in range(count):
        face = Image.fromarray(orl_pixels(place // 10 + 1, place % 10 + 1))
        sheet.paste(face, (place % columns * 92, place // columns * 112))
    return saved(sheet, "JPEG", quality=95)


# --- photos without a face ---


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width: int = 64, height: int = 48) -> Image.Image:
    """A picture whose corners all differ: red grows to the right, green downwards; the upper left quarter is blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).round()
    pixels[..., 1] = np.linspace(0, 255, height).round()[:, None]
    pixels[: height // 2, : width // 2, 2] = 255
    return Image.fromarray(pixels)


def turned_jpeg(orientation: int) -> bytes:
    """The scene as a camera held another way would write it, with the EXIF orientation that sets it upright."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = scene() if undo is None else scene().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(stored, "JPEG", quality=95, subsampling=0, exif=exif)


def grey16_png() -> bytes:
    """A 16-bit grey ramp, 256 x 32, from black to white."""
    ramp = (np.arange(256, dtype=np.uint16) * 257)[None].repeat(32, axis=0)
    return saved(Image.fromarray(ramp), "PNG")


def cmyk_jpeg() -> bytes:
    """The scene as an inverted CMYK JPEG, as print software writes it."""
    return saved(scene().convert("CMYK"), "JPEG", quality=95, subsampling=0)


# --- broken and hostile files ---


def truncated_jpeg() -> bytes:
    """A JPEG that ends in the middle of its pixels."""
    whole = saved(scene(640, 480), "JPEG")
    return whole[: len(whole) // 2]


def animated_gif() -> bytes:
    """A GIF of two frames."""
    return saved(scene(), "GIF", save_all=True, append_images=[scene().rotate(180)])


def animated_png() -> bytes:
    """A PNG of two frames."""
    return saved(scene(), "PNG", save_all=True, append_images=[scene().rotate(180)])


def animated_webp() -> bytes:
    """A WebP of two frames."""
    return saved(scene(), "WEBP", save_all=True, append_images=[scene().rotate(180)])


def png_of(width: int, height: int, *, packed: bytes = b"") -> bytes:
    """An RGB PNG whose header states any size, with the compressed pixels given."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@functools.cache
def bomb_png() -> bytes:
    """A valid PNG of 20,000 x 20,000 pixels in about 1.2 MB, black throughout: 1.2 GB when decoded."""
    rows, row = 20_000, bytes(1 + 3 * 20_000)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(row * 100) + packer.flush(zlib.Z_FULL_FLUSH)  # stands alone, so it may be repeated
    adler = (rows * len(row) % 65521) << 16 | 1  # of zeros alone: the first sum stays 1, the second counts them
    return png_of(
        20_000, 20_000, packed=b"\x78\xda" + block * (rows // 100) + packer.flush() + struct.pack(">I", adler)
    )
