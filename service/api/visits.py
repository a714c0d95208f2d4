"""The route of visits."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from service.api.access import needs
from service.api.dependencies import ProductAtDep
from service.api.problems import described
from service.api.schemas.common import Id, cell_of_place
from service.api.schemas.visits import VisitIn, VisitOut
from service.api.writes import Keep, body_digest, idempotent, write
from service.gallery.catalog import WriteTransaction
from service.recognition.visits import record

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["visits"])


@router.post(
    "/visits",
    status_code=201,
    response_model=VisitOut,
    responses=described(400, 401, 403, 404, 409, 413, 415, 422, 507),
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def record_visit(product: ProductAtDep, request: Request, gallery: Id, body: VisitIn) -> Response:
    """Record a visit that something other than the face has confirmed; `person: null` is a confirmed stranger."""

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, key: int) -> None:
            keep(tx, 201, VisitOut(visit=f"v_{key}", person=body.person))

        await record(
            product,
            gallery,
            body.person,
            device=body.device,
            cell=cell_of_place(body.region),
            at=body.time,
            confirmed_by=body.confirmed_by,
            remember=remember,
        )

    return await write(product, request, body_digest(body), work)
