"""Who may do what: API keys, their scopes, and the open mode of a fresh installation.

Without any key the service is open to whoever reaches it, which is why it then listens on the loopback address only
(`service.app` refuses anything else). Embeddings are biometric data that can be searched elsewhere, so handing them
out or taking them in always needs a key with the scope `embed`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request

from service.errors import ForbiddenError, RateLimitedError, UnauthorizedError
from service.gallery import keys
from service.gallery.catalog import Catalog
from service.shared.store import Shared

SCOPES: Final = ("read", "identify", "enroll", "manage", "embed")
"""read: galleries, people, models; identify: identify, verify, detect; enroll: people and faces, forget; manage:
galleries; embed: embeddings in and out."""

REMEMBERED_SECONDS: Final = 5.0
"""A key is looked up again after this long, so that one revoked anywhere stops working soon and requests stay cheap."""

MINUTE: Final = 60.0


class Access:
    """Checks the keys of requests.

    Args:
        catalog: holds the keys.
        shared: where replicas count together.
        rate: requests that a key may send in a minute; 0 is any number.
        remembered: seconds for which a key is not looked up again.
    """

    def __init__(
        self, catalog: Catalog, shared: Shared, *, rate: int = 0, remembered: float = REMEMBERED_SECONDS
    ) -> None:
        self._catalog = catalog
        self._shared = shared
        self._rate = rate
        self._remembered = remembered
        self._seen: dict[str, tuple[float, keys.KeyRecord | None]] = {}
        self._any: tuple[float, bool] = (0.0, False)

    def any_key(self) -> bool:
        """Whether there is a key that is not revoked. Blocks."""
        with self._catalog.read() as reading:
            return any(key.revoked_at is None for key in keys.every(reading))

    async def caller(self, authorization: str, scope: str) -> str:
        """The id of the key that a request came with, or `open`.

        Raises:
            UnauthorizedError: keys exist and none, or no valid one, was sent.
            ForbiddenError: the key lacks the scope.
        """
        now = time.monotonic()
        kind, _, text = authorization.partition(" ")
        if kind.lower() != "bearer" or not text:
            if await self._keys_exist(now):
                raise UnauthorizedError("send an API key as `Authorization: Bearer vk_...`")
            if scope == "embed":
                raise ForbiddenError("embeddings need an API key with the scope embed; `vultus keys create` makes one")
            return "open"
        key = await self._find(text.strip(), now)
        if key is None:
            raise UnauthorizedError("the API key is unknown or revoked")
        if scope not in key.scopes:
            raise ForbiddenError(f"the API key lacks the scope {scope}", scope=scope)
        return key.key

    async def admit(self, caller: str) -> None:
        """Count a request of a caller; those without a key are counted together.

        Raises:
            RateLimitedError: there were too many within a minute.
        """
        if self._rate == 0:
            return
        left = await asyncio.to_thread(self._shared.spend, f"rate:{caller}", self._rate, MINUTE)
        if left is not None:
            raise RateLimitedError(f"a key may send {self._rate} requests a minute", retry_after=int(left) + 1)

    async def _keys_exist(self, now: float) -> bool:
        checked, found = self._any
        if now - checked > self._remembered or not checked:
            found = await asyncio.to_thread(self.any_key)
            self._any = (now, found)
        return found

    async def _find(self, text: str, now: float) -> keys.KeyRecord | None:
        seen, key = self._seen.get(text, (0.0, None))
        if now - seen <= self._remembered and key is not None:
            return key

        def look() -> keys.KeyRecord | None:
            with self._catalog.read() as reading:
                return keys.find(reading, text)

        key = await asyncio.to_thread(look)
        if key is not None:
            self._seen = {known: item for known, item in self._seen.items() if now - item[0] <= self._remembered}
            self._seen[text] = (now, key)
        return key


def needs(scope: str) -> Callable[[Request], Awaitable[str]]:
    """A route dependency: the caller's key must have this scope; gives the caller's id."""

    async def dependency(request: Request) -> str:
        access: Access = request.app.state.access
        caller = await access.caller(request.headers.get("authorization", ""), scope)
        await access.admit(caller)
        request.state.caller = caller
        return caller

    dependency.__name__ = f"needs_{scope}"
    return dependency
