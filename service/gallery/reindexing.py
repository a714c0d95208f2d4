"""A gallery's move to another model: both models' vectors side by side, and the step from one to the other.

    begin          names the model; the gallery goes on with its own
    pending, keep  crops that the model has not encoded yet; its embeddings beside those in use
    fuse           people's vectors of both models
    switch         the gallery is of the other model from one commit to the next; called again, it is what it was
    end            the vectors of the model that is not in use are deleted

Everything done is committed, so that whoever is killed goes on where it stopped. New faces may come at any time: what
is pending is asked of the tables, not remembered. A template keeps its embedding in `templates` and both in `versions`;
one without a crop has no other, so that a switch sets it aside and a switch back brings it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import ColumnElement, exists, func, insert, literal, or_, select, update

from service.errors import ReindexingError, WithoutCropsError
from service.gallery import galleries
from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.embeddings import Embeddings, Rows, checked, from_bytes, to_bytes
from service.gallery.records import columns
from service.gallery.schema import calibrations, crops, fusions, people, reindexings, set_aside, templates, versions
from service.gallery.schema import galleries as galleries_table

NAMED: Final = 10
"""People without crops who are named in an error."""

SCATTER: Final = 2_654_435_761
"""Knuth's multiplier: keys in the order of their products are a sample that stays the same."""


@dataclass(frozen=True, slots=True)
class Model:
    """A recognition model, as a gallery is bound to it."""

    name: str
    digest: str
    dim: int


@dataclass(frozen=True, slots=True)
class Reindexing:
    """A move to `model` from `former`; `switched_at` as long as the gallery is of the new model."""

    gallery_pk: int
    model: str
    model_digest: str
    dim: int
    former: str
    former_digest: str
    former_dim: int
    started_at: datetime
    switched_at: datetime | None

    @property
    def other(self) -> Model:
        """The model that the gallery is not of at the moment."""
        if self.switched_at is None:
            return Model(self.model, self.model_digest, self.dim)
        return Model(self.former, self.former_digest, self.former_dim)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a move is.

    Attributes:
        faces: of the gallery.
        encoded: of these, by the other model.
        without: that have no crop.
        people_without: who have faces, and none of them a crop.
        unfused: people whose vectors are not of their present faces.
    """

    faces: int
    encoded: int
    without: int
    people_without: int
    unfused: int

    @property
    def pending(self) -> int:
        """Faces that wait for the other model."""
        return self.faces - self.encoded - self.without


def begin(tx: WriteTransaction, gallery_pk: int, model: Model) -> Reindexing:
    """Begin a move, or go on with the one that there is.

    Raises:
        ReindexingError: the gallery is of this model, or moves to a third one.
    """
    gallery = galleries.by_pk(tx, gallery_pk)
    running = find(tx, gallery_pk)
    if running is not None:
        if model.digest not in {running.model_digest, running.former_digest}:
            raise ReindexingError(
                f"gallery {gallery.name!r} moves from {running.former} to {running.model}; that has to be ended first"
            )
        return running
    if model.digest == gallery.model_digest:
        raise ReindexingError(f"gallery {gallery.name!r} is of model {model.name} already")
    values = {
        "gallery_pk": gallery_pk,
        "model": model.name,
        "model_digest": model.digest,
        "dim": model.dim,
        "former": gallery.model,
        "former_digest": gallery.model_digest,
        "former_dim": gallery.dim,
        "started_at": tx.now,
    }
    tx.connection.execute(insert(reindexings).values(values))
    return get(tx, gallery_pk)


def find(reading: Reading, gallery_pk: int) -> Reindexing | None:
    """Return the gallery's move, or None."""
    query = select(*columns(reindexings, Reindexing)).where(reindexings.c.gallery_pk == gallery_pk)
    row = reading.connection.execute(query).one_or_none()
    return None if row is None else Reindexing(*row)


def get(reading: Reading, gallery_pk: int) -> Reindexing:
    """Return the gallery's move.

    Raises:
        ReindexingError: there is none.
    """
    found = find(reading, gallery_pk)
    if found is None:
        raise ReindexingError("the gallery does not move to another model")
    return found


