"""Bodies about visits."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from service.api.schemas.common import Id, Moment, Place, example


class VisitIn(BaseModel):
    """A visit that something other than the face has confirmed; `person` is null for a confirmed stranger."""

    model_config = example({"person": "anna", "device": "gate-7", "confirmed_by": "card"})

    person: Id | None
    device: Id | None = None
    region: Place | None = None
    time: Moment | None = None
    confirmed_by: Annotated[str, Field(pattern="^[a-z0-9_-]{1,64}$", description="what vouches for it")]


class VisitOut(BaseModel):
    """A visit that was recorded."""

    model_config = example({"visit": "v_17", "person": "anna"})

    visit: str
    person: str | None
