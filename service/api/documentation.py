"""The OpenAPI document: FastAPI's own, with the bodies that routes read themselves and without errors never sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.schemas import (
    calibration,
    common,
    enroll,
    faces,
    galleries,
    identify,
    imports,
    operation,
    people,
    verify,
    visits,
)
from service.api.schemas.common import COMPONENTS, Problem
from service.api.schemas.enroll import EnrollJson
from service.api.schemas.faces import PhotoJson
from service.api.schemas.identify import IdentifyJson
from service.api.schemas.verify import VerifyPersonJson, VerifyPhotosJson

BODIES = (EnrollJson, IdentifyJson, PhotoJson, VerifyPersonJson, VerifyPhotosJson, Problem)
NOUNS = (calibration, common, enroll, faces, galleries, identify, imports, operation, people, verify, visits)
FASTAPI_ERRORS = ("HTTPValidationError", "ValidationError")


def bodies() -> dict[str, type[BaseModel]]:
    """Every body of a request or an answer, by its name."""
    found = (each for noun in NOUNS for each in vars(noun).values())
    return {each.__name__: each for each in found if isinstance(each, type) and issubclass(each, BaseModel)}


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
    own = bodies()
    for name, schema in schemas.items():
        if "examples" in schema:
            # FastAPI leaves out members that are null, which the answers have.
            schema["examples"] = own[name].model_json_schema()["examples"]
    for name in FASTAPI_ERRORS:
        schemas.pop(name, None)
    for route in _operations(document):
        for status, answer in list(route["responses"].items()):
            if str(answer).find(FASTAPI_ERRORS[0]) >= 0:
                del route["responses"][status]
    return document


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()
