"""The demo's result as one picture: each photo with its decision, framed in green, amber or red."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from service.artifact.files import write_atomic
from service.cli.demo_people import Shown

COLUMNS: Final = 8
PHOTO: Final = (138, 168)
FRAME: Final = 5
CAPTION: Final = 40
GAP: Final = 10
FRAMES: Final = {"right": (46, 160, 67), "missed": (219, 148, 20), "wrong": (207, 34, 46)}
INK, GROUND = (32, 36, 42), (250, 250, 248)


def draw(shown: Sequence[Shown], target: Path, *, credit: str) -> None:
    """Write the contact sheet as PNG.

    Args:
        shown: the visitors, in the order of the tiles.
        target: the file.
        credit: said at the foot.
    """
    width, height = PHOTO[0] + 2 * FRAME, PHOTO[1] + 2 * FRAME + CAPTION
    rows = -(-len(shown) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + GAP) + GAP, rows * (height + GAP) + GAP + 24), GROUND)
    for place, each in enumerate(shown):
        left = GAP + place % COLUMNS * (width + GAP)
        top = GAP + place // COLUMNS * (height + GAP)
        sheet.paste(_tile(each, (width, height)), (left, top))
    legend = "green: right   amber: a member was not recognised   red: taken for somebody else"
    foot = f"{legend}      {credit}" if credit else legend
    ImageDraw.Draw(sheet).text((GAP, sheet.height - 22), foot, INK, ImageFont.load_default(13))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    write_atomic(target, file.getvalue())


def _tile(each: Shown, size: tuple[int, int]) -> Image.Image:
    tile = Image.new("RGB", size, GROUND)
    with Image.open(each.visitor.probe) as opened:
        photo = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), PHOTO)
    tile.paste(FRAMES[each.outcome], (0, 0, size[0], PHOTO[1] + 2 * FRAME))
    tile.paste(photo, (FRAME, FRAME))
    pen = ImageDraw.Draw(tile)
    first, second = _caption(each)
    pen.text((2, PHOTO[1] + 2 * FRAME + 3), first, INK, ImageFont.load_default(13))
    pen.text((2, PHOTO[1] + 2 * FRAME + 20), second, INK, ImageFont.load_default(13))
    return tile


def _caption(each: Shown) -> tuple[str, str]:
    who = each.visitor.person if each.visitor.enrolled else f"{each.visitor.person} (stranger)"
    if each.face is None:
        return who[:20], each.fault or "no face"
    similarity = f" {each.best['similarity']:.2f}" if each.best else ""
    said = each.face["person"] or each.face["decision"]
    return who[:20], f"-> {said[:14]}{similarity}"
