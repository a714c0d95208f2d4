"""Bringing any recognition network into the models folder: into the contract, tried, described, placed.

A network that was trained elsewhere states neither its preprocessing nor its licence in its file, so both are given
by whoever imports it; what can be checked is checked by running it on the artifact sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import ValidationError

from service.artifact import graph, sample
from service.artifact.manifest import FileEntry, Licence, Manifest, Provenance, Sample, Tensor
from service.artifact.store import ModelStore, encode_sample
from service.errors import LicenseNotAcceptedError, ManifestError, ModelError, ModelExistsError

FILE: Final = "model.onnx"
TOLERANCE: Final = 1e-3
"""How far the length of an embedding may be from 1, and how far a batch may be from its crops one by one."""

Runner = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants to be done to pixels of 0 to 255: its channel order, then (pixel - mean) / scale."""

    colour: Literal["rgb", "bgr"] = "rgb"
    mean: float = 127.5
    scale: float = 127.5


def import_model(
    store: ModelStore,
    path: Path,
    *,
    name: str,
    licence: Licence,
    accepted: bool,
    preprocessing: Preprocessing,
    run: Callable[[Path], Runner],
) -> Manifest:
    """Bring a recognition network into the models folder.

    Args:
        store: the models folder.
        path: an ONNX file: in the contract already, or (n,3,112,112) float32 to (n,dim).
        name: of the new model.
        licence: what the model may be used for.
        accepted: whether a licence that forbids commercial use was accepted.
        preprocessing: of a network that is not in the contract; ignored for one that is.
        run: loads an ONNX file for the trial; the reference engine.

    Raises:
        LicenseNotAcceptedError: the licence forbids commercial use and was not accepted.
        ModelExistsError: another model has the name.
        ManifestError: the file is no ONNX file, has another shape, or the name is not allowed.
        ModelError: the network does not run, or gives no usable embeddings.
    """
    if not licence.commercial and not accepted:
        raise LicenseNotAcceptedError(
            f"{licence.spdx} forbids commercial use; --accept-license says that you accept it ({licence.source})"
        )
    if name in store.names():
        raise ModelExistsError(f"there is a model {name!r} already; choose another name or remove its folder")
    given = graph.load(path)
    ready = given if graph.in_contract(given) else _wrapped(given, preprocessing)
    data = graph.serialise(ready)
    embeddings = _tried(data, run)
    manifest = _manifest(name, data, ready, embeddings, licence, path)
    store.add(manifest, data)
    return manifest


def _wrapped(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    if preprocessing.scale == 0:
        raise ManifestError("the scale divides the pixels and cannot be 0")
    return graph.wrap_recognition(
        model, colour=preprocessing.colour, mean=preprocessing.mean, scale=preprocessing.scale
    )


def _tried(data: bytes, run: Callable[[Path], Runner]) -> NDArray[np.float32]:
    """The embeddings of the sample, (8, dim), after everything that can be said about them was checked.

    Raises:
        ModelError: the network does not run, or they are no embeddings.
    """
    crops = sample.crops()
    with TemporaryDirectory() as folder:
        file = Path(folder, FILE)
        file.write_bytes(data)
        try:
            network = run(file)
            (together,) = network(crops).values()
            singly = np.concatenate([next(iter(network(crop[None]).values())) for crop in crops])
        except Exception as error:  # the engine raises a family of its own without a common public root
            raise ModelError(f"the network does not run on batches of 1 and {len(crops)} crops: {error}") from error
    if together.ndim != 2 or len(together) != len(crops) or together.dtype != np.float32:
        raise ModelError(
            f"the network gives {together.dtype} {together.shape} for {len(crops)} crops, not one row each"
        )
    if not np.isfinite(together).all():
        raise ModelError("the network gives embeddings that are not finite")
    lengths = np.linalg.norm(together, axis=1)
    if np.abs(lengths - 1).max() > TOLERANCE:
        raise ModelError(f"the network gives embeddings of length {lengths.min():.3g} to {lengths.max():.3g}, not 1")
    apart = float(np.abs(together - singly).max())
    if apart > TOLERANCE:
        raise ModelError(f"a batch of {len(crops)} differs from its crops one by one by {apart:.2g}")
    if np.ptp(together, axis=0).max() <= TOLERANCE:
        raise ModelError("the network gives the same embedding for every crop; is the preprocessing right?")
    return together


def _manifest(
    name: str,
    data: bytes,
    model: onnx.ModelProto,
    embeddings: NDArray[np.float32],
    licence: Licence,
    path: Path,
) -> Manifest:
    document: dict[str, Any] = {
        "name": name,
        "version": hashlib.sha256(path.read_bytes()).hexdigest()[:12],
        "task": "recognition",
        "file": FileEntry(name=FILE, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)),
        "input": Tensor(
            name=model.graph.input[0].name,
            dtype="uint8",
            shape=("n", graph.CROP, graph.CROP, 3),
            meaning="aligned crops, RGB",
        ),
        "outputs": (
            Tensor(
                name=model.graph.output[0].name,
                dtype="float32",
                shape=("n", embeddings.shape[1]),
                meaning="embeddings of unit length",
            ),
        ),
        "licence": licence,
        "provenance": Provenance(data="not stated", recipe="imported", commit=path.name),
        "sample": Sample(crops="synthetic-1", embeddings=encode_sample(embeddings)),
    }
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ManifestError(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}") from error
