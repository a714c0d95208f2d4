"""What routes ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request

from service.api.metrics import Metrics
from service.errors import NotReadyError
from service.imports.worker import Worker
from service.recognition.product import Product


# Plain functions would each be sent to a thread of their own and back.
async def _product(request: Request) -> Product:
    found: Product | None = getattr(request.app.state, "product", None)
    if found is None:
        raise NotReadyError("the service is starting or stopping")
    return found


async def _metrics(request: Request) -> Metrics:
    found: Metrics = request.app.state.metrics
    return found


async def _imports(request: Request) -> Worker:
    await _product(request)
    found: Worker = request.app.state.imports
    return found


ProductDep = Annotated[Product, Depends(_product)]
ImportsDep = Annotated[Worker, Depends(_imports)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
Cursor = Annotated[str | None, Query(max_length=512, description="`next` of the page before")]
PageSize = Annotated[int, Query(ge=1, le=1000, description="most items on the page")]
