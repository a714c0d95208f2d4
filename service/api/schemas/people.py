"""Bodies about people and their faces."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from service.api.schemas.common import QUALITY, BoxOut, Digits, FreeJson, Id, Moment, Point, example


class PersonIn(BaseModel):
    """Everything about a person but their faces."""

    model_config = example({"name": "Anna Example", "region": {"lat": 48.137, "lon": 11.575}, "digits": "1234"})

    name: Annotated[str, Field(max_length=256)] | None = None
    region: Annotated[str, Field(max_length=32)] | Point | None = None
    device: Id | None = None
    digits: Digits | None = None
    attributes: FreeJson = Field(default_factory=dict)
    consent: FreeJson | None = None
    expires_at: Moment | None = None


class PersonPatch(PersonIn):
    """What shall change; what is left out stays, null clears."""

    model_config = example({"region": None, "device": "phone-7"})

    attributes: FreeJson | None = None  # type: ignore[assignment] # null clears here, and nowhere else


class FaceOut(BaseModel):
    """A face that is kept."""

    face: str
    quality: Annotated[float, Field(description=QUALITY)]
    box: BoxOut | None
    created_at: datetime


PERSON: Final[dict[str, Any]] = {
    "person": "anna",
    "name": "Anna Example",
    "region": "881f8d7a49fffff",
    "device": None,
    "digits": True,
    "attributes": {},
    "consent": None,
    "expires_at": None,
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05Z",
    "revision": 41,
    "face_count": 2,
}


class PersonOut(BaseModel):
    """A person; `digits` tells only whether some are kept."""

    model_config = example(PERSON)

    person: str
    name: str | None
    region: str | None
    device: str | None
    digits: bool
    attributes: dict[str, Any]
    consent: dict[str, Any] | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    revision: int
    face_count: int
    faces: list[FaceOut] | None = None


class PersonPage(BaseModel):
    """People by id; `next` is the cursor of the following page."""

    model_config = example({"people": [PERSON], "next": "anna"})

    people: list[PersonOut]
    next: str | None


class PersonForgotten(BaseModel):
    """Proof that a person was forgotten."""

    model_config = example({"person": "anna", "revision": 43, "receipt": "r_5e884898da28047151d0e56f", "faces": 3})

    person: str
    revision: int
    receipt: str
    faces: int


class FaceRemoved(BaseModel):
    """A face that is no longer kept."""

    model_config = example({"person": "anna", "face": "f_3c9909afec25354d551d", "revision": 43})

    person: str
    face: str
    revision: int
