"""What the catalog answers with, and what it is given: plain frozen records, times in UTC."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar

from sqlalchemy import Column, Table

from service.gallery.embeddings import Embeddings

Record = TypeVar("Record")

Attributes: TypeAlias = Mapping[str, Any]
"""Free JSON of the caller."""

Box: TypeAlias = tuple[float, float, float, float]
"""x, y, width, height of a face in its photo, in pixels."""


@dataclass(frozen=True, slots=True)
class GalleryRecord:
    """A gallery; `revision` counts its committed changes, `habits` are fitted parameters of the prior.

    `observed` says which attributes of people may be used as evidence, and how each is observed.
    """

    pk: int
    name: str
    model: str
    model_digest: str
    dim: int
    revision: int
    fpir: float | None
    keep_crops: bool
    habits: Mapping[str, float] | None
    observed: Mapping[str, Any] | None
    attributes: Attributes
    created_at: datetime


class GalleryChanges(TypedDict, total=False):
    """The fields of a gallery that may change; those given are set."""

    fpir: float | None
    keep_crops: bool
    habits: Mapping[str, float] | None
    observed: Mapping[str, Any] | None
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class PersonFields:
    """What a caller states about a person.

    Attributes:
        name: as people say it.
        region: home cell, an H3 index in hexadecimal.
        device: the person's own device.
        digits: keyed hash of the last digits of the phone (`Catalog.digits_hash`), never the digits.
        attributes: free JSON.
        consent: free JSON: who agreed to what, when.
        expires_at: when the person stops being found.
    """

    name: str | None = None
    region: str | None = None
    device: str | None = None
    digits: str | None = None
    attributes: Attributes = field(default_factory=dict)
    consent: Attributes | None = None
    expires_at: datetime | None = None


class PersonChanges(TypedDict, total=False):
    """The fields of `PersonFields` that a patch sets; None clears one."""

    name: str | None
    region: str | None
    device: str | None
    digits: str | None
    attributes: Attributes
    consent: Attributes | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """A person; `pk` is the row in the index, `revision` the gallery's when the person last changed."""

    pk: int
    gallery_pk: int
    person: str
    name: str | None
    region: str | None
    device: str | None
    digits: str | None
    attributes: Attributes
    consent: Attributes | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    revision: int
    faces: int

    def expired(self, now: datetime) -> bool:
        """Tell whether the person must no longer be found at `now`."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True, eq=False)
class NewTemplate:
    """A template to be kept.

    Attributes:
        photo_digest: sha256 of the photo's bytes, hexadecimal.
        embedding: unit vector, shape (dim,), float32.
        quality: of the face, in [0, 1].
        box: where the face is in the photo.
        crop: of the face, packed (`service.vision.crops`); kept where the gallery keeps crops.
    """

    photo_digest: str
    embedding: Embeddings
    quality: float
    box: Box
    crop: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TemplateRecord:
    """A template that is kept; `face` is its public id."""

    pk: int
    person_pk: int
    face: str
    photo_digest: str
    embedding: Embeddings
    quality: float
    box: Box
    created_at: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class Page(Generic[Record]):
    """A part of a listing; `next` is the cursor that goes on after it, None at the end."""

    items: tuple[Record, ...]
    next: str | None


def columns(table: Table, record: type[Any]) -> list[Column[Any]]:
    """Return the columns of `table` that make up `record`, in the order of its fields."""
    return [table.c[each.name] for each in dataclasses.fields(record)]
