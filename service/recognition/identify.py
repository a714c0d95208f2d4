"""Identify: whose faces a photo shows, at a stated error rate.

Where nothing is known but the face, everybody is as likely as the next: a plain full search (`decision`). With a
context the likely few are compared first, each with a threshold of their own (`expectations`, `planner`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import AnswerNotFoundError, InvalidEmbeddingError, InvalidRequestError, NoFaceError
from service.gallery.people import Indexed, by_pks, overdue
from service.gallery.records import GalleryRecord
from service.gallery.view import GalleryView
from service.identify.calibration import Calibration
from service.identify.decision import Threshold, decide, threshold
from service.identify.fusion import fuse
from service.identify.planner import Found, Rule, look
from service.recognition.asked import Guess, Pending
from service.recognition.expectations import Context, Expected
from service.recognition.product import Embedding, Product
from service.vision.see import SeenFace

NOTHING_KNOWN: Final = Context()

Photos = tuple[tuple[Embedding, float], ...]
"""The embedding and the quality of each photo of a visitor."""

UNSEEN_QUALITY: Final = 0.5
"""Of a probe that came as an embedding."""

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
class Basis:
    """What an answer rests on where a prior had a say.

    Attributes:
        unknown: probability beforehand that the visitor is nobody in the gallery.
        lift: how many times as likely as anybody the best candidate was; None where there is none.
        certainty: least posterior of a match.
        calibration: version of the gallery's own calibration, 0 for the model's alone.
    """

    unknown: float
    lift: float | None
    certainty: float
    calibration: int


@dataclass(frozen=True)
class Identified:
    """The answer about one face; `seen` is None where the caller gave an embedding.

    Attributes:
        answer: id to come back with: with the digits where the decision is `ask`, or with another photo.
        words: how the answer came about, where a prior had a say,
        basis: and on which numbers it rests.
        matched: key of the person who was found, and
        nearest: of the one whom the face resembles most, where a prior had a say.
    """

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
    answer: str | None = None
    words: str | None = None
    basis: Basis | None = None
    matched: int | None = None
    nearest: int | None = None


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
    seen: SeenFace | None = None,
    fpir: float | None = None,
    top: int = 5,
    context: Context = NOTHING_KNOWN,
    certainty: float | None = None,
    safe: bool = False,
    looks: int = 1,
    retake: Pending | None = None,
) -> Identification:
    """Identify every face of a photo, or one ready embedding.

    A visitor who may be photographed again is looked at several times, each time as the mean of all photos so far. By
    the union bound the looks together keep to the rate when each keeps to its share of it. Digits are one look more,
    with a share of its own; so an answer that asks for them is come back to once.

    Args:
        product: the parts.
        gallery: name of the gallery.
        photo: bytes of a photo; exactly one of it and `embedding` is given.
        embedding: a probe computed with the gallery's own model.
        seen: the face that `embedding` was made of, where it is known.
        fpir: target false-positive identification rate; None takes the gallery's, or else the service's.
        top: most candidates in the answer.
        context: what is known beside the face; without it the search is a plain one.
        certainty: least posterior of a match; None takes the service's. A plain search has none.
        safe: whether an e-value decides, which holds however much alike neighbours look.
        looks: among how many photos of one visitor the rate is shared.
        retake: the answer that is come back to: with digits, or with a photo that shows the visitor's face as its
            largest.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        GalleryModelError: it is bound to another model.
        NoFaceError: the photo shows no face.
        InvalidRequestError: no look is left of those that the first request asked for.
        AnswerNotFoundError: that answer asked for no digits, or was come back to already.
        DigitsLockedError: digits about this person, or from this device, were wrong too often of late.
        FpirNotSupportedError: the calibration cannot vouch for the rate that the caller asks for.
        PhotoError: the photo cannot be used.
        OverloadedError: too much is waiting.
    """
    record, view = await product.gallery(gallery)
    device = None if context.digits is None or context.device is None else Guess("device", context.device)
    if device is not None:
        await product.stored(lambda: product.asked.admit(record.name, device))
    if retake is not None:
        fpir, looks = retake.rate, retake.looks
        if photo is not None and len(retake.taken) >= looks:
            raise InvalidRequestError(f"{looks} photos were shared out and are taken; identify anew")
    rate = (fpir or record.fpir or product.policy.fpir) / looks
    insist = fpir is not None
    plain = not context.says_something
    if plain:
        scale = product.calibrated.far(record.pk, len(view), rate)
        accept = threshold(scale, len(view), rate, insist=insist)
    else:
        now = datetime.now(UTC)
        expected = await product.stored(
            lambda: product.expectations.of(
                record.pk, context, rate, insist=insist, now=now, scan_share=view.scan_share
            )
        )
    shown, probes, taken = await _probes(product, photo, embedding, seen, retake)
    if plain:
        answers = await product.stored(
            lambda: _answer(product, record, view, np.stack(probes), shown, scale=scale, accept=accept, top=top)
        )
    else:
        rule = Rule(certainty or product.policy.certainty, safe, expected.digits)
        answers = await product.stored(
            lambda: [
                _expected(product, record, view, probe, face, expected, rule, top)
                for probe, face in zip(probes, shown, strict=True)
            ]
        )
    if context.digits is not None:
        await product.stored(lambda: _count(product, record.name, device, answers))
    again = replace(context, digits=None)
    pending = [
        Pending(record.name, face, probe, again, fpir, looks, photos, answer.decision == "ask")
        for face, probe, photos, answer in zip(shown, probes, taken, answers, strict=True)
    ]
    if any(_open(answer, each) for answer, each in zip(answers, pending, strict=True)):
        keys = await product.stored(
            lambda: [
                product.asked.keep(each) if _open(answer, each) else None
                for answer, each in zip(answers, pending, strict=True)
            ]
        )
        answers = [replace(answer, answer=key) for answer, key in zip(answers, keys, strict=True)]
    answers = [replace(answer, fpir=min(1.0, answer.fpir * looks)) for answer in answers]
    return Identification(record.name, view.revision, tuple(answers))


async def _probes(
    product: Product, photo: bytes | None, embedding: Embedding | None, seen: SeenFace | None, retake: Pending | None
) -> tuple[Sequence[SeenFace | None], list[Embedding], list[Photos]]:
    """The faces that are asked about, what is compared of each, and the photos behind that."""
    if embedding is not None:
        if retake is None:
            return [seen], [embedding], [((embedding, UNSEEN_QUALITY),)]
        if not retake.asks:
            raise AnswerNotFoundError("no such answer waits for digits; identify again")
        await product.stored(lambda: product.asked.spend(retake))
        return [seen], [embedding], [retake.taken]
    faces = (await product.reader.see(photo or b"")).faces
    if not faces:
        raise NoFaceError("no face was found in the photo")
    if retake is None:
        probes = await product.reader.encode([face.crop for face in faces])
        return faces, probes, [((probe, face.quality.score),) for probe, face in zip(probes, faces, strict=True)]
    (probe,) = await product.reader.encode([faces[0].crop])
    await product.stored(lambda: product.asked.spend(retake))
    taken = (*retake.taken, (probe, faces[0].quality.score))
    mean = fuse(np.stack([each for each, _ in taken]), np.array([quality for _, quality in taken]))
    return faces[:1], [mean], [taken]


def _count(product: Product, gallery: str, device: Guess | None, answers: Sequence[Identified]) -> None:
    """Count digits about everybody whom they may be about, and forgive whoever gave the right ones.

    Counted before the answer leaves, so that right digits are no better than wrong ones once there were too many.

    Raises:
        DigitsLockedError: there were too many wrong ones about one of them.
    """
    matched = [answer.matched for answer in answers if answer.matched is not None]
    nearest = [answer.nearest for answer in answers if answer.nearest is not None]
    for person in sorted({*matched, *nearest}):
        product.asked.admit(gallery, Guess("person", person))
    right = [Guess("person", person) for person in matched]
    if matched and device is not None:
        right.append(device)
    for guess in right:
        product.asked.succeeded(gallery, guess)


def _open(answer: Identified, pending: Pending) -> bool:
    """Whether the visitor can still do something: give digits, or be photographed again."""
    return answer.decision == "ask" or (answer.decision == "unknown" and len(pending.taken) < pending.looks)


def _answer(
    product: Product,
    gallery: GalleryRecord,
    view: GalleryView,
    probes: NDArray[np.float32],
    seen: Sequence[SeenFace | None],
    *,
    scale: Calibration,
    accept: Threshold,
    top: int,
) -> list[Identified]:
    if probes.shape[1] != gallery.dim:
        raise InvalidEmbeddingError(f"the gallery's embeddings have {gallery.dim} values, not {probes.shape[1]}")
    started = time.perf_counter()
    people = len(view)
    matches = view.search(probes, top + EXPIRED_MARGIN)
    now = datetime.now(UTC)
    with product.catalog.read() as reading:
        known = by_pks(reading, _distinct(matches.rows[:, :top]))
        if not all(_living(known, row, now) for row in _distinct(matches.rows[:, :top])):
            known = by_pks(reading, _distinct(matches.rows))
    spent = (time.perf_counter() - started) * 1000 / len(probes)
    return [
        _about(face, rows, scores, known, now, people=people, scale=scale, accept=accept, top=top, search_ms=spent)
        for face, rows, scores in zip(seen, matches.rows, matches.scores, strict=True)
    ]


def _distinct(rows: NDArray[np.int64]) -> list[int]:
    return sorted({int(row) for row in rows.ravel() if row >= 0})


def _living(known: dict[int, Indexed], row: int, now: datetime) -> bool:
    """Somebody forgotten or expired since the search must not be answered, whatever the index still shows."""
    found = known.get(row)
    return found is not None and not found.expired(now)


def _about(
    face: SeenFace | None,
    rows: NDArray[np.int64],
    scores: NDArray[np.floating[Any]],
    known: dict[int, Indexed],
    now: datetime,
    *,
    people: int,
    scale: Calibration,
    accept: Threshold,
    top: int,
    search_ms: float,
) -> Identified:
    living = [place for place, row in enumerate(rows) if _living(known, int(row), now)][:top]
    similarities = scores[living]
    decision = decide(similarities, people=people, calibration=scale, accept=accept)
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


def _expected(
    product: Product,
    gallery: GalleryRecord,
    view: GalleryView,
    probe: Embedding,
    face: SeenFace | None,
    expected: Expected,
    rule: Rule,
    top: int,
) -> Identified:
    if len(probe) != gallery.dim:
        raise InvalidEmbeddingError(f"the gallery's embeddings have {gallery.dim} values, not {len(probe)}")
    started = time.perf_counter()
    with product.catalog.read() as reading:
        gone = np.array(overdue(reading, gallery.pk, reading.now), np.int64)

    def score(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = view.score(probe[None], rows)[0]
        scores[np.isin(rows, gone)] = np.nan
        return scores

    def search(k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = view.search(probe[None], k, without=gone)
        living = found.rows[0] >= 0
        return found.rows[0][living], found.scores[0][living]

    found = look(expected.budget, rule, expected.habits, expected.tiers, score, search, top=top)
    spent = (time.perf_counter() - started) * 1000
    with product.catalog.read() as reading:
        known = by_pks(reading, found.rows.tolist())
    version = product.calibrated.version(gallery.pk)
    return _told(face, expected, found, known, spent, rule, version)


def _told(
    face: SeenFace | None,
    expected: Expected,
    found: Found,
    known: dict[int, Indexed],
    spent: float,
    rule: Rule,
    version: int,
) -> Identified:
    candidates = tuple(
        Candidate(known[row].person, float(similarity), float(posterior), float(odds))
        for row, similarity, posterior, odds in zip(
            found.rows.tolist(), found.similarities, found.posteriors, found.prior_log_odds, strict=True
        )
        if row in known
    )
    first = known.get(int(found.rows[0])) if len(found.rows) else None
    decision = found.decision
    # Who was forgotten since the search is not answered, and who gave no digits cannot be asked for them.
    if first is None or (decision == "ask" and first.digits is None):
        decision = "unknown"
    best = candidates[0] if candidates else None
    return Identified(
        seen=face,
        decision=decision,
        person=first.person if first is not None and decision == "match" else None,
        similarity=best.similarity if best else None,
        posterior=best.posterior if best else None,
        threshold=float(found.thresholds[0]) if len(found.thresholds) else expected.budget.least,
        fpir=expected.fpir,
        candidates=candidates,
        tiers=tuple(Tier(each.tier, each.scored, each.posterior) for each in found.tiers),
        search_ms=spent,
        words=_words(decision, best, found, expected, rule),
        basis=Basis(
            expected.budget.prior.unknown,
            None if best is None else _lift(best, expected),
            rule.certainty,
            version,
        ),
        matched=int(found.rows[0]) if first is not None and decision == "match" else None,
        nearest=found.nearest,
    )


def _lift(best: Candidate, expected: Expected) -> float:
    """How many times as likely as anybody a candidate was beforehand."""
    odds = float(np.exp(best.prior_log_odds))
    return odds / (1 + odds) * expected.budget.prior.residents.people / (1 - expected.budget.prior.unknown)


def _words(decision: str, best: Candidate | None, found: Found, expected: Expected, rule: Rule) -> str:
    """How the answer came about, in a sentence or two."""
    scored = sum(tier.scored for tier in found.tiers)
    people = expected.budget.prior.residents.people
    looked = f"{scored:,} comparisons in {', '.join(tier.tier for tier in found.tiers) or 'no tier'}"
    if best is None:
        return f"{looked}; there was nobody to compare with."
    lift = _lift(best, expected)
    needed = (
        f"safe mode asks for evidence of {1 / expected.budget.fpir:.3g} for somebody, there is {found.evidence:.3g}"
        if rule.safe
        else f"so {found.thresholds[0]:.3f} was needed"
    )
    story = (
        f"{looked}. Before the face was compared, {best.person} was {lift:.3g} times as likely as anybody among "
        f"{people:,} people; {needed}, and the similarity is {best.similarity:.3f}."
    )
    ends = {
        "match": f" All considered it is {best.person} with a probability of {best.posterior:.4f}.",
        "ask": " The face alone does not decide; digits would.",
        "unknown": _missing(best, found, expected, rule),
    }
    return story + ends[decision]


def _missing(best: Candidate, found: Found, expected: Expected, rule: Rule) -> str:
    """What the best candidate fell short of."""
    enough = found.evidence >= 1 / expected.budget.fpir if rule.safe else best.similarity >= float(found.thresholds[0])
    if enough and best.posterior < rule.certainty:
        return (
            f" That would suffice, but all considered it is {best.person} with a probability of {best.posterior:.4f} "
            f"only, and {rule.certainty:g} is asked for."
        )
    return " That does not suffice."
