"""The files of the mxnet world, read and written without mxnet.

    NAME.rec + NAME.idx   training photos (insightface's data sets)
    NAME.bin              verification pairs (LFW, CFP-FP, AgeDB, ... as insightface packs them)

A .rec file is a row of chunks: the magic number, a word whose top 3 bits say whether the chunk is whole (0) or the
first, middle or last part of a record (1, 2, 3: a record is cut where it holds the magic number itself) and whose
other 29 bits are its length, the bytes, and zeros up to a multiple of 4. A record starts with 24 bytes of header
(flag, label, two ids), then `flag` further float labels, then the photo. insightface puts first a record whose labels
say where the photos end and the people end; photo records follow from key 1, then one record a person with its first
and last key.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError

MAGIC = struct.pack("<I", 0xCED7230A)
HEADER = struct.Struct("<IfQQ")
WORD = struct.Struct("<I")


# --- .rec and .idx ---


@dataclass(frozen=True)
class Record:
    """One record: its labels (one or several floats) and its photo's bytes."""

    labels: tuple[float, ...]
    photo: bytes


def read_record(file: BinaryIO, position: int) -> Record:
    """Read the record that starts at a position of a .rec file.

    Raises:
        DataError: there is no record at this position, or it is cut short.
    """
    file.seek(position)
    data, part = _chunk(file, position)
    while part in {1, 2}:
        more, part = _chunk(file, position)
        data += MAGIC + more
    if len(data) < HEADER.size:
        raise DataError(f"the record at byte {position} is cut short")
    flag, label, _, _ = HEADER.unpack_from(data)
    labels = struct.unpack_from(f"<{flag}f", data, HEADER.size) if flag else (label,)
    return Record(labels, data[HEADER.size + 4 * flag :])


def _chunk(file: BinaryIO, position: int) -> tuple[bytes, int]:
    head = file.read(8)
    if len(head) < 8 or head[:4] != MAGIC:
        raise DataError(f"there is no record at byte {position}")
    (word,) = WORD.unpack(head[4:])
    part, length = word >> 29, word & ((1 << 29) - 1)
    data = file.read(length)
    file.seek(-length % 4, io.SEEK_CUR)
    if len(data) < length:
        raise DataError(f"the record at byte {position} is cut short")
    return data, part


class RecordFile:
    """The labelled photos of a .rec file, found through the .idx file beside it.

    Args:
        path: the .rec file.

    Raises:
        DataError: a file is missing, empty or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        index = path.with_suffix(".idx")
        try:
            lines = index.read_text("ascii").split("\n")
            positions = {int(key): int(at) for key, at in (line.split("\t") for line in lines if line)}
        except (OSError, ValueError) as error:
            raise DataError(f"{index} cannot be read as an index of records: {error}") from error
        if not positions or not path.is_file():
            raise DataError(f"{path} or its index holds no records")
        with path.open("rb") as file:
            first = read_record(file, positions[min(positions)])
            if min(positions) == 0 and len(first.labels) == 2 and not first.photo:
                keys: Iterable[int] = range(1, int(first.labels[0]))
            else:
                keys = sorted(positions)
            self._positions = [positions[key] for key in keys if key in positions]
            records = (read_record(file, at) for at in self._positions)
            seen = [(int(each.labels[0]), zlib.crc32(each.photo)) for each in records]
        self.labels: NDArray[np.int64] = np.array([label for label, _ in seen], np.int64)
        self._digest = digest_of(self.labels, np.array([check for _, check in seen], "<u4").tobytes())
        if not self._positions:
            raise DataError(f"{path} holds no photos")

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, index: int) -> bytes:
        """The encoded bytes of a photo."""
        with self.path.open("rb") as file:
            return read_record(file, self._positions[index]).photo

    def place(self, index: int) -> str:
        """Where a photo lies, for messages."""
        return f"{self.path}, byte {self._positions[index]}"

    def digest(self) -> str:
        """Of every photo's CRC-32 and label."""
        return self._digest


