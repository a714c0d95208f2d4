"""What happened in a gallery since a revision, and all of it: what an index needs to follow the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Table, bindparam, select, union_all
from sqlalchemy.sql.elements import ColumnElement

from service.errors import GalleryModelError
from service.gallery import galleries
from service.gallery.catalog import Reading
from service.gallery.embeddings import Embeddings, Rows, from_bytes
from service.gallery.schema import departures, people


def _after(table: Table) -> ColumnElement[bool]:
    return (table.c.gallery_pk == bindparam("its_gallery")) & (table.c.revision > bindparam("after"))


CHANGED = (
    select(people.c.pk, people.c.fused)
    .where(_after(people), people.c.revision <= bindparam("reached"))
    .order_by(people.c.revision, people.c.pk)
)
LEFT = select(departures.c.person_pk).where(_after(departures), departures.c.revision <= bindparam("reached"))
STAMPS = (
    union_all(select(people.c.revision).where(_after(people)), select(departures.c.revision).where(_after(departures)))
    .order_by("revision")
    .offset(bindparam("skipped"))
    .limit(1)
)


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """A step from one revision to a later one.

    Applying a step twice, or one that was partly applied, ends in the same state. Within a step the order does not
    matter: no row is in both lists, and a `pk` that left never comes back.

    Attributes:
        revision: what is reached once the step is applied.
        head: the gallery's newest revision; steps go on until `revision` is `head`. Before that an index may lack
            people who changed again later.
        rows: people who are new or changed, shape (n,).
        embeddings: their fused vectors, shape (n, dim).
        removed: people who left or have no face any more, shape (m,).
    """

    revision: int
    head: int
    rows: Rows
    embeddings: Embeddings
    removed: Rows


def since(
    reading: Reading, gallery_pk: int, revision: int, *, model_digest: str | None = None, limit: int = 10_000
) -> Changes:
    """Return the step from `revision` onwards.

    Args:
        reading: the transaction.
        gallery_pk: whose changes.
        revision: the one already shown.
        model_digest: the model whose vectors are followed, any where it is None.
        limit: about how many rows a step holds; a single revision is never split, so it may hold more.

    Raises:
        GalleryNotFoundError: the gallery does not exist.
        GalleryModelError: it has moved to another model.
    """
    gallery = galleries.by_pk(reading, gallery_pk)
    if model_digest is not None and gallery.model_digest != model_digest:
        raise GalleryModelError(f"gallery {gallery.name!r} has moved to model {gallery.model!r}")
    span = {"its_gallery": gallery_pk, "after": revision}
    last = reading.connection.execute(STAMPS, {**span, "skipped": limit - 1}).scalar_one_or_none()
    reached = gallery.revision if last is None else int(last)
    found = reading.connection.execute(CHANGED, {**span, "reached": reached}).all()
    gone = reading.connection.execute(LEFT, {**span, "reached": reached})
    faceless = [row.pk for row in found if row.fused is None]
    return Changes(
        revision=reached,
        head=gallery.revision,
        rows=np.array([row.pk for row in found if row.fused is not None], dtype=np.int64),
        embeddings=from_bytes((row.fused for row in found if row.fused is not None), gallery.dim),
        removed=np.array([*gone.scalars(), *faceless], dtype=np.int64),
    )


def fused_vectors(reading: Reading, gallery_pk: int, *, chunk: int = 10_000) -> Iterator[tuple[Rows, Embeddings]]:
    """Yield every person who has a face, in arrays of at most `chunk`, the longest unchanged first.

    Raises:
        GalleryNotFoundError: the gallery does not exist.
    """
    dim = galleries.by_pk(reading, gallery_pk).dim
    query = (
        select(people.c.pk, people.c.fused)
        .where(people.c.gallery_pk == gallery_pk, people.c.fused.is_not(None))
        .order_by(people.c.revision, people.c.pk)  # the order of an index, so that nothing is sorted
        .execution_options(stream_results=True)
    )
    for part in reading.connection.execute(query).partitions(chunk):
        yield np.array([row.pk for row in part], dtype=np.int64), from_bytes((row.fused for row in part), dim)
