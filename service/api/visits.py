"""The routes of visits, and of what is learnt from them."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Depends, Request, Response

from service.api.access import needs
from service.api.dependencies import ProductDep
from service.api.problems import described
from service.api.schemas import HabitsOut, Id, VisitIn, VisitOut, cell_of_place
from service.api.writes import Keep, body_digest, idempotent, write
from service.gallery.catalog import WriteTransaction
from service.identify.habits import FittedHabits
from service.recognition.habits import fit_prior
from service.recognition.visits import record

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["visits"])


@router.post(
    "/visits",
    status_code=201,
    response_model=VisitOut,
    responses=described(400, 401, 403, 404, 409, 413, 415, 422, 507),
    dependencies=[Depends(needs("enroll")), Depends(idempotent)],
)
async def record_visit(product: ProductDep, request: Request, gallery: Id, body: VisitIn) -> Response:
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


@router.post(
    "/habits",
    response_model=HabitsOut,
    responses=described(401, 403, 404, 409, 422, 507),
    dependencies=[Depends(needs("manage")), Depends(idempotent)],
)
async def fit_habits(product: ProductDep, request: Request, gallery: Id) -> Response:
    """Fit the prior of a gallery to its visits, by what is held out of them; it holds from the next request on."""

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, fitted: FittedHabits) -> None:
            body = HabitsOut(
                bits=fitted.bits, bits_before=fitted.bits_before, visits=fitted.visits, habits=asdict(fitted.habits)
            )
            keep(tx, 200, body)

        await product.stored(lambda: fit_prior(product, gallery, remember))

    return await write(product, request, body_digest(None), work)
