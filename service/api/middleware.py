"""What happens round every request: an id, a limit on the body, a line in the log, a count, a look at path and host."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.metrics import Metrics
from service.api.problems import response
from service.errors import HostNotAllowedError, InvalidIdError, RequestTooLargeError

log = logging.getLogger("vultus.access")

SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Envelope:
    """The outermost layer of the application.

    Args:
        app: what is wrapped.
        metrics: counts requests.
        max_body: largest body in bytes.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body: int) -> None:
        self.app = app
        self.metrics = metrics
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if SANE_ID.fullmatch(given) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers_ = MutableHeaders(scope=message)
                headers_["X-Request-Id"] = request_id
                revision = scope["state"].get("revision")
                if revision is not None:
                    headers_["X-Vultus-Revision"] = str(revision)
            await send(message)

        try:
            if self._too_large(headers):
                await response(self._refusal(), request_id)(scope, receive, sending)
            else:
                await self.app(scope, self._counted(receive), sending)
        finally:
            spent = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(scope["method"], route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(spent)
            log.info("%s %s %d %.1f ms id=%s", scope["method"], route, status, spent * 1000, request_id)

    def _too_large(self, headers: Headers) -> bool:
        stated = headers.get("content-length", "")
        return stated.isdecimal() and int(stated) > self.max_body

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def receiving() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.max_body:
                raise self._refusal()
            return message

        return receiving

    def _refusal(self) -> RequestTooLargeError:
        return RequestTooLargeError(f"a request has at most {self.max_body} bytes", limit=self.max_body)


def new_id() -> str:
    """An id for a request that came without one."""
    # Nobody gains by guessing one, and the system's own randomness costs a call that lets go of the interpreter.
    return f"{random.getrandbits(80):020x}"


class WholeIds:
    """Refuses paths with a quoted slash, `%2F`.

    Servers take quotes off before the path is cut into its parts, so that a gallery named `staff%2Fpeople%2Fanna` would
    be the person `anna` of `staff`, and deleting the one would forget the other.

    Args:
        app: what is wrapped.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and b"%2f" in scope["raw_path"].lower():
            refusal = InvalidIdError("an identifier does not contain '/'")
            await response(refusal, scope["state"]["request_id"])(scope, receive, send)
            return
        await self.app(scope, receive, send)


class OwnNames:
    """Refuses requests that were sent to a name which is not the service's own.

    Args:
        app: what is wrapped.
        own: whether a host, without its port, is the service's.
    """

    def __init__(self, app: ASGIApp, *, own: Callable[[str], bool]) -> None:
        self.app = app
        self.own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and not self.own(_host(Headers(scope=scope))):
            refusal = HostNotAllowedError("the request was sent to a name that is not the service's own")
            await response(refusal, scope["state"]["request_id"])(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _host(headers: Headers) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""
