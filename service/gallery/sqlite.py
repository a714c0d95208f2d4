"""How SQLite is opened for the catalog, and what its errors mean.

Two engines on one file: one connection that writes, and a pool of connections that cannot. With a write-ahead log
(WAL) readers neither wait for the writer nor hold it up, and each sees one moment. `synchronous=FULL` puts a commit
on the disk before it is acknowledged; `secure_delete` overwrites what is deleted, for a forgotten face must not stay
in free pages.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, QueuePool, Table, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import StorageError, StorageFullError

WAIT_SECONDS = 30
"""How long a transaction waits for its turn before it is refused."""

COME_AGAIN_SECONDS = 2
"""When a caller may try again, where that helps."""

READERS = 64
"""Most readers at once; a connection is made when it is needed first."""

AT_ONCE = 512
"""Rows that one statement inserts."""

ALL = ("PRAGMA foreign_keys = ON", f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
WRITING = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    # Thirty-two megabytes: a bulk import that folds the log into the file every four takes half as long again.
    "PRAGMA wal_autocheckpoint = 8000",
    # Kibibytes: what one of its transactions changes goes to the log once, at the end.
    "PRAGMA cache_size = -32768",
)
READING = ("PRAGMA query_only = ON",)

MEANING = {
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup",
    sqlite3.SQLITE_NOTADB: "is damaged or no catalog; restore it from a backup",
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another transaction",
    sqlite3.SQLITE_READONLY: "may not be written",
    sqlite3.SQLITE_PERM: "may not be opened",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_IOERR: "could not be read or written; the disk failed",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SqliteStorage:
    """The writing connection and the reading ones of one file; see `service.gallery.catalog.Storage`."""

    path: Path
    writing: Engine
    reading: Engine

    single_writer = True

    @classmethod
    def at(cls, path: Path) -> SqliteStorage:
        """Return the storage in the file at `path`; nothing is opened yet."""
        return cls(
            path,
            writing=_engine(path, connections=1, begin="BEGIN IMMEDIATE", pragmas=ALL + WRITING),
            reading=_engine(path, connections=READERS, begin="BEGIN", pragmas=ALL + READING),
        )

    def dispose(self) -> None:
        """Close every connection; the last one folds the write-ahead log into the file."""
        self.reading.dispose()
        self.writing.dispose()

    def alone(self, connection: Connection) -> None:
        """Nothing to do: a writing transaction has the file to itself."""

    def insert(self, connection: Connection, table: Table, rows: int, columns: Mapping[str, Any]) -> None:
        """Insert many rows of values as the driver takes them, `AT_ONCE` a statement.

        A statement runs without the interpreter's lock; one a row would ask for it after each.
        """
        same = {name: given for name, given in columns.items() if not isinstance(given, list)}
        apart = {name: given for name, given in columns.items() if isinstance(given, list)}
        for first in range(0, rows, AT_ONCE):
            count = min(AT_ONCE, rows - first)
            parts = [given[first : first + count] for given in apart.values()]
            values = (*same.values(), *chain.from_iterable(zip(*parts, strict=True)))
            connection.exec_driver_sql(_insertion(table.name, tuple(same), tuple(apart), count), values)

    def draw(self, connection: Connection, table: Table, count: int) -> list[int]:
        """Return keys for rows to be inserted in this transaction: the highest that was ever used is kept in SQLite."""
        last = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,)).scalar()
        first = int(last or 0) + 1
        return list(range(first, first + count))

    def scrub(self) -> bool:
        """Fold the write-ahead log into the file and empty it, so that deleted rows do not live on there.

        Returns:
            False when a reader still needs the log, or the disk refuses; to be tried again later.
        """
        pooled = self.writing.raw_connection()
        try:
            cursor = pooled.cursor()
            cursor.execute("PRAGMA busy_timeout = 50")
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                (busy, _, _) = cursor.fetchall()[0]
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
        except sqlite3.Error as error:
            log.warning("the write-ahead log could not be emptied: %s", error)
            return False
        finally:
            pooled.close()
        return not busy

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what SQLite and SQLAlchemy raise into the product's own errors.

        Raises:
            StorageFullError: no space is left.
            StorageError: busy, read only, damaged, or any other failure; the text says which.
        """
        try:
            yield
        except DBAPIError as error:
            raise _translate(error.orig, self.path) from error
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error
        except PoolTimeoutError as error:
            raise StorageError("too many transactions are open at once", retry_after=COME_AGAIN_SECONDS) from error
        except SQLAlchemyError as error:
            raise StorageError(f"the catalog refused a statement ({type(error).__name__})") from error


@lru_cache(maxsize=64)
def _insertion(table: str, same: tuple[str, ...], apart: tuple[str, ...], rows: int) -> str:
    """The statement that inserts so many rows: of some columns one value that stands in each, of others one apiece."""
    row = ", ".join([*(f"?{number + 1}" for number in range(len(same))), *("?" * len(apart))])
    return f"INSERT INTO {table} ({', '.join(same + apart)}) VALUES {', '.join([f'({row})'] * rows)}"  # noqa: S608


def _engine(path: Path, *, connections: int, begin: str, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        pool_use_lifo=True,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        # Python's own transaction handling begins too late for a consistent read and never IMMEDIATE.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _translate(error: BaseException | None, path: Path) -> StorageError:
    extended = getattr(error, "sqlite_errorcode", None) or 0
    primary = extended & 0xFF  # sqlite.org/rescode.html
    retry_after = COME_AGAIN_SECONDS if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} else None
    if primary == sqlite3.SQLITE_FULL:
        return StorageFullError("no space is left for the catalog; reading goes on")
    meaning = MEANING.get(primary, f"refused a statement ({error})")
    return StorageError(f"the catalog {path.name} {meaning}", retry_after=retry_after)
