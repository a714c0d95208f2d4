"""The OpenAPI document: FastAPI's own, with the bodies that routes read themselves and without errors never sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from service.api import schemas as bodies
from service.api.schemas import (
    COMPONENTS,
    EnrollJson,
    IdentifyJson,
    PhotoJson,
    Problem,
    VerifyPersonJson,
    VerifyPhotosJson,
)

BODIES = (EnrollJson, IdentifyJson, PhotoJson, VerifyPersonJson, VerifyPhotosJson, Problem)
FASTAPI_ERRORS = ("HTTPValidationError", "ValidationError")


def complete(app: FastAPI) -> None:
    """Complete the document of an application; to be called when it has its routes."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI's manual gives


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    _, added = models_json_schema([(model, "validation") for model in BODIES], ref_template=COMPONENTS)
    schemas = document["components"]["schemas"]
    schemas.update(added["$defs"])
    for name, schema in schemas.items():
        if "examples" in schema:
            # FastAPI leaves out members that are null, which the answers have.
            schema["examples"] = getattr(bodies, name).model_json_schema()["examples"]
    for name in FASTAPI_ERRORS:
        schemas.pop(name, None)
    for operation in _operations(document):
        for status, answer in list(operation["responses"].items()):
            if str(answer).find(FASTAPI_ERRORS[0]) >= 0:
                del operation["responses"][status]
    return document


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()
