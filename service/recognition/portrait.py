"""Which face of a photo may be enrolled: the one it is of, if it is seen well enough."""

from __future__ import annotations

from typing import Final

from service.errors import LowQualityError, NoFaceError, SeveralFacesError
from service.vision.detect import Face
from service.vision.quality import reasons
from service.vision.see import SeenFace, SeenPhoto

DOMINANT: Final = 4.0
"""A face this many times larger than the next one is whom the photo is of; otherwise the photo shows several people."""


def portrait(photo: SeenPhoto, min_quality: float) -> SeenFace:
    """The face that a photo is of.

    Raises:
        NoFaceError: it shows none.
        SeveralFacesError: no face stands out.
        LowQualityError: it is under `min_quality`.
    """
    found = photo.faces
    if not found:
        raise NoFaceError("no face was found in the photo")
    if len(found) > 1 and _area(found[0].face) < DOMINANT * _area(found[1].face):
        raise SeveralFacesError(f"the photo shows {len(found)} faces and none stands out", faces=len(found))
    face = found[0]
    faults = reasons(face.quality, min_quality)
    if faults:
        raise LowQualityError(
            f"quality {face.quality.score:.2f} is under {min_quality:.2f}: {', '.join(faults)}",
            reasons=list(faults),
            quality=round(face.quality.score, 4),
        )
    return face


def _area(face: Face) -> float:
    return face.box.width * face.box.height
