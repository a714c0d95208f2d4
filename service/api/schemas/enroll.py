"""Bodies of enrolments."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.common import QUALITY, BoxOut, example


class EnrollJson(BaseModel):
    """An enrolment as JSON: photos in base64, or embeddings of the gallery's model (base64 of float32)."""

    model_config = example({"photo": ["/9j/4AAQSkZJRg...", "/9j/4AAQSkZJRg..."]})

    photo: str | list[str] = Field(default_factory=list)
    embedding: str | list[str] = Field(default_factory=list)
    quality: Annotated[
        float, Field(ge=0, le=1, description="of the embeddings' faces, as enrolling their photos would tell it")
    ] = 0.5


class ResemblanceOut(BaseModel):
    """Somebody else who is likely the same person."""

    person: str
    similarity: float


class EnrolledOut(BaseModel):
    """A face that was kept; `photo` is the place of its photo in the request, from 0."""

    face: str
    photo: int
    box: BoxOut | None
    quality: Annotated[float, Field(description=QUALITY)]
    resembles: list[ResemblanceOut]


class RefusedOut(BaseModel):
    """A photo of which nothing was kept."""

    model_config = ConfigDict(extra="allow")

    photo: int
    code: str
    detail: str


class EnrolmentOut(BaseModel):
    """What became of each photo."""

    model_config = example(
        {
            "person": "anna",
            "revision": 42,
            "enrolled": [
                {
                    "face": "f_3c9909afec25354d551d",
                    "photo": 0,
                    "box": {"x": 61.0, "y": 70.2, "width": 128.4, "height": 166.0},
                    "quality": 0.81,
                    "resembles": [],
                }
            ],
            "refused": [{"photo": 1, "code": "no_face", "detail": "no face was found in the photo"}],
        }
    )

    person: str
    revision: int
    enrolled: list[EnrolledOut]
    refused: list[RefusedOut]