def digest_of(labels: NDArray[np.int64], *parts: bytes) -> str:
    """SHA-256 of a data set's labels and of whatever else tells its photos, in hexadecimal."""
    found = hashlib.sha256(labels.astype("<i8").tobytes())
    for part in parts:
        found.update(part)
    return found.hexdigest()


def write_records(path: Path, people: Sequence[Sequence[bytes]]) -> None:
    """Write NAME.rec and NAME.idx in insightface's layout.

    Args:
        path: the .rec file.
        people: the encoded photos of each person; a person's place is its label.
    """
    photos = sum(len(each) for each in people)
    positions: list[int] = []
    with path.open("wb") as file:
        _write(file, positions, (float(photos + 1), float(photos + 1 + len(people))), b"")
        for label, each in enumerate(people):
            for photo in each:
                _write(file, positions, (float(label),), photo)
        start = 1
        for each in people:
            _write(file, positions, (float(start), float(start + len(each))), b"")
            start += len(each)
    path.with_suffix(".idx").write_text("".join(f"{key}\t{at}\n" for key, at in enumerate(positions)), "ascii")


def _write(file: BinaryIO, positions: list[int], labels: tuple[float, ...], photo: bytes) -> None:
    key = len(positions)
    positions.append(file.tell())
    if len(labels) == 1:
        data = HEADER.pack(0, labels[0], key, 0) + photo
    else:
        data = HEADER.pack(len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + photo
    parts = _cut(data)
    for i, part in enumerate(parts):
        kind = 0 if len(parts) == 1 else 1 if i == 0 else 3 if i == len(parts) - 1 else 2
        file.write(MAGIC + WORD.pack(kind << 29 | len(part)) + part + bytes(-len(part) % 4))


def _cut(data: bytes) -> list[bytes]:
    """Cut where the magic number stands at a multiple of 4, as a reader that lost its place looks for it there."""
    parts, start = [], 0
    at = data.find(MAGIC)
    while at >= 0:
        if at % 4 == 0:
            parts.append(data[start:at])
            start = at + 4
            at = data.find(MAGIC, start)
        else:
            at = data.find(MAGIC, at + 1)
    return [*parts, data[start:]]


# --- .bin ---


@dataclass(frozen=True)
class PackedPairs:
    """Pairs of photos: 2 n encoded photos, pair i being photos 2 i and 2 i + 1, and (n,) whether one person."""

    photos: list[bytes]
    same: NDArray[np.bool_]

    def distinct(self) -> tuple[list[bytes], NDArray[np.int64]]:
        """Each photo once, and (n, 2) places in that list of the pairs' photos: LFW shows 12,000 of 7,701."""
        place = {photo: number for number, photo in enumerate(dict.fromkeys(self.photos))}
        return [*place], np.array([place[photo] for photo in self.photos]).reshape(-1, 2)


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _DataOnly(pickle.Unpickler):
    """Reads lists, bytes, flags and plain arrays; a pickle that names anything else is refused before it runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DataError(f"the file names {module}.{name}, which no verification set needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_bin(path: Path) -> PackedPairs:
    """Read a verification set.

    Raises:
        DataError: the file is missing or not a pickle of (photos, flags), or it would run code.
    """
    try:
        with path.open("rb") as file:
            photos, same = _DataOnly(file, encoding="bytes").load()
        packed = PackedPairs([bytes(photo) for photo in photos], np.array(same, np.bool_))
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path} cannot be read as a verification set: {error}") from error
    if len(packed.photos) != 2 * len(packed.same) or not len(packed.same):
        raise DataError(f"{path} holds {len(packed.photos)} photos for {len(packed.same)} pairs")
    return packed


def write_bin(path: Path, packed: PackedPairs) -> None:
    """Write a verification set that insightface reads too."""
    with path.open("wb") as file:
        pickle.dump((packed.photos, packed.same.tolist()), file, protocol=4)
