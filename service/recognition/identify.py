"""Identify: whose faces a photo shows, at a stated error rate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidEmbeddingError, NoFaceError
from service.gallery.people import Found, by_pks
from service.gallery.records import GalleryRecord
from service.gallery.view import GalleryView
from service.identify.decision import Threshold, decide, threshold
from service.recognition.product import Embedding, Product
from service.vision.reader import SeenFace

EXPIRED_MARGIN: Final = 16
"""Further candidates looked at, so that people who have expired do not push out those who have not."""


@dataclass(frozen=True)
class Candidate:
    """A person whom the face may show."""

    person: str
    similarity: float
    posterior: float
    prior_log_odds: float


@dataclass(frozen=True)
class Tier:
    """A set of people who were examined together."""

    tier: str
    scored: int
    posterior: float


@dataclass(frozen=True)
class Identified:
    """The answer about one face; `seen` is None where the caller gave an embedding."""

    seen: SeenFace | None
    decision: Literal["match", "unknown", "ask"]
    person: str | None
    similarity: float | None
    posterior: float | None
    threshold: float
    fpir: float
    candidates: tuple[Candidate, ...]
    tiers: tuple[Tier, ...]
    search_ms: float


@dataclass(frozen=True)
class Identification:
    """The answer to an identify request."""

    gallery: str
    revision: int
    faces: tuple[Identified, ...]


async def identify(
    product: Product,
    gallery: str,
    photo: bytes | None,
    embedding: Embedding | None = None,
    *,
    fpir: float | None = None,
    top: int = 5,
) -> Identification:
    """Identify every face of a photo, or one ready embedding.

    Args:
        product: the parts.
        gallery: name of the gallery.
        photo: bytes of a photo; exactly one of it and `embedding` is given.
        embedding: a probe computed with the gallery's own model.
        fpir: target false-positive identification rate; None takes the gallery's, or else the service's.
        top: most candidates in the answer.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        GalleryModelError: it is bound to another model.
        NoFaceError: the photo shows no face.
        FpirNotSupportedError: the calibration cannot vouch for the rate that the caller asks for.
        PhotoError: the photo cannot be used.
        OverloadedError: too much is waiting.
    """
    record, view = await product.gallery(gallery)
    accept = threshold(
        product.calibration, len(view), fpir or record.fpir or product.policy.fpir, insist=fpir is not None
    )
    if embedding is not None:
        seen: Sequence[SeenFace | None] = [None]
        probes = [embedding]
    else:
        faces = (await product.reader.see(photo or b"")).faces
        if not faces:
            raise NoFaceError("no face was found in the photo")
        seen = faces
        probes = await product.reader.encode([face.crop for face in faces])
    answers = await product.stored(
        lambda: _answer(product, record, view, np.stack(probes), seen, accept=accept, top=top)
    )
    return Identification(record.name, view.revision, tuple(answers))


def _answer(
    product: Product,
    gallery: GalleryRecord,
    view: GalleryView,
    probes: NDArray[np.float32],
    seen: Sequence[SeenFace | None],
    *,
    accept: Threshold,
    top: int,
) -> list[Identified]:
    if probes.shape[1] != gallery.dim:
        raise InvalidEmbeddingError(f"the gallery's embeddings have {gallery.dim} values, not {probes.shape[1]}")
    started = time.perf_counter()
    people = len(view)
    matches = view.search(probes, top + EXPIRED_MARGIN)
    with product.catalog.read() as reading:
        known = by_pks(reading, sorted({int(row) for row in matches.rows.ravel() if row >= 0}))
    spent = (time.perf_counter() - started) * 1000 / len(probes)
    now = datetime.now(UTC)
    return [
        _about(product, face, rows, scores, known, now, people=people, accept=accept, top=top, search_ms=spent)
        for face, rows, scores in zip(seen, matches.rows, matches.scores, strict=True)
    ]


def _about(
    product: Product,
    face: SeenFace | None,
    rows: NDArray[np.int64],
    scores: NDArray[np.floating[Any]],
    known: dict[int, Found],
    now: datetime,
    *,
    people: int,
    accept: Threshold,
    top: int,
    search_ms: float,
) -> Identified:
    # Somebody forgotten or expired since the search must not be answered, whatever the index still shows.
    living = [place for place, row in enumerate(rows) if int(row) in known and not known[int(row)].expired(now)][:top]
    similarities = scores[living]
    decision = decide(similarities, people=people, calibration=product.calibration, accept=accept)
    candidates = tuple(
        Candidate(known[int(rows[place])].person, float(scores[place]), float(posterior), decision.prior_log_odds)
        for place, posterior in zip(living, decision.posteriors, strict=True)
    )
    best = candidates[0] if candidates else None
    return Identified(
        seen=face,
        decision=decision.decision,
        person=best.person if best and decision.best is not None else None,
        similarity=best.similarity if best else None,
        posterior=best.posterior if best else None,
        threshold=accept.similarity,
        fpir=accept.fpir,
        candidates=candidates,
        tiers=(Tier("gallery", people, best.posterior if best else 0.0),),
        search_ms=search_ms,
    )
