"""Bodies of comparisons one to one."""

from __future__ import annotations

from pydantic import BaseModel

from service.api.schemas.common import Rate, example
from service.api.schemas.faces import SeenOut


class VerifyPhotosJson(BaseModel):
    """Two photos in base64."""

    model_config = example({"photo_a": "/9j/4AAQSkZJRg...", "photo_b": "/9j/4AAQSkZJRg...", "fmr": 0.00001})

    photo_a: str
    photo_b: str
    fmr: Rate | None = None


class VerifyPersonJson(BaseModel):
    """A photo in base64, to be compared with a person."""

    model_config = example({"photo": "/9j/4AAQSkZJRg...", "fmr": 0.00001})

    photo: str
    fmr: Rate | None = None


class VerificationOut(BaseModel):
    """Whether it is the same person; `faces` are those compared, in the order of the photos."""

    model_config = example(
        {"same": True, "similarity": 0.71, "probability": 0.99997, "threshold": 0.47, "fmr": 0.00001, "faces": []}
    )

    same: bool
    similarity: float
    probability: float
    threshold: float
    fmr: float
    faces: list[SeenOut]
