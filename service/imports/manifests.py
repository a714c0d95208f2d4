"""Manifests: tables of photos and people, as CSV, JSON lines or Parquet.

Columns: `photo` and `person`; of the person `name`, `region` (an H3 cell, or "lat,lon"), `device`, `digits` and
`attributes` (a JSON object); with ready embeddings `quality`, and `photo` may be left out. A column of another name
stops the import, because what it was meant to say would be lost. A row that cannot be used is an outcome of its own.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from service.errors import ImportManifestError, InvalidRequestError, VultusError
from service.imports.entries import Entry
from service.recognition.free_json import storable
from service.recognition.ids import valid_id
from service.recognition.regions import cell_at, cell_of

NAMES: Final = ("photo", "person", "name", "region", "device", "digits", "attributes", "quality")

NEEDED: Final = frozenset({"photo", "person"})

DIGITS: Final = re.compile(r"[0-9]{2,8}")
LONGEST_NAME: Final = 256
LONGEST_LINE: Final = 1 << 20
PARQUET_ROWS: Final = 1024
QUALITY: Final = 0.5
"""Of a ready embedding whose row does not say."""

Hash = Callable[[str], str]
"""Digits of a phone to their keyed hash."""


def rows_of(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a manifest, empty cells left out.

    Raises:
        ImportManifestError: it is in no known format, not UTF-8, damaged, or has columns that are not known.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ImportManifestError(f"a manifest ends in {', '.join(readers)}, not {path.suffix!r}")
    for row in reader(path):
        yield (
            row if all(row.values()) else {name: each for name, each in row.items() if each is not None and each != ""}
        )


def entries_of(path: Path, digits_hash: Hash, *, ready: bool) -> Iterator[Entry]:
    """Yield the entries of a manifest.

    Args:
        path: of the manifest.
        digits_hash: hashes digits.
        ready: rows belong to ready embeddings, by their order.

    Raises:
        ImportManifestError: see `rows_of`; or a needed column is absent.
    """
    for number, row in enumerate(rows_of(path)):
        yield _entry(number, row, digits_hash, ready=ready)


def _entry(number: int, row: Mapping[str, Any], digits_hash: Hash, *, ready: bool) -> Entry:
    photo = str(row["photo"]) if "photo" in row else f"embedding {number + 1}" if ready else ""
    person = str(row.get("person", ""))
    place = (number, 0) if ready else None
    try:
        if not photo:
            raise InvalidRequestError("the row names no photo")
        if not person:
            raise InvalidRequestError("the row names no person")
        person = valid_id(person)
        if row.keys() <= NEEDED:
            return Entry(photo, person, place)
        known = {name: _PARTS[name](value, digits_hash) for name, value in row.items() if name not in NEEDED}
    except VultusError as error:
        return Entry(photo, person, place, {}, (error.code, error.detail))
    return Entry(photo, person, place, known)


# --- cells ---


def _name(value: object, _: Hash) -> str:
    if len(str(value)) > LONGEST_NAME:
        raise InvalidRequestError(f"name: at most {LONGEST_NAME} characters")
    return str(value)


def _region(value: object, _: Hash) -> str:
    if isinstance(value, Mapping):
        value = f"{value.get('lat')},{value.get('lon')}"
    text = str(value)
    if "," not in text:
        return cell_of(text)
    latitude, longitude = text.split(",", 1)
    try:
        return cell_at(float(latitude), float(longitude))
    except ValueError as error:
        raise InvalidRequestError("region: a place is lat,lon, as in 48.137,11.575") from error


def _digits(value: object, digits_hash: Hash) -> str:
    if not DIGITS.fullmatch(str(value)):
        raise InvalidRequestError("digits: two to eight digits")
    return digits_hash(str(value))


def _attributes(value: object, _: Hash) -> dict[str, Any]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
        if isinstance(found, dict):
            return storable(found)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("attributes: no JSON that can be kept") from error
    raise InvalidRequestError("attributes: a JSON object is needed")


def _quality(value: Any, _: Hash) -> float:
    try:
        quality = float(value)
    except (TypeError, ValueError):
        quality = math.nan
    if not 0 <= quality <= 1:
        raise InvalidRequestError("quality: a number from 0 to 1")
    return quality


_PARTS: Final[Mapping[str, Callable[[Any, Hash], Any]]] = {
    "name": _name,
    "region": _region,
    "device": lambda value, _: valid_id(str(value)),
    "digits": _digits,
    "attributes": _attributes,
    "quality": _quality,
}


# --- formats ---


def _known(names: Iterator[str] | list[str], line: int) -> None:
    unknown = sorted({str(name) for name in names} - set(NAMES))
    if unknown:
        raise ImportManifestError(
            f"unknown columns {', '.join(map(repr, unknown))}; known are {', '.join(NAMES)}", line=line
        )


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline(LONGEST_LINE)
            delimiter = max(",;\t", key=header.count)
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter, strict=True), [])]
            if "person" not in names or len(set(names)) < len(names):
                raise ImportManifestError("the first line must name each column once, person among them", line=1)
            _known(names, 1)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for cells in reader:
                line = 1 + reader.line_num
                if len(cells) > len(names):
                    raise ImportManifestError(f"line {line} has {len(cells)} cells for {len(names)} columns", line=line)
                if cells:
                    yield dict(zip(names, cells, strict=False))
    except UnicodeDecodeError as error:
        raise ImportManifestError(f"the manifest is not UTF-8 (after line {line})", line=line) from error
    except csv.Error as error:
        raise ImportManifestError(f"the manifest is damaged after line {line}: {error}", line=line) from error


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        line = 0
        while data := file.readline(LONGEST_LINE):
            line += 1
            if not data.strip():
                continue
            try:
                row = json.loads(data.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise ImportManifestError(f"line {line} is not UTF-8", line=line) from error
            except (ValueError, RecursionError) as error:
                raise ImportManifestError(f"line {line} is no JSON", line=line) from error
            if not isinstance(row, dict):
                raise ImportManifestError(f"line {line} is no JSON object", line=line)
            _known(list(row), line)
            yield row


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow  # noqa: PLC0415 - an optional package, large, and only this needs it
        import pyarrow.parquet  # noqa: PLC0415 - the same
    except ImportError as error:
        raise ImportManifestError(
            "Parquet manifests need the extra `parquet`: pip install -c deploy/constraints.txt -e '.[parquet]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            if "person" not in names:
                raise ImportManifestError("the manifest has no column person")
            _known(names, 1)
            for batch in file.iter_batches(PARQUET_ROWS):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ImportManifestError(f"the Parquet file is damaged: {str(error).splitlines()[0]}") from error
