"""Enrolments that are committed together.

Whatever waits when a commit has ended goes into the next one, so that a busy service puts many enrolments on the disk
at the price of one, and an idle one waits for nothing. All of a group have one revision. An enrolment that fails takes
nobody with it: its group is undone and each of it tried alone (`service.vision.batching`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Generic, TypeVar

import numpy as np

from service.errors import GalleryModelError, VultusError
from service.gallery import faces, galleries
from service.gallery.catalog import Catalog, WriteTransaction
from service.gallery.faces import Added
from service.gallery.index.protocol import Matches
from service.gallery.records import GalleryRecord, NewTemplate
from service.gallery.view import GalleryView

Result = TypeVar("Result")

LOOK_ALIKES: Final = 5
"""How many people are looked at whom a new face may resemble."""


@dataclass(frozen=True, eq=False)
class Wanted(Generic[Result]):
    """An enrolment that waits for its commit.

    Attributes:
        gallery: where; its record may be an old one.
        view: its index.
        person: the caller's id.
        templates: at least one.
        limit: most faces kept for a person.
        tell: called inside the transaction with what was added and whom each template resembles most; what it gives
            is the result, what it raises undoes the enrolment.
    """

    gallery: GalleryRecord
    view: GalleryView
    person: str
    templates: Sequence[NewTemplate]
    limit: int
    tell: Callable[[WriteTransaction, Added, Matches], Result]


@dataclass(frozen=True, eq=False)
class Kept(Generic[Result]):
    """What was committed; `fault` where the index could not be brought to show it."""

    result: Result
    fault: VultusError | None


def keep(catalog: Catalog, group: Sequence[Wanted[Result]]) -> list[Kept[Result]]:
    """Commit enrolments of one gallery, all or none, and let its index show them. Blocks.

    Raises:
        VultusError: what any of them met; then nothing is kept.
    """
    view = group[0].view
    view.require_ready(len({wanted.person for wanted in group}))
    probes = np.stack([template.embedding for wanted in group for template in wanted.templates])
    alike = view.search(probes, LOOK_ALIKES)
    ends = np.cumsum([0, *(len(wanted.templates) for wanted in group)])
    additions: list[Added] = []
    results: list[Result] = []
    with catalog.write() as tx:
        gallery = galleries.by_pk(tx, group[0].gallery.pk)
        if gallery.model_digest != group[0].gallery.model_digest:
            raise GalleryModelError(f"gallery {gallery.name!r} has moved to model {gallery.model!r}")
        for wanted, (first, last) in zip(group, pairwise(ends), strict=True):
            added = faces.add_to(tx, gallery, wanted.person, wanted.templates, limit=wanted.limit)
            results.append(wanted.tell(tx, added, Matches(alike.rows[first:last], alike.scores[first:last])))
            additions.append(added)
    fault = _shown(view, additions)
    return [Kept(result, fault) for result in results]


def _shown(view: GalleryView, additions: Sequence[Added]) -> VultusError | None:
    """Let the index show what was committed; a fault is told, for what is committed must not be tried again."""
    vectors = {added.person.pk: added.fused for added in additions if added.fused is not None}
    if not vectors:
        return None
    revision = max(added.revision for added in additions)
    try:
        view.show(revision, np.array([*vectors], np.int64), np.stack([*vectors.values()]))
    except VultusError as error:
        return error
    return None
