"""What routes ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Query, Request

from service.api.metrics import Metrics
from service.api.schemas.common import Id
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


async def _product_at(
    request: Request,
    product: ProductDep,
    gallery: Id,
    seen: Annotated[
        int | None,
        Header(
            alias="X-Vultus-Revision",
            ge=0,
            le=2**62,
            description="a revision of this gallery that an answer has named: this one shall not be of an older one",
        ),
    ] = None,
) -> Product:
    """The product, once it shows the gallery at the revision that the caller has seen."""
    if seen is not None:
        await product.reach(gallery, seen)
    request.state.revision = await product.shown(gallery)
    return product


ProductAtDep = Annotated[Product, Depends(_product_at)]
"""For routes of one gallery; the answer's `X-Vultus-Revision` names a revision that it is not older than."""

MetricsDep = Annotated[Metrics, Depends(_metrics)]
Cursor = Annotated[str | None, Query(max_length=512, description="`next` of the page before")]
PageSize = Annotated[int, Query(ge=1, le=1000, description="most items on the page")]
