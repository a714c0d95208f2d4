"""The routes of what is learnt from a gallery: the prior's habits from its visits, its calibration from its people."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fastapi import APIRouter, Depends, Request, Response

from service.api.access import needs
from service.api.dependencies import ProductAtDep
from service.api.problems import described
from service.api.schemas.calibration import CalibrationOut, CalibrationTierOut, CasesIn, GainOut, GainsOut, HabitsOut
from service.api.schemas.common import Id
from service.api.writes import Keep, body_digest, idempotent, write
from service.errors import NotFoundError
from service.gallery import calibrations, galleries
from service.gallery.calibrations import GalleryCalibration
from service.gallery.catalog import WriteTransaction
from service.identify.attributes import Gain
from service.identify.habits import FittedHabits
from service.recognition.habits import fit_prior, told
from service.recognition.observed import Case, fit_observed
from service.recognition.own import Measured, measure

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["calibration"])


@router.post(
    "/habits",
    response_model=HabitsOut,
    responses=described(401, 403, 404, 409, 422, 507),
    dependencies=[Depends(needs("manage")), Depends(idempotent)],
)
async def fit_habits(product: ProductAtDep, request: Request, gallery: Id) -> Response:
    """Fit the prior of a gallery to its visits, by what is held out of them; it holds from the next request on."""

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, fitted: FittedHabits) -> None:
            body = HabitsOut(
                bits=fitted.bits, bits_before=fitted.bits_before, visits=fitted.visits, habits=told(fitted)
            )
            keep(tx, 200, body)

        await asyncio.to_thread(fit_prior, product, gallery, remember)

    return await write(product, request, body_digest(None), work)


@router.post(
    "/calibration",
    response_model=CalibrationOut,
    responses=described(401, 403, 404, 409, 422, 507),
    dependencies=[Depends(needs("manage")), Depends(idempotent)],
)
async def measure_gallery(product: ProductAtDep, request: Request, gallery: Id) -> Response:
    """Measure what the scores of a gallery's own people mean; takes seconds to minutes, by its size."""
    record, _ = await product.gallery(gallery)

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, measured: Measured) -> None:
            keep(tx, 200, _told(measured.kept, measured))

        await asyncio.to_thread(measure, product, record, remember=remember)

    return await write(product, request, body_digest(None), work)


@router.post(
    "/observed",
    response_model=GainsOut,
    responses=described(400, 401, 403, 404, 409, 413, 415, 422, 507),
    dependencies=[Depends(needs("manage")), Depends(idempotent)],
)
async def fit_attributes(product: ProductAtDep, request: Request, gallery: Id, body: CasesIn) -> Response:
    """Fit how much each observable attribute counts to confirmed visitors, and say for whom it gains what."""
    cases = [Case(each.person, each.observed) for each in body.cases]

    async def work(keep: Keep) -> None:
        def remember(tx: WriteTransaction, found: dict[str, Gain]) -> None:
            keep(tx, 200, GainsOut(gains={name: GainOut(**asdict(gain)) for name, gain in found.items()}))

        await asyncio.to_thread(fit_observed, product, gallery, cases, remember)

    return await write(product, request, body_digest(body), work)


@router.get("/calibration", responses=described(401, 403, 404, 422), dependencies=[Depends(needs("read"))])
async def get_calibration(product: ProductAtDep, gallery: Id) -> CalibrationOut:
    """Look up the newest calibration of a gallery."""

    def work() -> CalibrationOut:
        with product.catalog.read() as reading:
            found = calibrations.newest(reading, galleries.get(reading, gallery).pk)
        if found is None:
            raise NotFoundError(f"gallery {gallery!r} was not measured on its own people yet")
        return _told(found)

    return await product.stored(work)


def _told(kept: GalleryCalibration, measured: Measured | None = None) -> CalibrationOut:
    tiers = {}
    for name, tier in kept.tiers.items():
        made = tier["calibration"]
        tiers[name] = CalibrationTierOut(
            pairs=tier["pairs"],
            doubles=tier["doubles"],
            least_fmr=made["fmr"][-1],
            cllr=made["cllr"],
            min_cllr=made["min_cllr"],
            fmr=list(made["fmr"]),
            thresholds=list(made["thresholds"]),
            thresholds_low=list(made["thresholds_low"]),
            thresholds_high=list(made["thresholds_high"]),
            fnmr=list(made["fnmr"]),
            figures=asdict(measured.figures[name]) if measured is not None else None,
        )
    return CalibrationOut(
        version=kept.version, revision=kept.revision, people=kept.people, made_at=kept.made_at, tiers=tiers
    )
