"""Calibrations of galleries: what the scores of a gallery's own people mean, version by version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import func, insert, select

from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.embeddings import Embeddings, Rows, from_bytes
from service.gallery.records import columns
from service.gallery.schema import calibrations, templates

KEPT: Final = 5
"""Versions that are kept of each gallery."""


@dataclass(frozen=True, slots=True)
class GalleryCalibration:
    """One version.

    Attributes:
        gallery_pk: whose.
        version: from 1, rising.
        revision: of the gallery when it was measured.
        people: who could be found then.
        made_at: when.
        tiers: `all` and, where neighbours were measured, `near`: plain JSON each.
    """

    gallery_pk: int
    version: int
    revision: int
    people: int
    made_at: datetime
    tiers: Mapping[str, Any]


COLUMNS = columns(calibrations, GalleryCalibration)


def newest(reading: Reading, gallery_pk: int) -> GalleryCalibration | None:
    """The newest version, None where the gallery was never measured."""
    query = (
        select(*COLUMNS).where(calibrations.c.gallery_pk == gallery_pk).order_by(calibrations.c.version.desc()).limit(1)
    )
    row = reading.connection.execute(query).one_or_none()
    return None if row is None else GalleryCalibration(*row)


def newest_version(reading: Reading, gallery_pk: int) -> int:
    """The number of the newest version, 0 where there is none."""
    query = select(func.max(calibrations.c.version)).where(calibrations.c.gallery_pk == gallery_pk)
    return int(reading.connection.execute(query).scalar_one() or 0)


def newest_versions(reading: Reading) -> dict[int, int]:
    """The number of the newest version of every gallery that has one, by its key."""
    query = select(calibrations.c.gallery_pk, func.max(calibrations.c.version)).group_by(calibrations.c.gallery_pk)
    return {int(pk): int(version) for pk, version in reading.connection.execute(query)}


def keep(
    tx: WriteTransaction, gallery_pk: int, *, revision: int, people: int, tiers: Mapping[str, Any]
) -> GalleryCalibration:
    """Keep a new version; those older than the last few leave. The gallery's revision stays as it is."""
    tx.hold(gallery_pk)
    version = newest_version(tx, gallery_pk) + 1
    made = GalleryCalibration(gallery_pk, version, revision, people, tx.now, tiers)
    values = {name: getattr(made, name) for name in GalleryCalibration.__slots__}
    tx.connection.execute(insert(calibrations).values(values))
    old = (calibrations.c.gallery_pk == gallery_pk) & (calibrations.c.version <= version - KEPT)
    tx.connection.execute(calibrations.delete().where(old))
    return made


def one_template_each(reading: Reading, gallery_pk: int, people: Rows, dim: int) -> tuple[Rows, Embeddings]:
    """The first template of each of some people, as if it were a probe; who has none is missing.

    Args:
        reading: the transaction.
        gallery_pk: the gallery.
        people: their keys, (n,), some thousands at most.
        dim: of an embedding.
    """
    wanted = [int(key) for key in np.unique(people)]
    first = (
        select(func.min(templates.c.pk))
        .where(templates.c.gallery_pk == gallery_pk, templates.c.person_pk.in_(wanted))
        .group_by(templates.c.person_pk)
    )
    query = select(templates.c.person_pk, templates.c.embedding).where(templates.c.pk.in_(first))
    found = reading.connection.execute(query).all()
    return np.array([row.person_pk for row in found], np.int64), from_bytes((row.embedding for row in found), dim)
