"""Bodies that carry photos: multipart/form-data, or JSON with base64, read into the same request models."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.problems import invalid
from service.api.schemas.common import COMPONENTS
from service.errors import (
    InvalidEmbeddingError,
    InvalidJsonError,
    InvalidRequestError,
    UnsupportedMediaTypeError,
)

Body = TypeVar("Body", bound=BaseModel)

MOST_PARTS: Final = 1000
LARGEST_FIELD: Final = 1 << 20
"""Bytes of a form field that is no file."""

FLOAT: Final = 4


@dataclass(frozen=True)
class Upload:
    """A body that was read.

    Attributes:
        fields: everything but the photos' bytes, as it would stand in JSON.
        photos: bytes of the photos by field, in their order.
    """

    fields: dict[str, Any]
    photos: dict[str, list[bytes]]

    @property
    def digest(self) -> str:
        """SHA-256 over all of it, the same however the transport cut it."""
        whole = hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode())
        for name in sorted(self.photos):
            for photo in self.photos[name]:
                whole.update(f"{name}:{hashlib.sha256(photo).hexdigest()}".encode())
        return whole.hexdigest()

    def model(self, kind: type[Body], given: Sequence[str] = ()) -> Body:
        """The fields as a request model.

        Args:
            kind: the model.
            given: photo fields that the model requires and that came as files.

        Raises:
            InvalidRequestError: they do not fit.
        """
        stand_ins = {name: "" for name in given if name in self.photos}
        try:
            return kind.model_validate({**self.fields, **stand_ins})
        except ValidationError as error:
            raise invalid(error.errors(include_url=False)) from error

    def one(self, name: str) -> bytes:
        """The single photo of a field.

        Raises:
            InvalidRequestError: there is none, or more than one.
        """
        photos = self.photos.get(name, [])
        if len(photos) != 1:
            raise InvalidRequestError(f"the field {name} takes one photo, not {len(photos)}")
        return photos[0]


async def read_upload(request: Request, *photo_fields: str) -> Upload:
    """Read a body.

    Args:
        request: its body has not been read.
        photo_fields: fields that hold photos.

    Raises:
        UnsupportedMediaTypeError: it is neither multipart/form-data nor application/json.
        InvalidJsonError: it is no JSON object.
        InvalidRequestError: the form is damaged, or base64 is not valid.
        RequestTooLargeError: it is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        fields, photos = await _form(request, photo_fields)
    elif kind == "application/json":
        fields, photos = _json(await request.body(), photo_fields)
    else:
        raise UnsupportedMediaTypeError(f"send multipart/form-data or application/json, not {kind or 'nothing'!r}")
    return Upload(fields, photos)


class _FormParser(MultiPartParser):
    """Keeps files in memory, where Starlette writes those above 1 MiB to the temporary folder."""

    # 0 is "any size". Recognising must go on while the disk is full, and a disk would save nothing: a photo is decoded
    # from memory, and the whole body is bounded on its way in (`service.api.middleware`), as JSON's is.
    spool_max_size = 0


async def _form(request: Request, photo_fields: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    fields: dict[str, Any] = {}
    photos: dict[str, list[bytes]] = {}
    try:
        async with aclosing(request.stream()) as stream:
            form = await _FormParser(
                request.headers, stream, max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=LARGEST_FIELD
            ).parse()
    except MultiPartException as error:
        raise InvalidRequestError(f"the form cannot be read: {error.message}") from error
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in photo_fields:
                    raise InvalidRequestError(
                        f"there is no file field {name!r}; photos go into {' or '.join(photo_fields)}"
                    )
                photos.setdefault(name, []).append(await value.read())
                await value.close()  # so that no more than one photo is held twice
            elif name in photo_fields:
                raise InvalidRequestError(f"{name} must be sent as a file of the form")
            else:
                fields[name] = _parsed(name, value)
    finally:
        await form.close()
    return fields, photos


def _parsed(name: str, value: str) -> Any:
    """A form field; those that are objects in JSON are JSON here too."""
    if name != "context":
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError(f"the field {name} is not valid JSON") from error


def _json(body: bytes, photo_fields: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError("the body is not valid JSON") from error
    if not isinstance(fields, dict):
        raise InvalidRequestError("the body must be a JSON object")
    photos: dict[str, list[bytes]] = {}
    for name in photo_fields:
        given = fields.pop(name, None)
        if given is not None:
            texts = given if isinstance(given, list) else [given]
            photos[name] = [from_base64(text, name) for text in texts]
    return fields, photos


def from_base64(text: object, name: str) -> bytes:
    """Decode base64, with or without a `data:` prefix.

    Raises:
        InvalidRequestError: it is no base64.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"{name} must be base64 text")
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{name} is not valid base64") from error


def embedding_from(text: object, dim: int) -> NDArray[np.float32]:
    """An embedding, (dim,) float32, from base64 of little-endian float32.

    Raises:
        InvalidRequestError: it is no base64.
        InvalidEmbeddingError: wrong length, not finite, or not of unit length.
    """
    data = from_base64(text, "embedding")
    if len(data) != dim * FLOAT:
        raise InvalidEmbeddingError(f"an embedding of this model has {dim * FLOAT} bytes, not {len(data)}")
    values = np.frombuffer(data, "<f4").astype(np.float32)
    length = float(np.linalg.norm(values.astype(np.float64))) if np.isfinite(values).all() else float("nan")
    if not abs(length - 1) < 1e-3:
        raise InvalidEmbeddingError("an embedding holds finite numbers and has length 1")
    return values / np.float32(length)


def described(model: type[BaseModel], photo_fields: Sequence[str], *, repeated: bool = False) -> dict[str, Any]:
    """How such a body appears in the documentation."""
    schema = model.model_json_schema(ref_template=COMPONENTS)
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    files = {name: {"type": "array", "items": file} if repeated else file for name in photo_fields}
    others = {name: field for name, field in schema["properties"].items() if name not in {*photo_fields, "embedding"}}
    form = {"type": "object", "properties": {**files, **others}, "required": list(photo_fields)}
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": {"$ref": COMPONENTS.format(model=model.__name__)}},
    }
    return {"requestBody": {"required": True, "content": content}}
