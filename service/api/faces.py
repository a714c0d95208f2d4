"""Routes about faces in photos: identify, verify, detect, embed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter, Depends, Request, Response

from service.api import render, uploads
from service.api.access import Access, needs
from service.api.dependencies import MetricsDep, ProductAtDep, ProductDep
from service.api.problems import described
from service.api.schemas.common import Id, cell_of_place
from service.api.schemas.faces import DetectionOut, EmbeddingOut, PhotoJson
from service.api.schemas.identify import Context, IdentificationOut, IdentifyJson
from service.api.schemas.verify import VerificationOut, VerifyPersonJson, VerifyPhotosJson
from service.errors import InvalidRequestError
from service.recognition.expectations import Context as Known
from service.recognition.identify import NOTHING_KNOWN, identify
from service.recognition.verify import verify_person, verify_photos
from service.recognition.visits import checked_time

router = APIRouter(prefix="/v1", tags=["faces"])

PHOTO_ERRORS = described(400, 401, 403, 413, 415, 422, 429)


@router.post(
    "/galleries/{gallery}/identify",
    response_model=IdentificationOut,
    responses={**PHOTO_ERRORS, **described(404, 409)},
    openapi_extra=uploads.described(IdentifyJson, ["photo"]),
    dependencies=[Depends(needs("identify"))],
)
async def identify_faces(product: ProductAtDep, metrics: MetricsDep, request: Request, gallery: Id) -> Response:
    """Say whose faces a photo shows, each with its probability, at the target false-positive rate `fpir`."""
    upload = await uploads.read_upload(request, "photo")
    body = upload.model(IdentifyJson)
    context = _context(body.context)
    claims = body.context.claims if body.context else None
    again = claims.answer if claims else None
    shown = (body.embedding is not None) + ("photo" in upload.photos)
    if shown > 1 or (shown == 0 and again is None):
        raise InvalidRequestError("send exactly one of photo, embedding and an earlier answer")
    if again is not None and (body.embedding is not None or (shown == 1) == (context.digits is not None)):
        raise InvalidRequestError("an earlier answer is come back to with the digits, or with another photo")
    if again is not None and context.digits is not None and body.prior == "off":
        raise InvalidRequestError("digits count in the prior, which is off")
    photo = embedding = seen = pending = None
    if again is not None:
        pending = await product.stored(partial(product.asked.take, gallery, again))
        context = replace(pending.context, digits=context.digits)
        if shown:
            photo = upload.one("photo")
        else:
            embedding, seen = pending.probe, pending.seen
    elif body.embedding is not None:
        access: Access = request.app.state.access
        await access.caller(request.headers.get("authorization", ""), "embed")
        embedding = uploads.embedding_from(body.embedding, product.model.dim)
    else:
        photo = upload.one("photo")
    done = await identify(
        product,
        gallery,
        photo,
        embedding,
        seen=seen,
        fpir=body.fpir,
        top=body.top,
        context=context if body.prior == "on" else NOTHING_KNOWN,
        certainty=body.certainty,
        safe=body.safe,
        looks=body.looks,
        retake=pending,
    )
    request.state.revision = done.revision
    for face in done.faces:
        metrics.decisions.labels(gallery, face.decision).inc()
        metrics.search.observe(face.search_ms / 1000)
        metrics.examined.labels(face.tiers[-1].tier if face.tiers else "none").inc()
        if face.decision == "match":
            metrics.prior.observe(face.candidates[0].prior_log_odds)
    # Handed over as text: given the model, the framework would check it against itself once more.
    text = render.identification(done, product.model.name).model_dump_json(exclude_unset=True)
    return Response(text, media_type="application/json")


def _context(given: Context | None) -> Known:
    if given is None:
        return NOTHING_KNOWN
    return Known(
        device=given.device,
        cell=cell_of_place(given.region),
        at=None if given.time is None else checked_time(given.time, datetime.now(UTC)),
        person=given.claims.person if given.claims else None,
        digits=given.claims.digits if given.claims else None,
        observed=given.observed,
    )


@router.post(
    "/galleries/{gallery}/people/{person}/verify",
    responses={**PHOTO_ERRORS, **described(404, 409)},
    openapi_extra=uploads.described(VerifyPersonJson, ["photo"]),
    dependencies=[Depends(needs("identify"))],
)
async def verify_against_person(product: ProductAtDep, request: Request, gallery: Id, person: Id) -> VerificationOut:
    """Say whether the largest face of a photo is this person's."""
    upload = await uploads.read_upload(request, "photo")
    body = upload.model(VerifyPersonJson, given=["photo"])
    return render.verification(await verify_person(product, gallery, person, upload.one("photo"), fmr=body.fmr))


@router.post(
    "/verify",
    responses=PHOTO_ERRORS,
    openapi_extra=uploads.described(VerifyPhotosJson, ["photo_a", "photo_b"]),
    dependencies=[Depends(needs("identify"))],
)
async def verify_two_photos(product: ProductDep, request: Request) -> VerificationOut:
    """Say whether the largest faces of two photos are of one person."""
    upload = await uploads.read_upload(request, "photo_a", "photo_b")
    body = upload.model(VerifyPhotosJson, given=["photo_a", "photo_b"])
    done = await verify_photos(product, upload.one("photo_a"), upload.one("photo_b"), fmr=body.fmr)
    return render.verification(done)


@router.post(
    "/faces/detect",
    responses=PHOTO_ERRORS,
    openapi_extra=uploads.described(PhotoJson, ["photo"]),
    dependencies=[Depends(needs("identify"))],
)
async def detect_faces(product: ProductDep, request: Request) -> DetectionOut:
    """Find the faces of a photo and say how well each is seen."""
    upload = await uploads.read_upload(request, "photo")
    upload.model(PhotoJson, given=["photo"])
    photo = await product.reader.see(upload.one("photo"))
    return DetectionOut(width=photo.width, height=photo.height, faces=[render.seen(face) for face in photo.faces])


@router.post(
    "/faces/embed",
    responses=PHOTO_ERRORS,
    openapi_extra=uploads.described(PhotoJson, ["photo"]),
    dependencies=[Depends(needs("embed"))],
)
async def embed_faces(product: ProductDep, request: Request) -> EmbeddingOut:
    """Give the embeddings of a photo's faces; needs a key with the scope `embed`."""
    upload = await uploads.read_upload(request, "photo")
    upload.model(PhotoJson, given=["photo"])
    photo = await product.reader.see(upload.one("photo"))
    embeddings = await product.reader.encode([face.crop for face in photo.faces])
    faces = [render.embedded(face, embedding) for face, embedding in zip(photo.faces, embeddings, strict=True)]
    model = product.model
    return EmbeddingOut(model=model.name, model_digest=model.digest, dim=model.dim, faces=faces)