def progress(reading: Reading, gallery_pk: int) -> Progress:
    """Tell how far the gallery's move is.

    Raises:
        ReindexingError: there is none.
    """
    digest = get(reading, gallery_pk).other.digest
    mine = templates.c.gallery_pk == gallery_pk

    def counted(*conditions: ColumnElement[bool]) -> int:
        query = select(func.count()).select_from(templates).where(mine, *conditions)
        return int(reading.connection.execute(query).scalar_one())

    return Progress(
        faces=counted(),
        encoded=counted(_encoded(digest)),
        without=counted(~_encoded(digest), ~_cropped()),
        people_without=len(_left_behind(reading, gallery_pk, digest)),
        unfused=len(unfused(reading, gallery_pk, limit=1_000_000_000)),
    )


def pending(reading: Reading, gallery_pk: int, *, limit: int) -> list[tuple[int, bytes]]:
    """Return templates that the other model has not encoded, and their packed crops, the oldest first."""
    digest = get(reading, gallery_pk).other.digest
    query = (
        select(crops.c.template_pk, crops.c.crop)
        .where(crops.c.gallery_pk == gallery_pk, ~exists().where(_version_of(crops.c.template_pk, digest)))
        .order_by(crops.c.template_pk)
        .limit(limit)
    )
    return [(int(pk), crop) for pk, crop in reading.connection.execute(query)]


def keep(tx: WriteTransaction, gallery_pk: int, rows: Sequence[int], embeddings: Embeddings) -> int:
    """Keep the other model's embeddings, (n,dim), of these templates, beside those in use; who left is passed over.

    Returns:
        How many were kept.

    Raises:
        InvalidEmbeddingError: they are none of that model.
    """
    gallery = galleries.by_pk(tx, gallery_pk)
    other = get(tx, gallery_pk).other
    vectors = dict(zip(rows, checked(embeddings, other.dim), strict=True))
    here = templates.c.pk.in_(list(vectors)) & (templates.c.gallery_pk == gallery_pk)
    for digest in (other.digest, gallery.model_digest):
        lacking = select(templates.c.pk, templates.c.embedding).where(here, ~_encoded(digest))
        values = [
            {
                "template_pk": row.pk,
                "model_digest": digest,
                "gallery_pk": gallery_pk,
                "embedding": to_bytes(vectors[row.pk]) if digest == other.digest else row.embedding,
            }
            for row in tx.connection.execute(lacking).all()
        ]
        if values:
            tx.connection.execute(insert(versions), values)
    return len(values)


def unfused(reading: Reading, gallery_pk: int, *, limit: int) -> list[int]:
    """Return people who have embeddings of the other model and no vector that is up to date."""
    digest = get(reading, gallery_pk).other.digest
    fresh = exists().where(
        fusions.c.person_pk == people.c.pk,
        fusions.c.model_digest == digest,
        fusions.c.revision == people.c.revision,
    )
    encoded = exists().where(templates.c.person_pk == people.c.pk, _version_of(templates.c.pk, digest))
    query = select(people.c.pk).where(people.c.gallery_pk == gallery_pk, encoded, ~fresh).order_by(people.c.pk)
    return [int(pk) for pk in reading.connection.execute(query.limit(limit)).scalars()]


def fuse(tx: WriteTransaction, gallery_pk: int, owners: Sequence[int]) -> None:
    """Make the vectors of people anew, of both models, from what each has encoded."""
    gallery = galleries.by_pk(tx, gallery_pk)
    move = get(tx, gallery_pk)
    dims = {move.model_digest: move.dim, move.former_digest: move.former_dim}
    revisions = select(people.c.pk, people.c.revision).where(people.c.pk.in_(list(owners)))
    stamps = {int(row.pk): int(row.revision) for row in tx.connection.execute(revisions)}
    tx.connection.execute(fusions.delete().where(fusions.c.person_pk.in_(list(stamps))))
    values: list[dict[str, Any]] = []
    for digest, dim in dims.items():
        # What is in use is in `templates`, whether it has a crop or not.
        in_use = digest == gallery.model_digest
        vector = templates.c.embedding if in_use else versions.c.embedding
        query = select(templates.c.person_pk, vector, templates.c.quality).where(
            templates.c.person_pk.in_(list(stamps))
        )
        if not in_use:
            query = query.join(versions, _version_of(templates.c.pk, digest))
        parts: dict[int, list[tuple[bytes, float]]] = {}
        for person, embedding, quality in tx.connection.execute(query.order_by(templates.c.pk)):
            parts.setdefault(person, []).append((embedding, quality))
        for person, kept in parts.items():
            weights = np.array([quality for _, quality in kept], dtype=np.float32)
            fused = tx.fuse(from_bytes((embedding for embedding, _ in kept), dim), weights)
            values.append(
                {
                    "person_pk": person,
                    "model_digest": digest,
                    "gallery_pk": gallery_pk,
                    "fused": to_bytes(checked(fused[np.newaxis], dim)[0]),
                    "revision": stamps[person],
                }
            )
    if values:
        tx.connection.execute(insert(fusions), values)


