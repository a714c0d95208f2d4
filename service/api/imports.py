"""Routes of bulk imports."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from service.api import render
from service.api.access import Access, needs
from service.api.dependencies import Cursor, ImportsDep, PageSize, ProductAtDep
from service.api.problems import described
from service.api.schemas.common import Id
from service.api.schemas.imports import ImportIn, ImportOut, ImportPage
from service.api.writes import Keep, body_digest, idempotent, write
from service.gallery.catalog import WriteTransaction
from service.imports import jobs
from service.imports.jobs import Progress

router = APIRouter(prefix="/v1/galleries/{gallery}/imports", tags=["imports"])


@router.post(
    "",
    status_code=201,
    response_model=ImportOut,
    responses={
        200: {"model": ImportOut, "description": "under way already"},
        **described(400, 401, 403, 404, 409, 413, 415, 422, 507),
    },
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def begin_import(
    product: ProductAtDep, imports: ImportsDep, request: Request, gallery: Id, body: ImportIn
) -> Response:
    """Enrol a folder, a manifest, a tar or ready embeddings; what was asked for before and has not ended goes on."""
    if body.embeddings is not None:
        access: Access = request.app.state.access
        await access.caller(request.headers.get("authorization", ""), "embed")

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, begun: Progress, created: bool) -> None:  # noqa: FBT001 - told, not chosen
            keep(tx, 201 if created else 200, render.progress(begun))

        await jobs.begin(
            product,
            imports,
            gallery,
            body.path,
            embeddings=body.embeddings,
            look_alikes=body.look_alikes,
            remember=remember,
        )

    return await write(product, request, body_digest(body), work)


@router.get("", responses=described(401, 403, 404, 422), dependencies=[Depends(needs("read"))])
async def list_imports(
    product: ProductAtDep, imports: ImportsDep, gallery: Id, cursor: Cursor = None, limit: PageSize = 100
) -> ImportPage:
    """List the imports of a gallery, the newest first."""
    page = await jobs.page(product, imports, gallery, after=cursor, limit=limit)
    return ImportPage(imports=[render.progress(item) for item in page.items], next=page.next)


@router.get("/{job}", responses=described(401, 403, 404, 422), dependencies=[Depends(needs("read"))])
async def get_import(product: ProductAtDep, imports: ImportsDep, gallery: Id, job: Id) -> ImportOut:
    """Look an import up: how far it is, how fast, and what became of the photos so far."""
    return render.progress(await jobs.get(product, imports, gallery, job))


@router.get(
    "/{job}/report",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "a line a photo"},
        **described(401, 403, 404, 422),
    },
    dependencies=[Depends(needs("read"))],
)
async def get_report(product: ProductAtDep, imports: ImportsDep, gallery: Id, job: Id) -> StreamingResponse:
    """Say what became of each photo so far, as CSV."""
    found = await jobs.get(product, imports, gallery, job)
    headers = {"Content-Disposition": f'attachment; filename="{found.record.import_id}.csv"'}
    return StreamingResponse(jobs.report(product, found.record), media_type="text/csv", headers=headers)


@router.delete(
    "/{job}",
    response_model=ImportOut,
    responses=described(401, 403, 404, 409, 422, 507),
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def cancel_import(product: ProductAtDep, imports: ImportsDep, request: Request, gallery: Id, job: Id) -> Response:
    """Cancel an import; what it enrolled stays, and one that has ended stays as it is."""

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, at: Progress) -> None:
            keep(tx, 200, render.progress(at))

        await jobs.cancel(product, imports, gallery, job, remember=remember)

    return await write(product, request, body_digest(None), work)
