"""Routes of people and their faces."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from service.api import render, uploads
from service.api.access import Access, needs
from service.api.dependencies import Cursor, MetricsDep, PageSize, ProductAtDep
from service.api.problems import described
from service.api.schemas.common import Id, Point
from service.api.schemas.enroll import EnrollJson, EnrolmentOut
from service.api.schemas.people import FaceRemoved, PersonForgotten, PersonIn, PersonOut, PersonPage, PersonPatch
from service.api.writes import Keep, body_digest, idempotent, write
from service.gallery import faces, galleries, people
from service.gallery.catalog import WriteTransaction
from service.gallery.forgetting import Forgotten
from service.gallery.records import PersonChanges, PersonFields
from service.recognition.enroll import Enrolment, ReadyEmbedding, enroll
from service.recognition.forget import forget
from service.recognition.product import Product
from service.recognition.regions import cell_at, cell_of

router = APIRouter(prefix="/v1/galleries/{gallery}/people", tags=["people"])


@router.get("", responses=described(401, 403, 404, 422), dependencies=[Depends(needs("read"))])
async def list_people(product: ProductAtDep, gallery: Id, cursor: Cursor = None, limit: PageSize = 100) -> PersonPage:
    """List people by id."""

    def work() -> PersonPage:
        with product.catalog.read() as reading:
            page = people.page(reading, galleries.get(reading, gallery).pk, after=cursor, limit=limit)
        return PersonPage(people=[render.person(item) for item in page.items], next=page.next)

    return await product.stored(work)


@router.get("/{person}", responses=described(401, 403, 404, 422), dependencies=[Depends(needs("read"))])
async def get_person(product: ProductAtDep, gallery: Id, person: Id) -> PersonOut:
    """Look a person up, with the faces that are kept."""

    def work() -> PersonOut:
        with product.catalog.read() as reading:
            found = people.living(reading, galleries.get(reading, gallery).pk, person)
            return render.person(found, faces.of_person(reading, found.pk))

    return await product.stored(work)


@router.put(
    "/{person}",
    response_model=PersonOut,
    responses={
        201: {"model": PersonOut, "description": "created"},
        **described(400, 401, 403, 404, 409, 413, 415, 422, 507),
    },
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def put_person(
    product: ProductAtDep,
    request: Request,
    gallery: Id,
    person: Id,
    body: PersonIn,
) -> Response:
    """Create a person, or replace everything about them but their faces."""

    async def work(keep: Keep) -> None:
        def put() -> None:
            with product.catalog.write() as tx:
                record = galleries.get(tx, gallery)
                fields = PersonFields(**_fields(product, record.pk, body, set(PersonIn.model_fields)))
                done = people.put(tx, record.pk, person, fields)
                keep(tx, 201 if done.created else 200, render.person(done.person))
            product.show(record, done.person.revision)

        await product.changed(put)

    return await write(product, request, body_digest(body), work)


@router.patch(
    "/{person}",
    response_model=PersonOut,
    responses=described(400, 401, 403, 404, 409, 413, 415, 422, 507),
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def patch_person(
    product: ProductAtDep,
    request: Request,
    gallery: Id,
    person: Id,
    body: PersonPatch,
) -> Response:
    """Change what is given; null clears."""

    async def work(keep: Keep) -> None:
        def patch() -> None:
            with product.catalog.write() as tx:
                record = galleries.get(tx, gallery)
                changes = PersonChanges(**_fields(product, record.pk, body, body.model_fields_set))  # type: ignore[typeddict-item]
                changed = people.patch(tx, record.pk, person, changes)
                keep(tx, 200, render.person(changed))
            product.show(record, changed.revision)

        await product.changed(patch)

    return await write(product, request, body_digest(body), work)


@router.delete(
    "/{person}",
    response_model=PersonForgotten,
    responses=described(401, 403, 404, 409, 422, 507),
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def forget_person(
    product: ProductAtDep,
    request: Request,
    gallery: Id,
    person: Id,
) -> Response:
    """Forget a person: everything kept about them is deleted, and a receipt is given."""

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, gone: Forgotten) -> None:
            receipt = gone.receipt
            body = PersonForgotten(
                person=person, revision=receipt.revision, receipt=receipt.receipt, faces=receipt.faces
            )
            keep(tx, 200, body)

        await forget(product, gallery, person, remember=remember)

    return await write(product, request, body_digest(None), work)


@router.post(
    "/{person}/faces",
    status_code=201,
    response_model=EnrolmentOut,
    responses=described(400, 401, 403, 404, 409, 413, 415, 422, 429, 507),
    openapi_extra=uploads.described(EnrollJson, ["photo"], repeated=True),
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def enroll_faces(
    product: ProductAtDep,
    metrics: MetricsDep,
    request: Request,
    gallery: Id,
    person: Id,
) -> Response:
    """Enrol photos of a person, each showing that person alone; the person is created if absent."""
    upload = await uploads.read_upload(request, "photo")
    body = upload.model(EnrollJson)
    texts = body.embedding if isinstance(body.embedding, list) else [body.embedding]
    if texts:
        access: Access = request.app.state.access
        await access.caller(request.headers.get("authorization", ""), "embed")
    ready = [ReadyEmbedding(uploads.embedding_from(text, product.model.dim), body.quality) for text in texts]

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, done: Enrolment) -> None:
            keep(tx, 201, render.enrolment(done))

        done = await enroll(product, gallery, person, upload.photos.get("photo", []), ready, remember=remember)
        metrics.faces.labels(gallery).inc(len(done.enrolled))

    return await write(product, request, lambda: upload.digest, work)


@router.delete(
    "/{person}/faces/{face}",
    response_model=FaceRemoved,
    responses=described(401, 403, 404, 409, 422, 507),
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def remove_face(
    product: ProductAtDep,
    request: Request,
    gallery: Id,
    person: Id,
    face: Id,
) -> Response:
    """Remove one face of a person."""

    async def work(keep: Keep) -> None:
        record, view = await product.gallery(gallery)

        def remove() -> None:
            view.require_ready(1)
            with product.catalog.write() as tx:
                done = faces.remove(tx, record.pk, person, face)
                keep(tx, 200, FaceRemoved(person=person, face=face, revision=done.revision))
            view.catch_up(done.revision)

        await product.changed(remove)

    return await write(product, request, body_digest(None), work)


def _fields(product: Product, gallery_pk: int, body: PersonIn, names: set[str]) -> dict[str, Any]:
    """The named fields as the catalog keeps them: a point as its cell, digits as their keyed hash."""
    fields = {name: getattr(body, name) for name in names}
    region = fields.get("region")
    if isinstance(region, Point):
        fields["region"] = cell_at(region.lat, region.lon)
    elif region is not None:
        fields["region"] = cell_of(region)
    if fields.get("digits") is not None:
        fields["digits"] = product.catalog.digits_hash(gallery_pk, fields["digits"])
    if fields.get("attributes", {}) is None:
        fields["attributes"] = {}
    return fields
