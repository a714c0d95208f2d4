"""A row of a manifest, and what became of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from service.errors import (
    DuplicatePhotoError,
    GalleryFullError,
    LowQualityError,
    NoFaceError,
    PhotoError,
    PhotoUnreadableError,
    SeveralFacesError,
    TooManyFacesError,
)
from service.gallery.bulk import Refusal
from service.gallery.imports import Row
from service.gallery.records import PersonFields

Outcome: TypeAlias = Literal[
    "enrolled",
    "duplicate",
    "another_person",
    "no_face",
    "low_quality",
    "several_faces",
    "unreadable",
    "over_limit",
    "invalid",
]

OUTCOMES: Final[tuple[Outcome, ...]] = (
    "enrolled",
    "duplicate",
    "another_person",
    "no_face",
    "low_quality",
    "several_faces",
    "unreadable",
    "over_limit",
    "invalid",
)
"""enrolled: kept; duplicate: the person has this photo already; another_person: likely somebody else's face;
over_limit: the person has as many faces as are kept; invalid: the row cannot be used. The others speak of the photo."""

PERSON: Final = ("name", "region", "device", "digits", "attributes")
"""The fields of a person that a manifest may state."""


NOTHING: Final[Mapping[str, Any]] = {}

UNKNOWN: Final = PersonFields()


class Entry(NamedTuple):
    """A photo that shall be enrolled.

    Attributes:
        photo: its path as the source names it, or the number of a ready embedding.
        person: the caller's id.
        place: where it lies in a tar (first byte, bytes), or in an array (row, 0); None for a file of its own.
        known: what the row says about the person, as the catalog keeps it, and `quality` of a ready embedding.
        fault: code and detail, where the row cannot be used.
    """

    photo: str
    person: str
    place: tuple[int, int] | None = None
    known: Mapping[str, Any] = NOTHING
    fault: tuple[str, str] | None = None

    @classmethod
    def of(cls, row: Row) -> Entry:
        """The entry that was kept."""
        photo, person, place, known, fault = row
        return cls(photo, person, tuple(place) if place else None, known, tuple(fault) if fault else None)

    def fields(self) -> PersonFields:
        """What the person is created with."""
        if not self.known:
            return UNKNOWN
        return PersonFields(**{name: self.known[name] for name in PERSON if name in self.known})


class Done(NamedTuple):
    """What became of a row: a line of the report.

    Attributes:
        photo: as in the entry.
        person: the same.
        outcome: see `OUTCOMES`.
        code: the stable code of the error, where there is one.
        detail: the same in words.
        face: id of the face that was enrolled, or that the person has from this photo.
        resembles: whom the face resembles more than its person, for `another_person`.
        similarity: how much.
        quality: of the face.
    """

    photo: str
    person: str
    outcome: Outcome
    code: str = ""
    detail: str = ""
    face: str = ""
    resembles: str = ""
    similarity: float | None = None
    quality: float | None = None


def invalid(entry: Entry) -> Done:
    """The line of a row that cannot be used."""
    code, detail = entry.fault or ("", "")
    outcome: Outcome = "unreadable" if code == PhotoUnreadableError.code else "invalid"
    return Done(entry.photo, entry.person, outcome, code, detail)


def duplicate(entry: Entry, face: str) -> Done:
    """The line of a photo that is its person's `face` already."""
    detail = "this person has a face from the same photo already"
    return Done(entry.photo, entry.person, "duplicate", DuplicatePhotoError.code, detail, face)


def over_limit(entry: Entry, limit: int) -> Done:
    """The line of a photo of somebody who has as many faces as are kept."""
    detail = f"a person keeps at most {limit} faces"
    return Done(entry.photo, entry.person, "over_limit", GalleryFullError.code, detail)


def refused(entry: Entry, refusal: Refusal, rival: str = "") -> Done:
    """The line of a photo that was refused, now or before; `rival` is the person that it resembles."""
    return Done(
        entry.photo,
        entry.person,
        refusal.outcome,  # type: ignore[arg-type] # one of them, as it was when it was kept
        refusal.code,
        refusal.detail,
        resembles=rival,
        similarity=refusal.similarity,
    )


def outcome_of(error: PhotoError) -> Outcome:
    """What is reported of a photo that was refused."""
    if isinstance(error, NoFaceError):
        return "no_face"
    if isinstance(error, SeveralFacesError | TooManyFacesError):
        return "several_faces"
    return "low_quality" if isinstance(error, LowQualityError) else "unreadable"


HEADER: Final = ("row", *Done._fields)
"""The columns of a report; rows count from 1."""


def as_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Lines of a report; bytes of a file name that are no text are written as escapes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["" if cell is None else cell for cell in row] for row in rows])
    return text.getvalue().encode(errors="backslashreplace").decode()
