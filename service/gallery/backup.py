"""A backup: everything the catalog holds at one moment, in one file that any database takes back.

The file is gzip over lines of JSON, so that other tools read it too (`zcat FILE | head`):

    {"format": "vultus-backup", "version": 1, "schema": ..., "tables": {"people": ["pk", ...], ...}, ...}
    {"table": "people"}
    [[1, ...], [2, ...], ...]                   rows of that table, at most `ROWS` a line
    ...
    {"end": {"people": 2, ...}, "sha256": "...", "seal": "..."}

Bytes are base64, times are microseconds since 1970. `sha256` is of all lines before the last one; `seal` is that digest
under the secret, so that a file which was changed on purpose, and its digest with it, is found out too. The secret
itself is not in the file, a fingerprint of it is: keyed hashes are worth nothing beside their key.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final, NoReturn, TypeAlias

from sqlalchemy import Column, LargeBinary, Table, select

from service import __version__
from service.errors import BackupDamagedError, BackupVersionError
from service.gallery import counters, galleries, schema
from service.gallery.catalog import Catalog, ReadTransaction

FORMAT: Final = "vultus-backup"
VERSION: Final = 1
ROWS: Final = 200
LONGEST_LINE: Final = 1 << 28
BLOCK: Final = 1 << 20

TABLES: Final[tuple[Table, ...]] = tuple(
    table for table in schema.metadata.sorted_tables if table not in (schema.meta, schema.marks)
)
"""In an order in which no row comes before one that it refers to; what is said of derived indexes is not the truth."""

Row: TypeAlias = dict[str, Any]

Seal: TypeAlias = Callable[[str], str]
"""A digest under the secret: `seal_of(catalog)`."""


@dataclass(frozen=True, slots=True)
class GalleryThen:
    """A gallery at the moment of the backup."""

    name: str
    revision: int
    people: int
    faces: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup says of itself.

    Attributes:
        schema: version of the tables.
        release: that wrote it.
        created_at: the moment it shows, ISO 8601.
        secret: fingerprint of the secret that its hashes are keyed by.
        galleries: what it holds.
        tables: the columns of each table, in the order of its rows' values.
        counters: the highest key ever given out in each table that counts.
    """

    schema: int
    release: str
    created_at: str
    secret: str
    galleries: tuple[GalleryThen, ...]
    tables: dict[str, list[str]]
    counters: dict[str, int]


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was written or read to its end; `rows` counts each table's, `sha256` is the file's own digest."""

    header: Header
    rows: dict[str, int]
    sha256: str


def write(catalog: Catalog, file: BinaryIO) -> Backup:
    """Write what the catalog holds now; writers go on meanwhile, and are not seen.

    Raises:
        StorageError: the catalog does not answer.
        OSError: the file cannot be written.
    """
    digest = hashlib.sha256()
    with catalog.read() as reading, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed:

        def line(document: object) -> None:
            text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
            digest.update(text)
            packed.write(text)

        header = _header(reading, fingerprint(catalog))
        line({"format": FORMAT, "version": VERSION, **_plain(header)})
        rows: dict[str, int] = {}
        for table in TABLES:
            line({"table": table.name})
            rows[table.name] = 0
            for part in _parts(reading, table):
                line(part)
                rows[table.name] += len(part)
        end = {"end": rows, "sha256": digest.hexdigest(), "seal": seal_of(catalog)(digest.hexdigest())}
        packed.write(json.dumps(end).encode() + b"\n")
    return Backup(header, rows, digest.hexdigest())


class Reader:
    """A backup that is read, from its first byte to its last.

        reader = Reader(file, seal_of(catalog))
        for table, rows in reader:
            ...
        reader.backup                     only now is it known to be whole

    Args:
        file: where the backup is.
        seal: what its seal is checked with; None checks the digest alone.

    Raises:
        BackupDamagedError: the file is no backup, is cut short or was changed.
        BackupVersionError: it has other tables than this release: a migration may do more than add columns, so only
            the database itself is ever brought forward.
    """

    def __init__(self, file: BinaryIO, seal: Seal | None) -> None:
        self._seal = seal
        self._digest = hashlib.sha256()
        self._packed = gzip.GzipFile(fileobj=file, mode="rb")
        self.header = _read_header(self._line())
        self.backup: Backup | None = None

    def __iter__(self) -> Iterator[tuple[Table, list[Row]]]:
        """Yield the rows, some at a time."""
        rows: dict[str, int] = {}
        table: Table | None = None
        while True:
            before = self._digest.hexdigest()
            document = self._line()
            if isinstance(document, dict) and "end" in document:
                self._check(document, rows, before)
                return
            if isinstance(document, dict):
                table = _table(document.get("table"), self.header)
                rows[table.name] = 0
            elif isinstance(document, list) and table is not None:
                rows[table.name] += len(document)
                yield table, _decoded(table, self.header.tables[table.name], document)
            else:
                _damaged("holds a line that says nothing")

    def _line(self) -> Any:
        try:
            text = self._packed.readline(LONGEST_LINE)
        except (EOFError, OSError, zlib.error) as error:
            raise BackupDamagedError("the file is no backup, or is damaged or cut short") from error
        if not text.endswith(b"\n"):
            _damaged("ends too early: it was cut short")
        self._digest.update(text)
        try:
            return json.loads(text)
        except ValueError as error:
            raise BackupDamagedError("the backup holds a line that cannot be read") from error

    def _check(self, end: dict[str, Any], rows: dict[str, int], digest: str) -> None:
        try:
            more = self._packed.read(1)
        except (EOFError, OSError, zlib.error) as error:
            raise BackupDamagedError("the backup is damaged behind its end") from error
        if more:
            _damaged("goes on behind its end")
        if end.get("sha256") != digest or end.get("end") != rows:
            _damaged("was changed: its digest is not that of its content")
        sealed = str(end.get("seal"))
        if self._seal is not None and not hmac.compare_digest(sealed.encode(), self._seal(digest).encode()):
            _damaged("was changed, and its digest with it: the seal is not that of the secret")
        self.backup = Backup(self.header, rows, digest)


def verify(file: BinaryIO, seal: Seal | None) -> Backup:
    """Read a backup to its end without doing anything with it.

    Raises:
        BackupDamagedError: the file is no backup, is cut short or was changed.
        BackupVersionError: it is of a release that this one does not read.
    """
    reader = Reader(file, seal)
    for _ in reader:
        pass
    assert reader.backup is not None  # noqa: S101 - a reader that ends without an error has one
    return reader.backup


def begins_like_one(file: BinaryIO) -> bool:
    """Tell whether a file begins as a backup does, damaged further on or not."""
    try:
        return FORMAT.encode() in gzip.GzipFile(fileobj=file, mode="rb").read(64)
    except (EOFError, OSError, zlib.error):
        return False


def fingerprint(catalog: Catalog) -> str:
    """What tells the catalog's secret from another one and gives neither away."""
    return catalog.keyed_hash("backup", "secret")


