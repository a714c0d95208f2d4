"""Augmentations of aligned crops, each with its own switch, all with Pillow and numpy.

A crop's random numbers come from the seed and from the number of its draw, never from a shared generator: the same
draw looks the same in any worker, on any rank, before and after a resumed run.
"""

from __future__ import annotations

import io
import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

SIDE = 112

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """How often each change is made to a crop: probabilities, 0 switches a change off.

    Attributes:
        flip: left and right change sides.
        crop: a random part of the crop, enlarged again.
        crop_least: smallest part of the area that such a part keeps.
        jitter: brightness, contrast and saturation change.
        jitter_most: largest change of each, as a share.
        degrade: the crop is made small and large again, then pressed through JPEG.
        degrade_least: smallest side, as a share, that it is shrunk to.
        erase: a rectangle is covered by noise.
        erase_most: largest covered part of the area.
    """

    flip: Share = 0.5
    crop: Share = 0.0
    crop_least: Share = 0.6
    jitter: Share = 0.0
    jitter_most: Share = 0.4
    degrade: Share = 0.0
    degrade_least: Share = 0.25
    erase: Share = 0.0
    erase_most: Share = 0.2


def draws_of(seed: int, draw: int) -> np.random.Generator:
    """The random numbers of one draw."""
    return np.random.Generator(np.random.Philox(key=[seed, draw]))


def augment(image: Image.Image, how: Augmentation, random: np.random.Generator) -> NDArray[np.uint8]:
    """Change a crop.

    Args:
        image: 112x112 RGB.
        how: the probabilities of the changes.
        random: this draw's random numbers.

    Returns:
        (112, 112, 3) uint8 RGB.
    """
    wanted = random.random(5) < (how.flip, how.crop, how.jitter, how.degrade, how.erase)
    if wanted[0]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if wanted[1]:
        image = part_of(image, how.crop_least, random)
    if wanted[2]:
        image = recoloured(image, how.jitter_most, random)
    if wanted[3]:
        image = degraded(image, how.degrade_least, random)
    pixels = np.array(image)
    if wanted[4]:
        erase(pixels, how.erase_most, random)
    return pixels


def part_of(image: Image.Image, least: float, random: np.random.Generator) -> Image.Image:
    """A random part, of at least this share of the area and a ratio of 3:4 to 4:3, at the full size again."""
    area, ratio = random.uniform(least, 1.0), math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    width = min(1.0, math.sqrt(area * ratio)) * image.width
    height = min(1.0, math.sqrt(area / ratio)) * image.height
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))


def recoloured(image: Image.Image, most: float, random: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation each multiplied by up to 1 +- most."""
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(random.uniform(1 - most, 1 + most))
    return image


def degraded(image: Image.Image, least: float, random: np.random.Generator) -> Image.Image:
    """What a small or much-compressed photo would have shown: shrunk, enlarged, and saved as JPEG."""
    side = max(2, round(random.uniform(least, 1.0) * image.width))
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)
    small = image.resize((side, side), filters[random.integers(3)])
    large = small.resize(image.size, filters[random.integers(3)])
    file = io.BytesIO()
    large.save(file, "JPEG", quality=int(random.integers(20, 96)))
    return Image.open(file)


def erase(pixels: NDArray[np.uint8], most: float, random: np.random.Generator) -> None:
    """Cover, in place, a rectangle of 2 % to this share of the area by noise (Zhong et al. 2020)."""
    side = pixels.shape[0]
    area, ratio = random.uniform(min(0.02, most), most), math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
    width = min(side, max(1, round(side * math.sqrt(area * ratio))))
    height = min(side, max(1, round(side * math.sqrt(area / ratio))))
    left, top = int(random.integers(side - width + 1)), int(random.integers(side - height + 1))
    pixels[top : top + height, left : left + width] = random.integers(0, 256, (height, width, 3), np.uint8)
