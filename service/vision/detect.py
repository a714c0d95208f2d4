"""From pixels to faces: YuNet over a pyramid of canvases.

    pixels -> canvases -> (network) -> heads -> candidates -> one list, duplicates removed -> faces

The network (Wu, Peng, Yu: "YuNet: a tiny millisecond-level face detector", 2023) is certain of faces of about 25 to 400
pixels. A photo is therefore looked at in levels, each a quarter of the one before, until a face that fills the photo is
small enough; each level answers for the faces that it sees best. A level larger than a tile is cut into overlapping
tiles, which bounds the memory of the network and leaves few shapes to run it at. A photo of up to 384 pixels is one
canvas.

Everything but the network call is a pure function, so that canvases of several requests can share a batch.
Coordinates: pixel (column 0, row 0) has its centre at (0, 0), in photos and canvases alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import NoFaceError
from service.vision.align import similarity

Heads = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
"""The network: (n, H, W, 3) uint8 RGB, H and W multiples of 32, to its heads `cls_8` ... `kps_32`: (n, points, k)."""

SCORE_FLOOR = 0.65
IOU_LIMIT = 0.4

LONGEST_SIDE = 4096
"""Longest side of the first level. Photos of 12 megapixels keep all of theirs: of faces of 40 pixels, pasted into one,
99 % were found so, 85 % at a side of 3072 and 59 % at 2560."""
SHRINK = 4
LAST_SIDE = 384
"""A level with no side longer than this is the last: a face that fills it is still found."""
SMALLEST_FACE, LARGEST_FACE = 40, 256
"""Longest side on the canvas of the faces that a level leaves to the finer, and to the coarser level. The ranges of
neighbours overlap (256 on a level are 64 on the next), so no face falls between two levels."""
TILE, OVERLAP = 1088, 192
"""Longest side of a tile, and what neighbours share: a face of up to 192 pixels lies whole in one of them, and larger
ones have at least 48 on the next level."""
STEP = 64
"""Sides of canvases are multiples of it (of 32 up to 256), which keeps the number of shapes small."""
SMALL_PHOTO, BORDER = 224, 16
"""Photos this small may be crops of a face: a black border on each side makes their landmarks more exact."""

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Box:
    """A rectangle in photo pixels; (x, y) is its upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Face:
    """A detection in a photo.

    Attributes:
        box: the face from forehead to chin, clipped to the photo.
        landmarks: (5, 2) float32, x and y in photo pixels: left eye, right eye, nose, left and right corner of the
            mouth, left and right as seen in the photo.
        score: the detector's certainty in [0, 1].
    """

    box: Box
    landmarks: NDArray[np.float32]
    score: float


@dataclass(frozen=True)
class Canvas:
    """One look at a photo, or at a part of it.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, sides multiples of 32.
        scale: canvas pixels per photo pixel.
        offset: canvas position (x, y), at pixel edges, of the photo's upper left corner.
        seams: the sides (left, top, right, bottom), in canvas pixels, at which a tile cuts the photo; infinite where
            the photo itself ends.
        sizes: shortest and longest face, by the longer side on the canvas, that this canvas answers for.
    """

    pixels: NDArray[np.uint8]
    scale: float
    offset: tuple[float, float]
    seams: tuple[float, float, float, float]
    sizes: tuple[float, float]


