r"""A sealed segment on disk: vectors that no longer change, as codes to be looked through and rows to be scored.

The file, little endian, every part beginning at a multiple of 64:

    8 bytes     b"VULTUSSG"
    4 + 4       version of the format, length of the header in bytes
    header      JSON: the fields of `Header`, padded with spaces
    32 bytes    sha256 of everything before, and of the centroids
    centroids   4 pieces 16 piece, float32
    rows        8 n, int64
    codes       n code_bytes
    code sums   8 n, of a row's number and code
    scales      4 n, float32
    numbers     n width, uint8 or uint16
    sums        8 n, of a row's scale and numbers
    rest sums   8 n, of a row's scale and rests; nothing where there are no rests
    rests       n width, uint8; nothing where numbers have 16 bits

A row that was removed is overwritten with zeros, and its sums with a mark; all others are checked at every opening, but
for the rests, which are half of the file: each is checked when it is read, and does without where it is damaged.
What bears the mark is dead, whatever a snapshot says: one that was written before knows nothing of the removal, and the
catalog tells of it again. A sum is a . w over the 64-bit words w of a row, modulo 2^64, with fixed odd factors a: an
error in one word never keeps it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.errors import SnapshotError
from service.gallery.embeddings import Rows
from service.gallery.index.codes import Bits, Book, Codes, Layout, Trust
from service.gallery.index.files import read_or_damaged, replacing
from service.gallery.index.protocol import Owner
from service.gallery.index.rows import NOTHING, Numbers, Positions, Rests, Vectors, number_type, restored
from service.gallery.index.threads import Threads

MAGIC: Final = b"VULTUSSG"
VERSION: Final = 3
PREFIX: Final = struct.Struct("<8sII")
ALIGNMENT: Final = 64
DIGEST_BYTES: Final = 32
BLOCK: Final = 1 << 16
"""Rows written or checked at once."""

ERASED: Final = np.uint64(2**64 - 1)
"""In place of the sums of a row that was erased."""

Taken = tuple[Rows, Codes, NDArray[np.float32], Numbers, Rests]
"""Rows, codes, scales, numbers and rests of some positions."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment is of.

    Attributes:
        owner: whose index.
        count: how many vectors.
        trust: what its coarse scores are worth.
    """

    owner: Owner
    count: int
    trust: Trust


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the parts of a file begin."""

    centroids: int
    rows: int
    codes: int
    code_sums: int
    scales: int
    numbers: int
    sums: int
    rest_sums: int
    rests: int
    end: int

    @classmethod
    def of(cls, start: int, layout: Layout, count: int) -> _Places:
        width, rest = layout.width * number_type(layout.dim).itemsize, _rest_width(layout)
        sizes = (layout.spread * 16 * 4, 8 * count, layout.code_bytes * count, 8 * count, 4 * count, width * count)
        rests = (8 * count, rest * count) if rest else (0, 0)
        places = [_aligned(start)]
        for size in (*sizes, 8 * count, *rests):
            places.append(_aligned(places[-1] + size))
        return cls(*places)


