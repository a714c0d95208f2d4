"""Routes of galleries."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from service.api import render
from service.api.access import needs
from service.api.dependencies import Cursor, PageSize, ProductAtDep, ProductDep
from service.api.problems import described
from service.api.schemas.common import Id
from service.api.schemas.galleries import GalleryDeleted, GalleryIn, GalleryOut, GalleryPage, GalleryPatch
from service.api.writes import Keep, body_digest, idempotent, write
from service.gallery import galleries
from service.gallery.records import GalleryChanges

router = APIRouter(prefix="/v1/galleries", tags=["galleries"])


@router.get("", responses=described(401, 403, 422), dependencies=[Depends(needs("read"))])
async def list_galleries(product: ProductDep, cursor: Cursor = None, limit: PageSize = 100) -> GalleryPage:
    """List galleries by name."""

    def work() -> GalleryPage:
        with product.catalog.read() as reading:
            page = galleries.page(reading, after=cursor, limit=limit)
            items = [render.gallery(item, galleries.size(reading, item.pk), product.policy.fpir) for item in page.items]
        return GalleryPage(galleries=items, next=page.next)

    return await product.stored(work)


@router.post(
    "",
    status_code=201,
    response_model=GalleryOut,
    responses=described(400, 401, 403, 409, 413, 415, 422, 507),
    dependencies=[Depends(needs("manage")), Depends(idempotent)],
)
async def create_gallery(product: ProductDep, request: Request, body: GalleryIn) -> Response:
    """Create an empty gallery, bound to the recognition model that is loaded."""

    async def work(keep: Keep) -> None:
        def create() -> None:
            model = product.model
            with product.catalog.write() as tx:
                made = galleries.create(
                    tx,
                    body.name,
                    model=model.name,
                    model_digest=model.digest,
                    dim=model.dim,
                    fpir=body.fpir,
                    observed={name: how.model_dump() for name, how in body.observed.items()},
                    keep_crops=body.keep_crops,
                    attributes=body.attributes,
                )
                keep(tx, 201, render.gallery(made, galleries.GallerySize(0, 0), product.policy.fpir))

        await product.written(create)

    return await write(product, request, body_digest(body), work)


@router.get("/{gallery}", responses=described(401, 403, 404, 422), dependencies=[Depends(needs("read"))])
async def get_gallery(product: ProductAtDep, gallery: Id) -> GalleryOut:
    """Look a gallery up."""

    def work() -> GalleryOut:
        with product.catalog.read() as reading:
            found = galleries.get(reading, gallery)
            return render.gallery(found, galleries.size(reading, found.pk), product.policy.fpir)

    return await product.stored(work)


@router.patch(
    "/{gallery}",
    response_model=GalleryOut,
    responses=described(400, 401, 403, 404, 409, 413, 415, 422, 507),
    dependencies=[Depends(needs("manage")), Depends(idempotent)],
)
async def change_gallery(
    product: ProductAtDep,
    request: Request,
    gallery: Id,
    body: GalleryPatch,
) -> Response:
    """Change a gallery's settings."""
    changes = GalleryChanges(**{name: getattr(body, name) for name in body.model_fields_set})  # type: ignore[typeddict-item]
    if "observed" in changes:
        changes["observed"] = {name: how.model_dump() for name, how in (body.observed or {}).items()}
    if "attributes" in changes:
        changes["attributes"] = changes["attributes"] or {}

    async def work(keep: Keep) -> None:
        def change() -> None:
            with product.catalog.write() as tx:
                changed = galleries.update(tx, galleries.get(tx, gallery).pk, changes)
                keep(tx, 200, render.gallery(changed, galleries.size(tx, changed.pk), product.policy.fpir))
            product.known.forget(gallery)

        await product.written(change)

    return await write(product, request, body_digest(body), work)


@router.delete(
    "/{gallery}",
    response_model=GalleryDeleted,
    responses=described(401, 403, 404, 409, 422, 507),
    dependencies=[Depends(needs("manage")), Depends(idempotent)],
)
async def delete_gallery(product: ProductAtDep, request: Request, gallery: Id) -> Response:
    """Delete a gallery with everybody in it."""

    async def work(keep: Keep) -> None:
        def delete() -> None:
            with product.catalog.write() as tx:
                found = galleries.get(tx, gallery)
                gone = galleries.delete(tx, found.pk)
                product.visits.forget_gallery(tx, found.pk)
                keep(tx, 200, GalleryDeleted(gallery=gallery, people=gone.people, faces=gone.templates))
            product.known.forget(gallery)
            product.views.drop(found.pk)

        await product.written(delete)

    return await write(product, request, body_digest(None), work)
