"""Routes for those who operate the service: models, health, metrics."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service import __version__
from service.api.access import needs
from service.api.dependencies import MetricsDep, ProductDep
from service.api.problems import described
from service.api.schemas.operation import EngineOut, Live, ModelOut, ModelsOut, Ready
from service.artifact.manifest import Manifest
from service.errors import ReplicaBehindError
from service.vision.choice import Chosen

router = APIRouter(tags=["operation"])

BEHIND_SECONDS: Final = 5.0
"""A replica that is further behind should not be asked."""


@router.get("/v1/models", responses=described(401, 403), dependencies=[Depends(needs("read"))])
async def list_models(product: ProductDep, request: Request) -> ModelsOut:
    """List the models, with their licences, measured figures and the engines that run them."""
    engines: dict[str, Chosen] = request.app.state.engines
    store = request.app.state.models
    manifests: list[Manifest] = await product.stored(lambda: [store.manifest(name) for name in store.names()])
    return ModelsOut(models=[_model(manifest, engines.get(manifest.name)) for manifest in manifests])


def _model(manifest: Manifest, chosen: Chosen | None) -> ModelOut:
    engine = None
    if chosen is not None:
        rates = {name: round(rate, 1) for name, rate in chosen.rates.items()}
        engine = EngineOut(
            name=chosen.engine.name,
            precision=chosen.precision,
            parity=chosen.parity,
            reason=chosen.reason,
            rates=rates,
        )
    calibration = manifest.calibration
    return ModelOut(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        digest=manifest.digest,
        loaded=chosen is not None,
        engine=engine,
        licence=manifest.licence.model_dump(),
        measured=manifest.measured,
        calibration=calibration.model_dump(exclude={"fmr", "thresholds", "fnmr"}) if calibration else None,
    )


@router.get("/health/live")
async def live() -> Live:
    """Tell that the process answers."""
    return Live()


@router.get("/health/ready", responses=described(503))
async def ready(product: ProductDep, request: Request) -> Ready:
    """Tell that the service can do its work: models loaded, catalog readable, its changes followed."""

    def readable() -> None:
        with product.catalog.read():
            pass

    await product.stored(readable)
    engine: Chosen = request.app.state.engines[product.model.name]
    lag = product.follower.lag()
    if lag.seconds > BEHIND_SECONDS:
        raise ReplicaBehindError(
            f"the catalog was last followed {lag.seconds:.0f} s ago",
            behind_seconds=round(lag.seconds, 3),
            behind_revisions=lag.revisions,
        )
    return Ready(
        model=product.model.name,
        engine=engine.engine.name,
        version=__version__,
        catalog="postgresql" if product.catalog.shared else "sqlite",
        shared=product.shared.state,
        behind_seconds=round(lag.seconds, 3),
        behind_revisions=lag.revisions,
    )


@router.get("/metrics", response_class=Response, responses=described(401, 403), dependencies=[Depends(needs("read"))])
async def metrics(product: ProductDep, counted: MetricsDep) -> Response:
    """Give the service's counters in Prometheus' text format."""
    counted.behind.set(product.follower.lag().seconds)
    counted.waiting.labels("photos").set(product.reader.seeing.waiting)
    counted.waiting.labels("faces").set(product.reader.encoding.waiting)
    return Response(generate_latest(counted.registry), media_type=CONTENT_TYPE_LATEST)
