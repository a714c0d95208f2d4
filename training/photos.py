"""What the bytes of a photo hold: a crop, or the reason why there is none."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from training.augment import SIDE
from training.errors import DataError

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def decode(data: bytes) -> Image.Image:
    """The crop in some encoded bytes: RGB, 112x112.

    Raises:
        DataError: the bytes are no whole image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            rgb = image.convert("RGB")
    except UnidentifiedImageError as error:  # its own text names an object in memory
        raise DataError("no readable photo: it has no known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"no readable photo: {error}") from error
    return rgb if rgb.size == (SIDE, SIDE) else rgb.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Check:
    """A photo's digest, SHA-256 in hexadecimal; or its fault, and no digest."""

    digest: str
    fault: str


def check_file(path: Path) -> Check:
    """Read a file that should be a photo."""
    if path.suffix.lower() not in ENDINGS:
        return Check("", "not the name of a photo")
    return check(path.read_bytes)


def check(read: Callable[[], bytes]) -> Check:
    """Read and decode a photo."""
    try:
        data = read()
        decode(data)
    except OSError as error:
        return Check("", f"cannot be read: {error.strerror}")
    except DataError as error:
        return Check("", error.detail)
    return Check(hashlib.sha256(data).hexdigest(), "")