def switch(tx: WriteTransaction, gallery_pk: int, *, leave_out: bool = False) -> int:
    """Let the gallery be of the other model: one commit, whatever its size.

    Args:
        tx: the transaction.
        gallery_pk: which.
        leave_out: set faces without a crop aside; their people are not found until the gallery is switched back.

    Returns:
        The gallery's revision.

    Raises:
        ReindexingError: there is no move, or something is pending.
        WithoutCropsError: some faces have no crop, and are not to be left out.
    """
    gallery = galleries.by_pk(tx, gallery_pk)
    move = get(tx, gallery_pk)
    other = move.other
    done = progress(tx, gallery_pk)
    if done.pending or done.unfused:
        raise ReindexingError(f"{done.pending} faces and {done.unfused} people still wait for model {other.name}")
    if done.without and not leave_out:
        names = _left_behind(tx, gallery_pk, other.digest)
        shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        raise WithoutCropsError(
            f"{done.without} faces have no crop, and {len(names)} people no other face ({shown})",
            people=len(names),
            faces=done.without,
        )
    revision = tx.revise(gallery_pk)
    _set_aside(tx, gallery_pk, gallery.model_digest, other.digest)
    returned = _bring_back(tx, gallery_pk, other.digest)
    mine = templates.c.gallery_pk == gallery_pk
    newer = select(versions.c.embedding).where(_version_of(templates.c.pk, other.digest)).scalar_subquery()
    tx.connection.execute(update(templates).where(mine, _encoded(other.digest)).values(embedding=newer))
    vector = select(fusions.c.fused).where(_fusion_of(other.digest)).scalar_subquery()
    held = select(func.count()).where(templates.c.person_pk == people.c.pk).scalar_subquery()
    everybody = people.c.gallery_pk == gallery_pk
    tx.connection.execute(
        update(people).where(everybody).values(fused=vector, faces=held, revision=revision, updated_at=tx.now)
    )
    tx.connection.execute(update(fusions).where(fusions.c.gallery_pk == gallery_pk).values(revision=revision))
    # What scores mean was learnt of the other model's scores.
    tx.connection.execute(calibrations.delete().where(calibrations.c.gallery_pk == gallery_pk))
    bound = {"model": other.name, "model_digest": other.digest, "dim": other.dim}
    tx.connection.execute(update(galleries_table).where(galleries_table.c.pk == gallery_pk).values(**bound))
    _fuse_again(tx, returned, other.dim)
    switched = tx.now if other.digest == move.model_digest else None
    tx.connection.execute(
        update(reindexings).where(reindexings.c.gallery_pk == gallery_pk).values(switched_at=switched)
    )
    return revision


def end(tx: WriteTransaction, gallery_pk: int) -> None:
    """End the move: the gallery stays what it is, and nothing is kept of the other model.

    Raises:
        ReindexingError: there is none.
    """
    get(tx, gallery_pk)
    tx.hold(gallery_pk)
    for table in (versions, fusions, set_aside, reindexings):
        tx.connection.execute(table.delete().where(table.c.gallery_pk == gallery_pk))
    tx.erased = True


