"""What the bodies of several routes are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.recognition.free_json import storable
from service.recognition.ids import valid_id
from service.recognition.regions import cell_at, cell_of

Id = Annotated[str, AfterValidator(valid_id)]
"""An identifier of a gallery or a person."""


COMPONENTS: Final = "#/components/schemas/{model}"
"""Where the documentation keeps the schema of a model."""


Rate = Annotated[float, Field(gt=0, lt=1)]
"""An error rate."""


QUALITY: Final = (
    "how good the face is for recognition, 0 to 1: the product of its size, sharpness, pose, exposure and how sure the "
    "detector is of it, each from 0 to 1"
)
"""What `quality` is in answers."""


def example(value: dict[str, Any]) -> ConfigDict:
    """The configuration of a body that takes no unknown members and shows an example."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [value]})


FreeJson = Annotated[dict[str, Any], AfterValidator(storable)]


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs its zone, as in 2027-01-31T00:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time lies in the years 1 to 9999") from error


Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A time with its zone."""


class Problem(BaseModel):
    """An error (RFC 9457); `code` is stable, further members depend on it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:vultus:error:no_face",
                    "title": "No face was found in the photo",
                    "status": 422,
                    "code": "no_face",
                    "detail": "no face was found in the photo",
                    "request_id": "5f0c1e7a2b9d4c6e8f10",
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


class Point(BaseModel):
    """A place in degrees."""

    model_config = ConfigDict(extra="forbid")

    lat: float
    lon: float


Place = Annotated[str, Field(max_length=32)] | Point
"""An H3 cell, or a point."""


def cell_of_place(place: str | Point | None) -> str | None:
    """The H3 cell of a place.

    Raises:
        InvalidRequestError: there is no such place.
    """
    if place is None:
        return None
    return cell_at(place.lat, place.lon) if isinstance(place, Point) else cell_of(place)


Digits = Annotated[str, Field(pattern="^[0-9]{2,8}$", description="last digits of the phone; kept as a keyed hash")]


class BoxOut(BaseModel):
    """Where a face is in its photo, in pixels."""

    x: float
    y: float
    width: float
    height: float