def seal_of(catalog: Catalog) -> Seal:
    """What seals the backups of a catalog, and of every other one with the same secret."""
    return lambda digest: catalog.keyed_hash("backup", digest)


def _header(reading: ReadTransaction, secret: str) -> Header:
    found: list[GalleryThen] = []
    after: str | None = None
    while True:
        page = galleries.page(reading, after=after)
        for gallery in page.items:
            size = galleries.size(reading, gallery.pk)
            found.append(GalleryThen(gallery.name, gallery.revision, size.people, size.templates))
        if page.next is None:
            break
        after = page.next
    return Header(
        schema=schema.VERSION,
        release=__version__,
        created_at=reading.now.isoformat(),
        secret=secret,
        galleries=tuple(found),
        tables={table.name: [column.name for column in table.columns] for table in TABLES},
        counters=counters.read(reading.connection),
    )


def _plain(header: Header) -> dict[str, Any]:
    facts = {name: getattr(header, name) for name in Header.__dataclass_fields__}
    named = [{part: getattr(each, part) for part in GalleryThen.__dataclass_fields__} for each in header.galleries]
    return {**facts, "galleries": named}


def _read_header(document: Any) -> Header:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        _damaged("does not begin as one")
    if document.get("version") != VERSION or document.get("schema") != schema.VERSION:
        raise BackupVersionError(
            f"the backup was written by release {document.get('release')} (format {document.get('version')}, "
            f"tables {document.get('schema')}) and this is release {__version__} (format {VERSION}, tables "
            f"{schema.VERSION}); restore it with the release that wrote it, which a newer one then brings forward"
        )
    try:
        facts = {name: document[name] for name in Header.__dataclass_fields__}
        return Header(**{**facts, "galleries": tuple(GalleryThen(**each) for each in facts["galleries"])})
    except (KeyError, TypeError) as error:
        raise BackupDamagedError("the backup's first line does not say what it holds") from error


def _table(name: Any, header: Header) -> Table:
    found = next((table for table in TABLES if table.name == name), None)
    if found is None or header.tables.get(found.name) != found.columns.keys():
        _damaged(f"holds a table {name!r} that this release does not know")
    return found


def _parts(reading: ReadTransaction, table: Table) -> Iterator[list[list[Any]]]:
    query = select(table).order_by(*table.primary_key.columns).execution_options(stream_results=True)
    columns = list(table.columns)
    for part in reading.connection.execute(query).partitions(ROWS):
        yield [[_encoded(column, value) for column, value in zip(columns, row, strict=True)] for row in part]


def _encoded(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, LargeBinary):
        return base64.b64encode(value).decode()
    if isinstance(column.type, schema.UtcTime):
        return (value - schema.EPOCH) // schema.MICROSECOND
    return value


def _decoded(table: Table, names: list[str], rows: list[Any]) -> list[Row]:
    columns = [table.c[name] for name in names]
    try:
        return [
            {column.name: _value(column, value) for column, value in zip(columns, row, strict=True)} for row in rows
        ]
    except (TypeError, ValueError, OverflowError) as error:
        raise BackupDamagedError(f"the backup holds a row that does not fit table {table.name!r}") from error


def _value(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, LargeBinary):
        return base64.b64decode(value, validate=True)
    if isinstance(column.type, schema.UtcTime):
        moment: datetime = schema.EPOCH + value * schema.MICROSECOND
        return moment
    return value


def _damaged(what: str) -> NoReturn:
    raise BackupDamagedError(f"the backup {what}")
