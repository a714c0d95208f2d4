"""Bodies about faces that are detected or embedded, and not kept."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from service.api.schemas.common import BoxOut, example


class QualityOut(BaseModel):
    """How good a face is for recognition, each in [0, 1], 1 is best."""

    score: Annotated[float, Field(description="the product of the others, called `quality` elsewhere")]
    size: Annotated[float, Field(description="pixels there are")]
    sharpness: Annotated[float, Field(description="detail there is")]
    pose: Annotated[float, Field(description="how much the face looks into the camera")]
    exposure: Annotated[float, Field(description="neither dark, bright, flat nor lit from one side only")]
    detection: Annotated[float, Field(description="how sure the detector is")]


class PhotoJson(BaseModel):
    """One photo in base64."""

    model_config = example({"photo": "/9j/4AAQSkZJRg..."})

    photo: str


class SeenOut(BaseModel):
    """A face in a photo; landmarks are the eyes, the nose and the corners of the mouth."""

    box: BoxOut
    landmarks: list[tuple[float, float]]
    score: float
    quality: QualityOut


SEEN: Final[dict[str, Any]] = {
    "box": {"x": 61.0, "y": 70.2, "width": 128.4, "height": 166.0},
    "landmarks": [[97, 132], [155, 131], [127, 166], [102, 200], [150, 199]],
    "score": 0.93,
    "quality": {"score": 0.81, "size": 1, "sharpness": 0.9, "pose": 0.9, "exposure": 1, "detection": 1},
}


class DetectionOut(BaseModel):
    """The faces of a photo, largest first."""

    model_config = example({"width": 250, "height": 250, "faces": [SEEN]})

    width: int
    height: int
    faces: list[SeenOut]


class EmbeddedOut(SeenOut):
    """A face with its embedding: base64 of little-endian float32."""

    embedding: str


class EmbeddingOut(BaseModel):
    """The embeddings of a photo's faces."""

    model_config = example(
        {
            "model": "sface",
            "model_digest": "9b74c9897bac770ffc029102a200c5de",
            "dim": 128,
            "faces": [{**SEEN, "embedding": "jIcCPUanCryv7gw+..."}],
        }
    )

    model: str
    model_digest: str
    dim: int
    faces: list[EmbeddedOut]