def write(path: Path, owner: Owner, book: Book, trust: Trust, count: int, take: Callable[[slice], Taken]) -> None:
    """Write a segment; it appears under its name once it is whole.

    Args:
        path: where it shall lie.
        owner: whose index.
        book: what the codes point to.
        trust: what they are worth.
        count: how many vectors.
        take: gives those at some positions, `BLOCK` at most.

    Raises:
        StorageFullError: no space is left.
        StorageError: the disk refuses.
    """
    head = json.dumps(asdict(Header(owner, count, trust))).encode()
    head += b" " * (-(PREFIX.size + len(head)) % ALIGNMENT)
    head = PREFIX.pack(MAGIC, VERSION, len(head)) + head
    centroids = np.ascontiguousarray(book.centroids, "<f4").tobytes()
    places = _Places.of(len(head) + DIGEST_BYTES, book.layout, count)
    with replacing(path) as file:
        file.truncate(places.end)
        file.write(head + hashlib.sha256(head + centroids).digest())
        file.seek(places.centroids)
        file.write(centroids)
        for first in range(0, count, BLOCK):
            rows, codes, scales, numbers, rests = take(slice(first, min(first + BLOCK, count)))
            finer = ((places.rest_sums, _sums(scales, rests)), (places.rests, rests)) if rests.size else ()
            for place, part in (
                (places.rows, rows),
                (places.codes, codes),
                (places.code_sums, _code_sums(rows, codes)),
                (places.scales, scales),
                (places.numbers, numbers),
                (places.sums, _sums(scales, numbers)),
                *finer,
            ):
                file.seek(place + first * (part.nbytes // max(1, len(part))))
                file.write(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).data)


class Segment:
    """A segment that is open; its arrays are the file itself, mapped into memory.

    Attributes:
        path: the file.
        rows: which row lies at each position.
        codes: in the file; searches use a copy in memory.
        book: what they point to.
        trust: what they are worth.
        scales: of the exact rows,
        numbers: and these.
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path = path
        layout = Layout.of(owner.dim)
        with read_or_damaged(path):
            mapped = np.memmap(path, np.uint8, "r")
        header, centroids, places = _checked_head(mapped, owner, layout)
        count, kind = header.count, number_type(owner.dim)
        self.trust = header.trust
        self.book = Book(layout, centroids)
        self.rows: Rows = _part(mapped, places.rows, "<i8", (count,))
        self.codes: Codes = _part(mapped, places.codes, "u1", (count, layout.code_bytes))
        self.scales: NDArray[np.float32] = _part(mapped, places.scales, "<f4", (count,))
        self.numbers: Numbers = _part(mapped, places.numbers, kind, (count, layout.width))
        self._code_sums = _part(mapped, places.code_sums, "<u8", (count,))
        self._sums = _part(mapped, places.sums, "<u8", (count,))
        rest = _rest_width(layout)
        self._rests: Rests = _part(mapped, places.rests, "u1", (count, rest))
        self._rest_sums = _part(mapped, places.rest_sums, "<u8", (count if rest else 0,))
        self._places = places
        self._erased = np.zeros(-(-count // 8), np.uint8)
        self._told_damage = False

    def __len__(self) -> int:
        """How many vectors, those of the dead included."""
        return len(self.rows)

    def check(self, alive: NDArray[np.bool_], threads: Threads) -> NDArray[np.bool_]:
        """Compare every living row with its sums, and return who of them was not erased since.

        Raises:
            SnapshotError: one is damaged.
        """
        left: NDArray[np.bool_] = alive & (self._code_sums != ERASED)

        def sound(first: int) -> bool:
            some = slice(first, first + BLOCK)
            wrong = _code_sums(self.rows[some], self.codes[some]) != self._code_sums[some]
            wrong |= _sums(self.scales[some], self.numbers[some]) != self._sums[some]
            return not bool((wrong & left[some]).any())

        with read_or_damaged(self.path):
            if not all(threads.each(sound, range(0, len(self), BLOCK))):
                raise SnapshotError(f"{self.path.name} is damaged")
        return left

    def rests(self, positions: Positions) -> Rests:
        """What follows the numbers at some positions; of a row whose rests are damaged, nothing that counts."""
        found: Rests = self._rests[positions]
        if found.size:
            wrong = _sums(self.scales[positions], found) != self._rest_sums[positions]
            wrong &= self._rest_sums[positions] != ERASED
            if wrong.any():
                if not self._told_damage:
                    log.warning("%s is damaged: %d vectors or more are less exact", self.path.name, wrong.sum())
                self._told_damage = True
                found[wrong] = NOTHING
        return found

    def restored(self, positions: Positions) -> Vectors:
        """The turned vectors at some positions, as exactly as they are kept, shape (n, width)."""
        return restored(self.numbers[positions], self.scales[positions], self.rests(positions))

    def erase(self, dead: Bits) -> None:
        """Overwrite what the file holds of dead positions, one bit each, unless that was done before.

        Raises:
            OSError: the disk refuses.
        """
        fresh = dead & ~self._erased
        places = np.flatnonzero(fresh)
        positions = (8 * places[:, None] + np.arange(8))[unpacked(fresh[places], 8 * len(places)).reshape(-1, 8)]
        positions = positions[self.codes[positions].any(axis=1)]
        if len(positions):
            with self.path.open("r+b") as file:
                codes, row, rest = self.codes.shape[1], self.numbers.strides[0], self._rests.shape[1]
                mark = ERASED.astype("<u8").tobytes()
                for position in positions.tolist():
                    os.pwrite(file.fileno(), mark, self._places.code_sums + 8 * position)
                    os.pwrite(file.fileno(), mark, self._places.sums + 8 * position)
                    os.pwrite(file.fileno(), bytes(codes), self._places.codes + position * codes)
                    os.pwrite(file.fileno(), bytes(row), self._places.numbers + position * row)
                    if rest:
                        os.pwrite(file.fileno(), mark, self._places.rest_sums + 8 * position)
                        os.pwrite(file.fileno(), bytes(rest), self._places.rests + position * rest)
                os.fdatasync(file.fileno())
        self._erased |= fresh


def left_for_later(dim: int, count: int) -> int:
    """Bytes at the end of a file that no opening reads."""
    width = _rest_width(Layout.of(dim))
    return count * (width + 8) if width else 0


def packed(flags: NDArray[np.bool_]) -> Bits:
    """Flags as bits, the first the lowest."""
    return np.packbits(flags, bitorder="little")


def unpacked(bits: Bits, count: int) -> NDArray[np.bool_]:
    """Bits as flags."""
    return np.unpackbits(bits, count=count, bitorder="little").astype(np.bool_)


def _rest_width(layout: Layout) -> int:
    return layout.width if number_type(layout.dim).itemsize == 1 else 0


def _aligned(place: int) -> int:
    return -(-place // ALIGNMENT) * ALIGNMENT


def _part(mapped: NDArray[np.uint8], place: int, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    part: NDArray[Any] = np.asarray(mapped[place : place + size]).view(kind).reshape(shape)
    return part


def _checked_head(
    mapped: NDArray[np.uint8], owner: Owner, layout: Layout
) -> tuple[Header, NDArray[np.float32], _Places]:
    if len(mapped) < PREFIX.size:
        raise SnapshotError("a segment is cut short")
    magic, version, length = PREFIX.unpack(mapped[: PREFIX.size].tobytes())
    if magic != MAGIC:
        raise SnapshotError("a file is no segment")
    if version != VERSION:
        raise SnapshotError(f"a segment has format {version}, this release reads {VERSION}")
    after = PREFIX.size + length
    head = mapped[:after].tobytes()
    try:
        fields = json.loads(head[PREFIX.size :])
        header = Header(Owner(**fields["owner"]), int(fields["count"]), Trust(**fields["trust"]))
    except (ValueError, TypeError, KeyError) as error:
        raise SnapshotError("a segment's header is damaged") from error
    if header.owner != owner:
        raise SnapshotError("a segment is of another catalog, gallery or model")
    places = _Places.of(after + DIGEST_BYTES, layout, header.count)
    if len(mapped) != places.end:
        raise SnapshotError("a segment is cut short")
    centroids = _part(mapped, places.centroids, "<f4", (layout.pieces, 16, layout.piece))
    if hashlib.sha256(head + centroids.tobytes()).digest() != mapped[after : after + DIGEST_BYTES].tobytes():
        raise SnapshotError("a segment is damaged")
    return header, centroids, places


@functools.cache
def _factors(words: int) -> NDArray[np.uint64]:
    drawn = np.random.RandomState(words).randint(0, 2**64, words, dtype=np.uint64)
    return drawn | np.uint64(1)


def _sum_of(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    summed: NDArray[np.uint64] = np.einsum("nw,w->n", words, _factors(words.shape[1]))
    return summed


def _code_sums(rows: Rows, codes: Codes) -> NDArray[np.uint64]:
    summed: NDArray[np.uint64] = _sum_of(np.ascontiguousarray(codes).view("<u8")) + rows.astype("<u8")
    return summed


def _sums(scales: NDArray[np.float32], numbers: Numbers | Rests) -> NDArray[np.uint64]:
    words = np.ascontiguousarray(numbers).view("<u8")
    summed: NDArray[np.uint64] = _sum_of(words) + np.ascontiguousarray(scales).view("<u4")
    return summed
