"""From a face in a photo to the crop that recognition sees: 112 x 112 pixels, five landmarks at their places.

The places are those of the ArcFace template (Deng, Guo, Xue, Zafeiriou: "ArcFace", CVPR 2019); the way there is the
similarity (turn, scale, shift; no mirror) of least squared error, in the closed form of Umeyama ("Least-squares
estimation of transformation parameters between two point patterns", IEEE TPAMI 13, 1991). Pixel (column 0, row 0) has
its centre at (0, 0) in the photo and in the crop.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import NoFaceError

CROP_SIDE = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64
)
"""Left eye, right eye, nose, left and right corner of the mouth, as seen in the crop."""

_MIDDLE = complex(*TEMPLATE.mean(axis=0))
_PLACES = [complex(u, v) - _MIDDLE for u, v in TEMPLATE.tolist()]
_SPREAD = math.sqrt(sum(abs(place) ** 2 for place in _PLACES))

LEAST_SPREAD = 1.0
"""Least root-mean-square distance of the landmarks from their middle, in pixels."""
FARTHEST = 1e6
"""Largest coordinate, in pixels, that a landmark may have."""
LEAST_FIT = 0.3
"""Least correlation, from 0 to 1, of the landmarks with the template; a face in profile has more than 0.6."""


def align(pixels: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Cut a face out of a photo, upright and at the template's size, with bilinear interpolation.

    A face larger than the crop is first shrunk by an area average, only where it is needed; what lies outside the
    photo is black.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        landmarks: (5, 2) x and y in photo pixels, in the order of `TEMPLATE`.

    Returns:
        (112, 112, 3) uint8 RGB.

    Raises:
        NoFaceError: the landmarks are not finite, coincide, resemble no face, or lie outside of the photo.
    """
    a, b, x, y = _inverse(*similarity(landmarks))
    # the corners of the crop's first and last pixels, in the photo
    far = CROP_SIDE - 0.5
    corners = np.array([[a * u - b * v + x, b * u + a * v + y] for u in (-0.5, far) for v in (-0.5, far)])
    shrink = max(1, math.floor(math.hypot(a, b)))
    margin = shrink + 1
    height, width = pixels.shape[:2]
    left, top = (max(0, math.floor(low) - margin) for low in corners.min(axis=0))
    right, bottom = (
        min(side, math.ceil(high) + 1 + margin) for side, high in zip((width, height), corners.max(axis=0), strict=True)
    )
    if left >= right or top >= bottom:
        raise NoFaceError("the landmarks of the face lie outside of the photo")
    part = Image.fromarray(pixels[top:bottom, left:right])
    if shrink > 1:
        part = part.reduce(shrink)
    # `Image.transform` counts from pixel edges: an edge position in the reduced part is (centre + 0.5 - left) / shrink
    shift_x, shift_y = x - left + 0.5 - (a - b) / 2, y - top + 0.5 - (b + a) / 2
    matrix = tuple(value / shrink for value in (a, -b, shift_x, b, a, shift_y))
    crop = part.transform((CROP_SIDE, CROP_SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(crop)


def similarity(landmarks: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """Find the similarity that takes landmarks to the template with the least squared error.

    In the plane, eq. (40) to (42) of Umeyama reduce to complex numbers: with z the landmarks and w the template, both
    from their means, the best factor is sum(conj(z) w) / sum(|z|^2).

    Args:
        landmarks: (5, 2) x and y in photo pixels.

    Returns:
        (a, b, x, y), for crop = (a u - b v + x, b u + a v + y) of the photo's point (u, v).

    Raises:
        NoFaceError: the landmarks are not finite, coincide, or resemble no face.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise NoFaceError("the face has no usable landmarks")
    if np.abs(points).max() > FARTHEST:
        raise NoFaceError("the landmarks of the face lie outside of the photo")
    # Five numbers: calling numpy would take longer than the arithmetic.
    z = [complex(u, v) for u, v in points.tolist()]
    middle = sum(z) / 5
    z = [item - middle for item in z]
    spread = sum(abs(item) ** 2 for item in z)
    if spread < 5 * LEAST_SPREAD**2:
        raise NoFaceError("the landmarks of the face coincide")
    factor = sum(item.conjugate() * place for item, place in zip(z, _PLACES, strict=True)) / spread
    if abs(factor) * math.sqrt(spread) < LEAST_FIT * _SPREAD:
        raise NoFaceError("the landmarks do not form a face")
    shift = _MIDDLE - factor * middle
    return factor.real, factor.imag, shift.real, shift.imag


def _inverse(a: float, b: float, x: float, y: float) -> tuple[float, float, float, float]:
    factor = 1 / complex(a, b)
    shift = -factor * complex(x, y)
    return factor.real, factor.imag, shift.real, shift.imag
