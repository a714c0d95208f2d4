"""Bodies about galleries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from service.api.schemas.common import FreeJson, Id, Rate, example


class ObservableIn(BaseModel):
    """How an attribute of people is observed beside the face.

    A category (gender, a membership) is wrong with a share `error`; a number (a height, an age) has a standard
    deviation `spread`. What is guessed `from_face` counts with a `power` of 0.3 at most.
    """

    model_config = example({"kind": "number", "spread": 4})

    kind: Literal["category", "number"]
    error: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    spread: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    from_face: bool = False
    power: Annotated[float, Field(ge=0, le=1)] = 1.0


Observed = Annotated[
    dict[Annotated[str, Field(max_length=64)], ObservableIn],
    Field(max_length=8, description="attributes of people that count as evidence when `context.observed` names them"),
]


class GalleryIn(BaseModel):
    """A gallery to create."""

    model_config = example({"name": "staff", "fpir": 0.003})

    name: Id
    fpir: Rate | None = None
    observed: Observed = Field(default_factory=dict)
    keep_crops: bool = Field(default=False, description="keep the crops of faces, for a later move to another model")
    attributes: FreeJson = Field(default_factory=dict)


class GalleryPatch(BaseModel):
    """What shall change; what is left out stays."""

    model_config = example({"fpir": 0.001})

    fpir: Rate | None = None
    observed: Observed | None = None
    keep_crops: bool = False
    attributes: FreeJson | None = None


GALLERY: Final[dict[str, Any]] = {
    "name": "staff",
    "model": "sface",
    "model_digest": "9b74c9897bac770ffc029102a200c5de",
    "dim": 128,
    "revision": 42,
    "people": 17,
    "faces": 40,
    "fpir": 0.003,
    "observed": {},
    "keep_crops": False,
    "attributes": {},
    "created_at": "2026-01-02T03:04:05Z",
}


class GalleryOut(BaseModel):
    """A gallery."""

    model_config = example(GALLERY)

    name: str
    model: str
    model_digest: str
    dim: int
    revision: int
    people: int
    faces: int
    fpir: float
    observed: dict[str, ObservableIn]
    keep_crops: bool
    attributes: dict[str, Any]
    created_at: datetime


class GalleryPage(BaseModel):
    """Galleries by name; `next` is the cursor of the following page."""

    model_config = example({"galleries": [GALLERY], "next": None})

    galleries: list[GalleryOut]
    next: str | None


class GalleryDeleted(BaseModel):
    """What went with a gallery."""

    model_config = example({"gallery": "staff", "people": 17, "faces": 40})

    gallery: str
    people: int
    faces: int
