r"""An index on disk: made from the catalog, read back in place of it, thrown away at the least doubt.

What is sealed lies in segments of its own (`segment`), which a snapshot names; what is still growing lies here. All
numbers are little endian:

    8 bytes   b"VULTUSIX"
    4 + 4     version of the format, length of the header in bytes
    header    JSON: the fields of `Header`, padded with spaces so that what follows lies at a multiple of 64
    8 n       rows, int64
    4 n dim   embeddings, float32
    n / 8     for every segment named, which of its positions are alive: a bit each, the lowest first
    32 bytes  sha256 of everything before
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from service.errors import SnapshotError
from service.gallery.embeddings import STORED, Embeddings, Rows
from service.gallery.index.codes import Bits
from service.gallery.index.files import replacing
from service.gallery.index.protocol import Owner

MAGIC: Final = b"VULTUSIX"
VERSION: Final = 3
PREFIX: Final = struct.Struct("<8sII")
ALIGNMENT: Final = 64
DIGEST_BYTES: Final = 32
BLOCK: Final = 1 << 20
ROW = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Named:
    """A segment that belongs to a snapshot: its file's name, and how many positions it has."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot is of.

    Attributes:
        owner: whose index.
        revision: every change up to it is contained; later ones may be, and may be applied again.
        count: how many people are still growing.
        segments: where the others lie.
    """

    owner: Owner
    revision: int
    count: int
    segments: tuple[Named, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A snapshot that was read: its arrays are the file itself, mapped into memory, read only."""

    header: Header
    rows: Rows
    embeddings: Embeddings
    alive: tuple[Bits, ...]


def write(path: Path, header: Header, rows: Rows, embeddings: Embeddings, alive: Sequence[Bits] = ()) -> None:
    """Write a snapshot; a reader finds the old file or the whole new one, whatever happens meanwhile.

    Args:
        path: where it shall lie.
        header: what it is of.
        rows: shape (count,), int64.
        embeddings: shape (count, dim), float32.
        alive: which positions of each segment.

    Raises:
        StorageFullError: no space is left; the old file stays.
        StorageError: the disk refuses; the old file stays.
    """
    fits = [bits.shape == (_bytes(named),) for bits, named in zip(alive, header.segments, strict=True)]
    if rows.shape != (header.count,) or embeddings.shape != (header.count, header.owner.dim) or not all(fits):
        raise ValueError("the header does not describe the arrays")
    text = json.dumps(asdict(header)).encode()
    text += b" " * (-(PREFIX.size + len(text)) % ALIGNMENT)
    parts = (PREFIX.pack(MAGIC, VERSION, len(text)), text, rows.astype(ROW).tobytes())
    with replacing(path) as file:
        digest = hashlib.sha256()
        for part in (*parts, *_blocks(embeddings), *(bits.tobytes() for bits in alive)):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def read(path: Path, owner: Owner, *, newest: int) -> Snapshot:
    """Map a snapshot into memory after checking every byte of it.

    Args:
        path: where it lies.
        owner: whose index is wanted.
        newest: the gallery's revision; a snapshot beyond it tells of changes that the catalog does not know.

    Raises:
        FileNotFoundError: there is none.
        SnapshotError: damaged, cut short, of a newer format, or of another catalog, gallery or model.
    """
    try:
        with path.open("rb") as file:
            header, start = _read_header(file)
            after = start + header.count * (ROW.itemsize + header.owner.dim * STORED.itemsize)
            size = after + sum(_bytes(named) for named in header.segments) + DIGEST_BYTES
            if os.fstat(file.fileno()).st_size != size:
                raise SnapshotError("the snapshot is cut short")
            _check_digest(file, size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SnapshotError(f"the snapshot cannot be read: {error.strerror}") from error
    if header.owner != owner:
        raise SnapshotError("the snapshot is of another catalog, gallery or model")
    if header.revision > newest:
        raise SnapshotError(f"the snapshot is of revision {header.revision}, the catalog at {newest}")
    mapped = np.memmap(path, np.uint8, "r")
    rows = mapped[start : start + header.count * ROW.itemsize].view(ROW)
    embeddings = mapped[start + rows.nbytes : after].view(STORED).reshape(header.count, owner.dim)
    alive = []
    for named in header.segments:
        alive.append(np.array(mapped[after : after + _bytes(named)]))
        after += _bytes(named)
    return Snapshot(header, rows, embeddings, tuple(alive))


def _bytes(named: Named) -> int:
    return -(-named.count // 8)


def _blocks(embeddings: Embeddings) -> Iterator[bytes]:
    step = max(1, BLOCK // max(1, embeddings.shape[1] * STORED.itemsize))
    for first in range(0, len(embeddings), step):
        yield embeddings[first : first + step].astype(STORED, copy=False).tobytes()


def _read_header(file: BinaryIO) -> tuple[Header, int]:
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise SnapshotError("the snapshot is cut short")
    magic, version, length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise SnapshotError("the file is no snapshot")
    if version != VERSION:
        raise SnapshotError(f"the snapshot has format {version}, this release reads {VERSION}")
    try:
        fields: dict[str, Any] = json.loads(file.read(length))
        segments = tuple(Named(**each) for each in fields["segments"])
        header = Header(**fields | {"owner": Owner(**fields["owner"]), "segments": segments})
        sizes = (
            *(named.count for named in segments),
            header.owner.gallery_pk,
            header.owner.dim,
            header.revision,
            header.count,
        )
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise SnapshotError("the snapshot's header is damaged")
    except (ValueError, TypeError, KeyError) as error:
        raise SnapshotError("the snapshot's header is damaged") from error
    return header, PREFIX.size + length


def _check_digest(file: BinaryIO, size: int) -> None:
    file.seek(0)
    digest, left = hashlib.sha256(), size - DIGEST_BYTES
    while left:
        block = file.read(min(BLOCK, left))
        if not block:
            raise SnapshotError("the snapshot is cut short")
        digest.update(block)
        left -= len(block)
    if file.read() != digest.digest():
        raise SnapshotError("the snapshot is damaged")
