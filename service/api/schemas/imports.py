"""Bodies about imports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.common import example


class ImportIn(BaseModel):
    """An import to begin. Paths are under the service's import root, relative to it or whole."""

    model_config = example({"path": "people/2026.csv"})

    path: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            description="a folder person/photo, a manifest (CSV, JSONL, Parquet) or a tar",
        ),
    ]
    embeddings: Annotated[
        str | None,
        Field(min_length=1, max_length=4096, description="an array of numpy, a row for each row of the manifest"),
    ] = None
    look_alikes: Annotated[
        Literal["refuse", "enroll"] | None,
        Field(description="faces that are likely another person's; by default refused, ready embeddings enrolled"),
    ] = None


class Trouble(BaseModel):
    """What holds an import up, or made it fail."""

    code: str
    detail: str


IMPORT: Final[dict[str, Any]] = {
    "import": "i_5e884898da28047151d0",
    "gallery": "staff",
    "path": "people/2026.csv",
    "embeddings": None,
    "look_alikes": "refuse",
    "state": "running",
    "total": 13233,
    "done": 6400,
    "outcomes": {
        "enrolled": 6301,
        "duplicate": 0,
        "another_person": 9,
        "no_face": 2,
        "low_quality": 31,
        "several_faces": 55,
        "unreadable": 2,
        "over_limit": 0,
        "invalid": 0,
    },
    "per_second": 174.2,
    "seconds_left": 39.2,
    "trouble": None,
    "created_at": "2026-01-02T03:04:05Z",
    "started_at": "2026-01-02T03:04:06Z",
    "ended_at": None,
}


class ImportOut(BaseModel):
    """An import: what was asked for, where it stands, and what became of its photos."""

    model_config = ConfigDict(**example(IMPORT), populate_by_name=True, serialize_by_alias=True)

    import_: Annotated[str, Field(alias="import")]
    gallery: str
    path: str
    embeddings: str | None
    look_alikes: Literal["refuse", "enroll"]
    state: Literal["planning", "running", "done", "cancelled", "failed"]
    total: int | None
    done: int
    outcomes: dict[str, int]
    per_second: float
    seconds_left: float | None
    trouble: Trouble | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class ImportPage(BaseModel):
    """Imports, the newest first; `next` is the cursor of the following page."""

    model_config = example({"imports": [IMPORT], "next": None})

    imports: list[ImportOut]
    next: str | None
