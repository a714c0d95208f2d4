"""Writes under an Idempotency-Key: asked twice, done once, answered twice with the same bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Final

from fastapi import Header, Request, Response
from pydantic import BaseModel

from service.errors import InvalidRequestError
from service.gallery import idempotency
from service.gallery.catalog import WriteTransaction
from service.gallery.idempotency import Claim
from service.recognition.product import Product

KEY: Final = re.compile(r"[\x21-\x7e]{1,128}")

Keep = Callable[[WriteTransaction, int, BaseModel], None]
"""Keeps the answer (status and body) in the transaction of the write that it answers."""


async def idempotent(
    request: Request,
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", description="the same key and body again give the same answer again"),
    ] = None,
) -> None:
    """A dependency of every route that writes: takes the key and documents it."""
    request.state.idempotency_key = key


class _Kept:
    def __init__(self, claim: Claim | None) -> None:
        self.claim = claim
        self.status = 500
        self.body = b""

    def keep(self, tx: WriteTransaction, status: int, model: BaseModel) -> None:
        self.status, self.body = status, model.model_dump_json().encode()
        if self.claim is not None:
            idempotency.remember(tx, self.claim, status, self.body)


async def write(
    product: Product, request: Request, digest: Callable[[], str], work: Callable[[Keep], Awaitable[object]]
) -> Response:
    """Do a write and answer it.

    Args:
        product: the parts.
        request: its Idempotency-Key, method, path and caller decide whether it came before.
        digest: of the body; asked for where there is a key.
        work: does the write and calls its argument inside the transaction.

    Raises:
        IdempotencyConflictError: the key came before with another request.
        IdempotencyInProgressError: the first request with the key has not ended.
        InvalidRequestError: the key is empty, too long or not printable ASCII.
    """
    claim = await _claim(product, request, digest)
    if claim is not None and claim.answer is not None:
        headers = {"Idempotent-Replayed": "true"}
        return Response(claim.answer.body, claim.answer.status, headers, "application/json")
    kept = _Kept(claim)
    try:
        await work(kept.keep)
    finally:
        if claim is not None:
            await product.stored(partial(product.claims.release, claim))
    gallery = request.path_params.get("gallery")
    request.state.revision = None if gallery is None else await product.shown(gallery)
    return Response(kept.body, kept.status, media_type="application/json")


async def _claim(product: Product, request: Request, digest: Callable[[], str]) -> Claim | None:
    key: str | None = request.state.idempotency_key
    if key is None:
        return None
    if not KEY.fullmatch(key):
        raise InvalidRequestError("an Idempotency-Key has 1 to 128 printable ASCII characters")
    whole = hashlib.sha256(f"{request.method} {request.url.path} {digest()}".encode()).hexdigest()
    caller = str(request.state.caller)
    return await product.stored(lambda: product.claims.take(product.catalog, caller, key, whole))


def body_digest(body: BaseModel | None) -> Callable[[], str]:
    """The digest of a JSON body, by its meaning."""

    def digest() -> str:
        text = "" if body is None else body.model_dump_json()
        return hashlib.sha256(text.encode()).hexdigest()

    return digest
