"""Crops that anybody can draw: what an artifact's reference embeddings are made from.

Photos of people have no place in a repository, so an engine is tried on drawn faces: an oval, two eyes, a nose and
a mouth on a shaded ground, with grain. Integer arithmetic only, so that every machine draws the same pixels.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

COUNT: Final = 8
SIDE: Final = 112


def crops() -> NDArray[np.uint8]:
    """The sample `synthetic-1`: (8,112,112,3) uint8 RGB."""
    return np.stack([_draw(number) for number in range(COUNT)])


def _draw(number: int) -> NDArray[np.uint8]:
    grid = np.mgrid[0:SIDE, 0:SIDE].astype(np.int64)
    rows, columns = grid
    image = np.empty((SIDE, SIDE, 3), np.int64)
    for channel in range(3):
        image[..., channel] = 40 + 11 * number + (rows * (channel + 1) + columns * (number % 3)) // 3
    skin = np.array([150 + 9 * number, 110 + 7 * number, 90 + 6 * number])
    shade = (columns - 56) * ((number % 5) - 2) // 3
    _fill(image, _oval(grid, 66, 56, 52, 38 + number % 4), skin[None] + shade[..., None])
    for eye in (38, 74):
        centre = eye + (number % 3) - 1
        _fill(image, _oval(grid, 52, centre, 4 + number % 2, 8), np.array([225, 225, 220]))
        _fill(image, _oval(grid, 52, centre, 4, 4), np.array([30 + 12 * number, 40, 50 + 5 * number]))
        _fill(image, _oval(grid, 42 - number % 3, centre, 2, 10), np.array([60, 45, 35]))
    _fill(image, _oval(grid, 70, 56, 9 + number % 3, 5 + number % 4), skin[None] * 4 // 5 + shade[..., None])
    _fill(image, _oval(grid, 92, 56, 4 + number % 3, 14 + number % 5), np.array([170, 60 + 6 * number, 70]))
    grain = (rows * 7919 + columns * 104_729 + number * 1_299_709) ** 2 // 1009 % 23 - 11
    pixels: NDArray[np.uint8] = np.clip(image + grain[..., None], 0, 255).astype(np.uint8)
    return pixels


def _oval(grid: NDArray[np.int64], row: int, column: int, height: int, width: int) -> NDArray[np.bool_]:
    rows, columns = grid
    inside = (rows - row) ** 2 * width**2 + (columns - column) ** 2 * height**2 <= (height * width) ** 2
    return np.asarray(inside)


def _fill(image: NDArray[np.int64], where: NDArray[np.bool_], colour: NDArray[np.int64]) -> None:
    image[where] = np.broadcast_to(colour, image.shape)[where]
