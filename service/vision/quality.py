"""How good a face is for recognition: five parts and their product, each in [0, 1].

Every part is a ramp from 0 (no use) to 1 (as good as it gets): about the share of the similarity to other photos of the
person that a face keeps when nothing else is wrong with it. The parts multiply, so that a face bad in several ways is
worse than its worst part, and no part can hide another: whatever is near 0 refuses the face alone.

    size       log of the face's side in photo pixels, from 16 to 64; the side is what 112 pixels of the crop span
    sharpness  log of the detail in the face: root mean square of the Laplacian after a 3 x 3 binomial smoothing, over
               the standard deviation of the brightness, from 0.045 to 0.2; measured at the size of the photo or of the
               crop, whichever is smaller, so that a small face is not also called blurred
    pose       angle between the face and the camera, estimated from the landmarks, from 80 degrees to 20
    exposure   the least of: mean brightness, from 8 to 48 and from 250 to 190; contrast (5th to 95th percentile), from
               8 to 48; the darker half's median over the brighter half's, left and right, from 0.02 to 0.45
    detection  the detector's score, from 0.6 to 0.92

Brightness is 0.299 R + 0.587 G + 0.114 B of the region of the crop that holds eyes, nose and mouth, 0 to 255.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.vision.align import CROP_SIDE, similarity
from service.vision.detect import Face

REASONS = {
    "size": "too_small",
    "sharpness": "blurred",
    "pose": "turned",
    "exposure": "badly_exposed",
    "detection": "doubtful_detection",
}
"""What a bad part is called in answers."""

SUSPECT = 0.6
"""A part under this is named among the reasons when the whole is refused."""

_TOP, _BOTTOM, _LEFT, _RIGHT = 30, 106, 24, 88
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)

_NOSE_REACH = 0.4
"""How far a nose stands out, in distances from eyes to mouth: turned by y, it moves sideways by sin y times that."""
_NOSE_HEIGHT = 0.56
"""Where between eyes (0) and mouth (1) the nose lies in a face held level."""
_NOD = 0.0065
"""How much that changes with each degree of a nod."""


@dataclass(frozen=True)
class Quality:
    """The quality of a face, each figure in [0, 1], 1 is best.

    Attributes:
        size: pixels there were.
        sharpness: detail there is.
        pose: how much the face looks into the camera.
        exposure: neither dark, bright, flat nor lit from one side only.
        detection: how sure the detector was.
        score: the product of the five.
    """

    size: float
    sharpness: float
    pose: float
    exposure: float
    detection: float
    score: float


def assess(crop: NDArray[np.uint8], face: Face) -> Quality:
    """Judge a face.

    Args:
        crop: (112, 112, 3) uint8 RGB, as `align` cut it out.
        face: the detection it was cut from.

    Raises:
        NoFaceError: the landmarks do not form a face.
    """
    side = face_side(face.landmarks)
    grey = (crop @ _BRIGHTNESS).astype(np.float32)
    size = ramp(math.log(side), math.log(16), math.log(64))
    sharpness = ramp(math.log(max(detail(grey, side), 1e-6)), math.log(0.045), math.log(0.2))
    pose = ramp(angle(face.landmarks), 80, 20)
    light = exposure(grey)
    detection = ramp(face.score, 0.6, 0.92)
    return Quality(size, sharpness, pose, light, detection, size * sharpness * pose * light * detection)


def reasons(quality: Quality, floor: float) -> list[str]:
    """Say why a face is refused, the worst part first; nothing when its score reaches the floor."""
    if quality.score >= floor:
        return []
    parts = sorted((getattr(quality, part), reason) for part, reason in REASONS.items())
    return [reason for value, reason in parts if value < SUSPECT] or [parts[0][1]]


def ramp(value: float, worst: float, best: float) -> float:
    """Give 0 at `worst` and beyond, 1 at `best` and beyond, and a straight line between."""
    return min(1.0, max(0.0, (value - worst) / (best - worst)))


def face_side(landmarks: NDArray[np.floating]) -> float:
    """Measure how many photo pixels the side of the crop spans.

    Raises:
        NoFaceError: the landmarks do not form a face.
    """
    a, b, _, _ = similarity(landmarks)
    return CROP_SIDE / math.hypot(a, b)


def angle(landmarks: NDArray[np.floating]) -> float:
    """Estimate the angle between face and camera, 0 to 90 degrees and more; leaning sideways does not count.

    With d the way from the middle of the eyes to the middle of the mouth: the nose's distance from d is |d| sin(yaw)
    times a constant, the distance of the eyes about |d| cos(yaw), and the place of the nose along d changes with pitch.
    """
    z = np.asarray(landmarks, np.float64) @ (1, 1j)
    eyes, mouth = (z[0] + z[1]) / 2, (z[3] + z[4]) / 2
    down = mouth - eyes
    if down == 0:
        return 90.0
    nose = (z[2] - eyes) / down
    yaw = math.degrees(math.atan2(abs(nose.imag) / _NOSE_REACH, abs((z[1] - z[0]) / down)))
    pitch = (nose.real - _NOSE_HEIGHT) / _NOD
    return math.hypot(yaw, pitch)


def detail(grey: NDArray[np.float32], side: float) -> float:
    """Measure the fine structure of the face region, in its own contrast.

    Args:
        grey: (112, 112) brightness of the crop.
        side: photo pixels that the crop spans.
    """
    shrink = min(1.0, side / CROP_SIDE)
    length = max(8, round(CROP_SIDE * shrink))
    if length < CROP_SIDE:
        grey = np.asarray(Image.fromarray(grey).resize((length, length), Image.Resampling.BILINEAR))
    top, bottom, left, right = (round(edge * length / CROP_SIDE) for edge in (_TOP, _BOTTOM, _LEFT, _RIGHT))
    face = grey[top:bottom, left:right]
    smooth = (face[:, :-2] + 2 * face[:, 1:-1] + face[:, 2:]) / 4
    smooth = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 4
    middle = smooth[1:-1, 1:-1]
    laplacian = 4 * middle - smooth[:-2, 1:-1] - smooth[2:, 1:-1] - smooth[1:-1, :-2] - smooth[1:-1, 2:]
    return math.sqrt(float(np.mean(laplacian**2))) / max(float(face.std()), 1.0)


def exposure(grey: NDArray[np.float32]) -> float:
    """Judge the light on the face region: brightness, contrast, and balance of left and right.

    Args:
        grey: (112, 112) brightness of the crop.
    """
    face = grey[_TOP:_BOTTOM, _LEFT:_RIGHT]
    middle = (_RIGHT - _LEFT) // 2
    mean = float(face.mean())
    dark, bright = quantiles(face, (0.05, 0.95))
    (left,), (right,) = quantiles(face[:, :middle], (0.5,)), quantiles(face[:, middle:], (0.5,))
    return min(
        ramp(mean, 8, 48),
        ramp(mean, 250, 190),
        ramp(bright - dark, 8, 48),
        ramp(min(left, right) / max(left, right, 1.0), 0.02, 0.45),
    )


def quantiles(values: NDArray[np.float32], shares: Sequence[float]) -> list[float]:
    """Quantiles with linear interpolation, as `numpy.quantile` gives them at several times the cost."""
    ordered = np.sort(values, axis=None)
    found = []
    for share in shares:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        found.append(float(ordered[low]) + (place - low) * float(ordered[high] - ordered[low]))
    return found
