"""Crops as bytes: PNG, which loses nothing, so that another model sees what the first one saw."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from service.errors import StorageError
from service.vision.align import CROP_SIDE

COMPRESSION = 3
"""Of zlib's nine levels; higher ones take several times as long for a few hundred bytes."""


def pack(crop: NDArray[np.uint8]) -> bytes:
    """Return a crop, (112,112,3) uint8 RGB, as a PNG file: some 20 KB."""
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "PNG", compress_level=COMPRESSION)
    return file.getvalue()


def unpack(packed: bytes) -> NDArray[np.uint8]:
    """Return the crop, (112,112,3) uint8 RGB.

    Raises:
        StorageError: the bytes are no packed crop.
    """
    try:
        with Image.open(io.BytesIO(packed), formats=["PNG"]) as image:
            crop = np.asarray(image)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise StorageError("a crop in the catalog is damaged") from error
    if crop.shape != (CROP_SIDE, CROP_SIDE, 3) or crop.dtype != np.uint8:
        raise StorageError("a crop in the catalog is damaged")
    return crop
