"""The manifest: what a model is, where it comes from, what it may be used for, and how well it was measured.

`models/<name>/manifest.json` is committed; the files it names are fetched, exported or imported, never committed.
The types here are the schema: an unknown or missing member stops the reading.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ManifestError

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


CALIBRATION_TABLES = (
    *("fmr", "thresholds", "fnmr", "thresholds_low", "thresholds_high"),
    *("knots", "llrs", "tail", "mates"),
)
"""Members of a calibration that are lists of numbers."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Record):
    """A file of the artifact."""

    name: FileName
    sha256: Digest
    bytes: Annotated[int, Field(gt=0)]


class Tensor(_Record):
    """What goes into or comes out of the graph; a string in `shape` is a free dimension."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]
    meaning: str


class Licence(_Record):
    """What the model may be used for."""

    spdx: str
    commercial: bool
    source: str


class WheelSource(_Record):
    """Where the published network lies inside a Python wheel, and how it is rewritten into the contract."""

    package: str
    version: str
    sha256: Digest
    member: str
    member_sha256: Digest
    member_bytes: Annotated[int, Field(gt=0)]
    recipe: Literal["sface", "yunet"]


class Provenance(_Record):
    """How the network came to be: data, recipe and the commit or release it was made from."""

    data: str
    recipe: str
    commit: str


class Variant(_Record):
    """A further file of the same artifact at another precision.

    `ranges` names the committed file of observed activation ranges from which it is made; `measured` holds its own
    figures beside those of the float32 file.
    """

    precision: Literal["int8", "bf16"]
    file: FileEntry
    ranges: FileName | None = None
    measured: dict[str, float]


class Sample(_Record):
    """Embeddings that the reference engine gives for `service.artifact.sample.crops`; engines must reproduce them.

    `embeddings` is base64 of little-endian float32, (crops, dim).
    """

    crops: Literal["synthetic-1"]
    embeddings: str


class CalibrationRecord(_Record):
    """What raw cosines mean, measured on labelled pairs; `service.identify.calibration` gives the definitions.

    The members after `fnmr` are those of a calibration on many pairs; without them the LLR is linear in the cosine.
    """

    data: str
    date: str
    people: Annotated[int, Field(ge=2)]
    mated_pairs: Annotated[int, Field(ge=1)]
    impostor_pairs: Annotated[int, Field(ge=1)]
    intercept: float
    slope: Annotated[float, Field(gt=0)]
    llr_floor: float
    llr_ceiling: float
    fmr: tuple[float, ...]
    thresholds: tuple[float, ...]
    fnmr: tuple[float, ...]
    thresholds_low: tuple[float, ...] = ()
    thresholds_high: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()
    llrs: tuple[float, ...] = ()
    tail: tuple[float, ...] = ()
    mates: tuple[float, ...] = ()
    cllr: float | None = None
    min_cllr: float | None = None

    @model_validator(mode="after")
    def _tables_fit(self) -> Self:
        if not len(self.fmr) == len(self.thresholds) == len(self.fnmr) >= 2:
            raise ValueError("fmr, thresholds and fnmr must have the same length, two or more")
        if len(self.knots) != len(self.llrs) or len(self.knots) == 1:
            raise ValueError("knots and llrs must have the same length, none or two and more")
        if any(later < sooner for line in (self.thresholds, self.knots, self.llrs) for sooner, later in pairwise(line)):
            raise ValueError("thresholds, knots and llrs must rise")
        return self


class Manifest(_Record):
    """One model."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: str
    task: Literal["recognition", "detection", "quality", "liveness"]
    file: FileEntry
    variants: tuple[Variant, ...] = ()
    input: Tensor
    outputs: tuple[Tensor, ...]
    licence: Licence
    source: WheelSource | None = None
    provenance: Provenance
    measured: dict[str, float] = {}
    sample: Sample | None = None
    calibration: CalibrationRecord | None = None

    @property
    def dim(self) -> int:
        """Length of an embedding.

        Raises:
            ManifestError: the model makes no embeddings.
        """
        last = self.outputs[0].shape[-1]
        if self.task != "recognition" or not isinstance(last, int):
            raise ManifestError(f"model {self.name} makes no embeddings")
        return last

    @property
    def digest(self) -> str:
        """What a gallery is bound to: the members that decide what an embedding is, and no others.

        Measured figures and calibrations may be renewed without orphaning a gallery.
        """
        identity = self.model_dump(mode="json", include={"name", "version", "task", "file", "input", "outputs"})
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file.

    Raises:
        ManifestError: the file is missing or does not fit the schema.
    """
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ManifestError(f"{path} cannot be read") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"{path.parent.name}/{path.name}: {where or 'document'}: {first['msg']}") from error


def manifest_text(manifest: Manifest) -> str:
    """The manifest as it is committed: indented, members that hold nothing left out, one line a table."""
    document = manifest.model_dump(mode="json", exclude_none=True)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    for table in (*CALIBRATION_TABLES, "shape"):
        text = _on_one_line(text, table)
    return text + "\n"


def _on_one_line(text: str, member: str) -> str:
    parts = text.split(f'"{member}": [')
    for place, part in enumerate(parts[1:], start=1):
        inside, rest = part.split("]", 1)
        parts[place] = " ".join(inside.split()) + "]" + rest
    return f'"{member}": ['.join(parts)
