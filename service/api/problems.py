"""Errors as `application/problem+json` (RFC 9457), in one place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.api.schemas.common import COMPONENTS, Problem
from service.errors import (
    InvalidJsonError,
    InvalidRequestError,
    NotFoundError,
    UnsupportedMediaTypeError,
    VultusError,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def request_id(request: Request) -> str:
    """The id of a request, as `service.api.middleware` set it."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def document(error: VultusError, request_id: str) -> dict[str, Any]:
    """An error as a problem document."""
    return {
        "type": f"urn:vultus:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
        **error.extra,
    }


def response(error: VultusError, request_id: str) -> JSONResponse:
    """An error as an answer."""
    # Set here as well as by the middleware: an error that nobody foresaw is answered outside of it.
    headers = {"X-Request-Id": request_id}
    if "retry_after" in error.extra:
        headers["Retry-After"] = str(error.extra["retry_after"])
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 413:
        # Part of the body is still on its way and nobody will read it.
        headers["Connection"] = "close"
    return JSONResponse(document(error, request_id), error.status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, VultusError):
            raise error
        if error.status == 503:
            # Something is away, and said so: one line, for it comes with every request until it is back.
            log.warning("%s: %s", error.code, error.detail)
        elif error.status >= 500:
            log.error("%s: %s", error.code, error.detail, exc_info=error)
        return response(error, request_id(request))

    async def malformed(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        return response(_translated(error, request.headers.get("content-type", "")), request_id(request))

    async def http(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        answer = response(_of_http(error), request_id(request))
        answer.headers.update(error.headers or {})
        return answer

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("request %s failed", request_id(request), exc_info=error)
        return response(VultusError("the request failed; its id is in the log"), request_id(request))

    app.add_exception_handler(VultusError, known)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def _of_http(error: HTTPException) -> VultusError:
    # FastAPI turns whatever goes wrong while it reads a body into its own exception.
    inner = error.__cause__ or error.__context__
    if isinstance(inner, VultusError):
        return inner
    if isinstance(inner, (ValueError, RecursionError)):
        return InvalidJsonError("the body is not JSON that can be read")
    if error.status_code == 404:
        return NotFoundError("there is nothing at this path")
    return _HttpError(str(error.detail), error.status_code)


class _HttpError(VultusError):
    """An error of the HTTP layer itself, such as a method that is not allowed."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status  # type: ignore[misc]
        self.code = {405: "method_not_allowed", 400: "bad_request"}.get(status, f"http_{status}")  # type: ignore[misc]
        self.title = detail  # type: ignore[misc]


def _translated(error: RequestValidationError, media_type: str) -> VultusError:
    faults = error.errors()
    if any(fault["loc"] == ("body",) and isinstance(fault.get("input"), bytes) for fault in faults):
        return UnsupportedMediaTypeError(f"send application/json, not {media_type.partition(';')[0] or 'nothing'!r}")
    if any(fault["type"] == "json_invalid" for fault in faults):
        return InvalidJsonError("the body is not valid JSON")
    return invalid(faults)


def invalid(faults: Sequence[Any]) -> InvalidRequestError:
    """The faults that pydantic found, without repeating what was sent."""
    listed = [{"where": ".".join(str(part) for part in fault["loc"]), "fault": fault["msg"]} for fault in faults]
    first = listed[0] if listed else {"where": "request", "fault": "not valid"}
    return InvalidRequestError(f"{first['where']}: {first['fault']}", faults=listed)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route's errors appear in the documentation."""
    content = {MEDIA_TYPE: {"schema": {"$ref": COMPONENTS.format(model=Problem.__name__)}}}
    return {status: {"description": "problem document", "content": content} for status in statuses}