def sample(reading: Reading, gallery_pk: int, *, size: int) -> tuple[Rows, Embeddings, Embeddings]:
    """Return faces of people who have several, encoded by both models: owners (n,), in use (n,dim), other (n,dim)."""
    gallery = galleries.by_pk(reading, gallery_pk)
    other = get(reading, gallery_pk).other
    scattered = (people.c.pk * SCATTER) % (1 << 32)
    chosen = (
        select(people.c.pk)
        .where(people.c.gallery_pk == gallery_pk, people.c.faces > 1)
        .order_by(scattered, people.c.pk)
        .limit(size)
        .subquery()
    )
    query = (
        select(templates.c.person_pk, templates.c.embedding, versions.c.embedding)
        .join(chosen, chosen.c.pk == templates.c.person_pk)
        .join(versions, _version_of(templates.c.pk, other.digest))
        .order_by(templates.c.person_pk, templates.c.pk)
    )
    rows = reading.connection.execute(query).all()
    return (
        np.array([row[0] for row in rows], dtype=np.int64),
        from_bytes((row[1] for row in rows), gallery.dim),
        from_bytes((row[2] for row in rows), other.dim),
    )


def _version_of(template: ColumnElement[int], digest: str) -> ColumnElement[bool]:
    return (versions.c.template_pk == template) & (versions.c.model_digest == digest)


def _fusion_of(digest: str) -> ColumnElement[bool]:
    return (fusions.c.person_pk == people.c.pk) & (fusions.c.model_digest == digest)


def _encoded(digest: str) -> ColumnElement[bool]:
    return exists().where(_version_of(templates.c.pk, digest)).correlate(templates)


def _cropped() -> ColumnElement[bool]:
    return exists().where(crops.c.template_pk == templates.c.pk).correlate(templates)


def _left_behind(reading: Reading, gallery_pk: int, digest: str) -> list[str]:
    """People who have faces and would have none."""
    some = exists().where(templates.c.person_pk == people.c.pk, or_(_encoded(digest), _cropped())).correlate(people)
    query = select(people.c.person).where(people.c.gallery_pk == gallery_pk, people.c.faces > 0, ~some)
    return [str(person) for person in reading.connection.execute(query.order_by(people.c.person)).scalars()]


SHARED: Final = (
    "person_pk",
    "gallery_pk",
    "face",
    "photo_digest",
    "embedding",
    "quality",
    "box",
    "created_at",
    "revision",
)


def _set_aside(tx: WriteTransaction, gallery_pk: int, digest: str, other: str) -> None:
    here = (templates.c.gallery_pk == gallery_pk) & ~_encoded(other)
    kept = select(templates.c.pk, literal(digest), *(templates.c[name] for name in SHARED)).where(here)
    tx.connection.execute(insert(set_aside).from_select(["pk", "model_digest", *SHARED], kept))
    tx.connection.execute(templates.delete().where(here))
    tx.erased = True


def _bring_back(tx: WriteTransaction, gallery_pk: int, digest: str) -> list[int]:
    """Bring back what this model can compare, and return whose it is; photos enrolled again meanwhile stay."""
    mine = (set_aside.c.gallery_pk == gallery_pk) & (set_aside.c.model_digest == digest)
    again = exists().where(
        templates.c.person_pk == set_aside.c.person_pk, templates.c.photo_digest == set_aside.c.photo_digest
    )
    kept = select(set_aside.c.pk, *(set_aside.c[name] for name in SHARED)).where(mine, ~again)
    owners = select(set_aside.c.person_pk).where(mine).distinct()
    returned = [int(pk) for pk in tx.connection.execute(owners).scalars()]
    tx.connection.execute(insert(templates).from_select(["pk", *SHARED], kept))
    tx.connection.execute(set_aside.delete().where(mine))
    return returned


def _fuse_again(tx: WriteTransaction, owners: Sequence[int], dim: int) -> None:
    """Make the vectors of people anew from all their templates."""
    for owner in owners:
        query = select(templates.c.embedding, templates.c.quality).where(templates.c.person_pk == owner)
        kept = tx.connection.execute(query.order_by(templates.c.pk)).all()
        fused = tx.fuse(
            from_bytes((row.embedding for row in kept), dim), np.array([row.quality for row in kept], dtype=np.float32)
        )
        vector = to_bytes(checked(fused[np.newaxis], dim)[0])
        tx.connection.execute(update(people).where(people.c.pk == owner).values(fused=vector))