@dataclass(frozen=True)
class Detector:
    """Finds the faces of one photo at a time.

    Attributes:
        heads: the network.
        max_faces: most faces returned.
        floor: least score of a face.
    """

    heads: Heads
    max_faces: int = 50
    floor: float = SCORE_FLOOR

    def detect(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """Find the faces of a photo.

        Args:
            pixels: (h, w, 3) uint8 RGB.

        Returns:
            The faces, largest first (area times score).
        """
        looks = canvases(pixels)
        heads = [{name: head[0] for name, head in self.heads(look.pixels[None]).items()} for look in looks]
        height, width = pixels.shape[:2]
        return faces_from(heads, looks, (width, height), max_faces=self.max_faces, floor=self.floor)


# --- photo to canvases ---


def canvases(pixels: NDArray[np.uint8]) -> list[Canvas]:
    """Lay a photo out on the canvases that the network has to see.

    Args:
        pixels: (h, w, 3) uint8 RGB of any size.
    """
    levels = list(_levels(pixels))
    looks: list[Canvas] = []
    for number, (level, scale) in enumerate(levels):
        sizes = (SMALLEST_FACE if number else 0.0, LARGEST_FACE if number < len(levels) - 1 else math.inf)
        looks.extend(_tiles(level, scale, sizes))
    return looks


def _levels(pixels: NDArray[np.uint8]) -> list[tuple[NDArray[np.uint8], float]]:
    """Give the levels of the pyramid, finest first, each with its canvas pixels per photo pixel."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    level, scale = pixels, 1.0
    if longest > LONGEST_SIDE:
        scale = LONGEST_SIDE / longest
        size = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
        seen = 0, 0, size[0] / scale, size[1] / scale
        image = Image.fromarray(pixels)
        level = np.asarray(image.resize(size, Image.Resampling.BOX, box=seen))
    levels = [(level, scale)]
    while max(level.shape) > LAST_SIDE:
        level, scale = np.asarray(Image.fromarray(level).reduce(SHRINK)), scale / SHRINK
        levels.append((level, scale))
    return levels


def _tiles(level: NDArray[np.uint8], scale: float, sizes: tuple[float, float]) -> list[Canvas]:
    """Cut a level into tiles of one shape and centre each on a black canvas."""
    height, width = level.shape[:2]
    border = BORDER if max(height, width) <= SMALL_PHOTO else 0
    rows, tile_height = _cuts(height)
    columns, tile_width = _cuts(width)
    canvas_height, canvas_width = _side(tile_height + 2 * border), _side(tile_width + 2 * border)
    top, left = (canvas_height - tile_height) // 2, (canvas_width - tile_width) // 2
    tiles = []
    for y in rows:
        for x in columns:
            canvas = np.zeros((canvas_height, canvas_width, 3), np.uint8)
            canvas[top : top + tile_height, left : left + tile_width] = level[y : y + tile_height, x : x + tile_width]
            seams = (
                left if x > 0 else -math.inf,
                top if y > 0 else -math.inf,
                left + tile_width if x + tile_width < width else math.inf,
                top + tile_height if y + tile_height < height else math.inf,
            )
            tiles.append(Canvas(canvas, scale, (left - x, top - y), seams, sizes))
    return tiles


def _cuts(length: int) -> tuple[list[int], int]:
    """Cut a length into equal pieces of at most `TILE` that share at least `OVERLAP`: their starts, their length."""
    if length <= TILE:
        return [0], length
    count = math.ceil((length - OVERLAP) / (TILE - OVERLAP))
    piece = math.ceil((length + (count - 1) * OVERLAP) / count)
    return [round(i * (length - piece) / (count - 1)) for i in range(count)], piece


def _side(length: int) -> int:
    step = STEP // 2 if length <= 4 * STEP else STEP
    return math.ceil(length / step) * step


# --- heads to faces ---


def faces_from(
    heads: Sequence[Mapping[str, NDArray[np.float32]]],
    looks: Sequence[Canvas],
    photo_size: tuple[int, int],
    *,
    max_faces: int,
    floor: float = SCORE_FLOOR,
    iou_limit: float = IOU_LIMIT,
) -> list[Face]:
    """Turn what the network said about the canvases of one photo into its faces.

    Args:
        heads: for each canvas the twelve heads, each (points, k).
        looks: the canvases, as `canvases` gave them.
        photo_size: width and height of the photo.
        max_faces: most faces returned.
        floor: least score of a face.
        iou_limit: two boxes that overlap by more (intersection over union) show one face.

    Returns:
        The faces, largest first (area times score); each can be aligned.
    """
    found = [candidates(head, look, floor) for head, look in zip(heads, looks, strict=True)]
    scores = np.concatenate([part[0] for part in found])
    boxes = np.concatenate([part[1] for part in found])
    landmarks = np.concatenate([part[2] for part in found])
    seen = (_face(boxes[i], landmarks[i], scores[i], photo_size) for i in suppress(boxes, scores, iou_limit))
    faces = [face for face in seen if face is not None]
    faces.sort(key=lambda face: -face.box.width * face.box.height * face.score)
    return faces[:max_faces]


def _face(
    box: NDArray[np.float32], landmarks: NDArray[np.float32], score: np.float32, photo_size: tuple[int, int]
) -> Face | None:
    """Clip a box to the photo; give nothing where no face is left that could be aligned."""
    try:
        similarity(landmarks)
    except NoFaceError:
        return None
    width, height = photo_size
    x, y = (float(value) for value in landmarks.mean(axis=0))
    left, top, right, bottom = (float(value) for value in box)
    left, right = max(left, -0.5), min(right, width - 0.5)
    top, bottom = max(top, -0.5), min(bottom, height - 0.5)
    if left >= right or top >= bottom or not (0 <= x < width and 0 <= y < height):
        return None
    return Face(Box(left, top, right - left, bottom - top), landmarks, float(score))


def candidates(
    heads: Mapping[str, NDArray[np.float32]], look: Canvas, floor: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Read the heads of one canvas.

    A point in column c and row r of the grid of stride s speaks of a box with its centre at ((c + dx) s, (r + dy) s)
    and the sides exp(dw) s, exp(dh) s, of landmarks at ((c + kx) s, (r + ky) s), with the score sqrt(cls obj).

    Returns:
        Scores (m,), boxes (m, 4) as left, top, right, bottom and landmarks (m, 5, 2), in photo pixels.
    """
    width = look.pixels.shape[1]
    scores, boxes, landmarks = [], [], []
    for stride in STRIDES:
        certainty = heads[f"cls_{stride}"][:, 0] * heads[f"obj_{stride}"][:, 0]
        chosen = np.flatnonzero(certainty >= floor * floor)
        rows, columns = np.divmod(chosen, width // stride)
        points = np.stack([columns, rows], axis=1).astype(np.float32)
        box = heads[f"bbox_{stride}"][chosen]
        centres = (points + box[:, :2]) * stride
        halves = np.exp(np.minimum(box[:, 2:], 10.0)) * (stride / 2)  # a bound, so that no weights can overflow it
        scores.append(np.sqrt(np.minimum(certainty[chosen], 1.0)))
        boxes.append(np.concatenate([centres - halves, centres + halves], axis=1))
        landmarks.append((points[:, None] + heads[f"kps_{stride}"][chosen].reshape(-1, 5, 2)) * stride)
    score, box, landmark = np.concatenate(scores), np.concatenate(boxes), np.concatenate(landmarks)
    keep = _answered(box, look)
    origin = np.array(look.offset, np.float32)
    box = (box[keep].reshape(-1, 2, 2) + np.float32(0.5) - origin) / np.float32(look.scale) - np.float32(0.5)
    landmark = (landmark[keep] + np.float32(0.5) - origin) / np.float32(look.scale) - np.float32(0.5)
    return score[keep], box.reshape(-1, 4), landmark


def _answered(boxes: NDArray[np.float32], look: Canvas) -> NDArray[np.bool_]:
    """Tell which boxes (m, 4) a canvas answers for: of its range of sizes, and not cut by a seam."""
    longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    left, top, right, bottom = look.seams
    whole = (boxes[:, :2] >= (left, top)).all(axis=1) & (boxes[:, 2:] <= (right, bottom)).all(axis=1)
    answered: NDArray[np.bool_] = whole & (longest >= look.sizes[0]) & (longest <= look.sizes[1])
    return answered


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_limit: float) -> NDArray[np.intp]:
    """Non-maximum suppression: of boxes that overlap, keep the one with the best score.

    Args:
        boxes: (m, 4) left, top, right, bottom.
        scores: (m,).
        iou_limit: largest intersection over union of two boxes that are both kept.

    Returns:
        Indices of the boxes kept, best score first.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    waiting = np.argsort(-scores, kind="stable")
    kept = []
    while waiting.size:
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[waiting, :2])
        high = np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        waiting = waiting[shared <= iou_limit * (areas[best] + areas[waiting] - shared)]
    return np.array(kept, np.intp)
