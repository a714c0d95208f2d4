"""Records of the product as bodies of answers."""

from __future__ import annotations

import base64

import numpy as np

from service.api.schemas.common import BoxOut
from service.api.schemas.enroll import EnrolledOut, EnrolmentOut, RefusedOut, ResemblanceOut
from service.api.schemas.faces import EmbeddedOut, QualityOut, SeenOut
from service.api.schemas.galleries import GalleryOut, ObservableIn
from service.api.schemas.identify import CandidateOut, IdentificationOut, IdentifiedOut, TierOut, TraceOut
from service.api.schemas.imports import ImportOut, Trouble
from service.api.schemas.people import FaceOut, PersonOut
from service.api.schemas.verify import VerificationOut
from service.gallery.galleries import GallerySize
from service.gallery.records import GalleryRecord, PersonRecord, TemplateRecord
from service.imports.jobs import Progress
from service.recognition.enroll import Enrolment
from service.recognition.identify import Identification, Identified
from service.recognition.product import Embedding
from service.recognition.verify import Verification
from service.vision.detect import Box
from service.vision.see import SeenFace


def gallery(record: GalleryRecord, size: GallerySize, fpir: float) -> GalleryOut:
    """A gallery; `fpir` is the service's, used where the gallery has none of its own."""
    return GalleryOut(
        name=record.name,
        model=record.model,
        model_digest=record.model_digest,
        dim=record.dim,
        revision=record.revision,
        people=size.people,
        faces=size.templates,
        fpir=record.fpir or fpir,
        observed={name: ObservableIn(**how) for name, how in (record.observed or {}).items()},
        keep_crops=record.keep_crops,
        attributes=dict(record.attributes),
        created_at=record.created_at,
    )


def person(record: PersonRecord, templates: tuple[TemplateRecord, ...] | None = None) -> PersonOut:
    """A person, with faces where they are given."""
    faces = None if templates is None else [_kept(template) for template in templates]
    return PersonOut(
        person=record.person,
        name=record.name,
        region=record.region,
        device=record.device,
        digits=record.digits is not None,
        attributes=dict(record.attributes),
        consent=None if record.consent is None else dict(record.consent),
        expires_at=record.expires_at,
        created_at=record.created_at,
        updated_at=record.updated_at,
        revision=record.revision,
        face_count=record.faces,
        faces=faces,
    )


def _kept(template: TemplateRecord) -> FaceOut:
    x, y, width, height = template.box
    box = BoxOut(x=x, y=y, width=width, height=height) if width > 0 else None
    return FaceOut(face=template.face, quality=template.quality, box=box, created_at=template.created_at)


def enrolment(done: Enrolment) -> EnrolmentOut:
    """The answer to an enrolment."""
    return EnrolmentOut(
        person=done.person,
        revision=done.revision,
        enrolled=[
            EnrolledOut(
                face=item.face,
                photo=item.photo,
                box=None if item.box is None else box(item.box),
                quality=round(item.quality, 4),
                resembles=[
                    ResemblanceOut(person=other.person, similarity=round(other.similarity, 4))
                    for other in item.resembles
                ],
            )
            for item in done.enrolled
        ],
        refused=[
            RefusedOut(photo=item.photo, code=item.code, detail=item.detail, **item.extra) for item in done.refused
        ],
    )


def identification(done: Identification, model: str) -> IdentificationOut:
    """The answer to an identify request."""
    faces = [_identified(item) for item in done.faces]
    return IdentificationOut(gallery=done.gallery, revision=done.revision, model=model, faces=faces)


def _identified(item: Identified) -> IdentifiedOut:
    answer = IdentifiedOut(
        box=None,
        landmarks=None,
        score=None,
        quality=None,
        decision=item.decision,
        person=item.person,
        similarity=item.similarity,
        posterior=item.posterior,
        threshold=item.threshold,
        fpir=item.fpir,
        candidates=[
            CandidateOut(
                person=other.person,
                similarity=other.similarity,
                posterior=other.posterior,
                prior_log_odds=other.prior_log_odds,
            )
            for other in item.candidates
        ],
        trace=TraceOut(
            scored=sum(tier.scored for tier in item.tiers),
            tiers=[TierOut(tier=tier.tier, scored=tier.scored, posterior=tier.posterior) for tier in item.tiers],
        ),
    )
    if item.words is not None:
        answer.trace.words = item.words
    if item.basis is not None:
        answer.trace.unknown, answer.trace.lift = item.basis.unknown, item.basis.lift
        answer.trace.certainty, answer.trace.calibration = item.basis.certainty, item.basis.calibration
    if item.answer is not None:
        answer.answer = item.answer
    if item.seen is not None:
        found = seen(item.seen)
        answer.box, answer.landmarks, answer.score = found.box, found.landmarks, found.score
        answer.quality = found.quality.score
    return answer


def progress(at: Progress) -> ImportOut:
    """Where an import stands."""
    record = at.record
    trouble = record.error or at.trouble
    return ImportOut(
        import_=record.import_id,
        gallery=at.gallery,
        path=record.request["path"],
        embeddings=record.request["embeddings"],
        look_alikes=record.request["look_alikes"],
        state=record.state,
        total=record.total,
        done=at.done,
        outcomes=at.outcomes,
        per_second=round(at.per_second, 1),
        seconds_left=None if at.seconds_left is None else round(at.seconds_left, 1),
        trouble=None if trouble is None else Trouble(**trouble),
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
    )


def verification(done: Verification) -> VerificationOut:
    """The answer to a verify request."""
    return VerificationOut(
        same=done.same,
        similarity=done.similarity,
        probability=done.probability,
        threshold=done.threshold,
        fmr=done.fmr,
        faces=[seen(face) for face in done.faces],
    )


def box(found: Box) -> BoxOut:
    """A box, to a tenth of a pixel."""
    return BoxOut(x=round(found.x, 1), y=round(found.y, 1), width=round(found.width, 1), height=round(found.height, 1))


def seen(face: SeenFace) -> SeenOut:
    """A face in a photo."""
    return SeenOut(
        box=box(face.face.box),
        landmarks=[(round(float(x), 1), round(float(y), 1)) for x, y in face.face.landmarks],
        score=round(face.face.score, 4),
        quality=QualityOut(
            score=round(face.quality.score, 4),
            size=round(face.quality.size, 4),
            sharpness=round(face.quality.sharpness, 4),
            pose=round(face.quality.pose, 4),
            exposure=round(face.quality.exposure, 4),
            detection=round(face.quality.detection, 4),
        ),
    )


def embedded(face: SeenFace, embedding: Embedding) -> EmbeddedOut:
    """A face with its embedding."""
    text = base64.b64encode(np.ascontiguousarray(embedding, "<f4").tobytes()).decode()
    return EmbeddedOut(**seen(face).model_dump(), embedding=text)
