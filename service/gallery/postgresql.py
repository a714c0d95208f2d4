"""How PostgreSQL is opened for the catalog, and what its errors mean.

Several processes work on one catalog. A reading transaction is REPEATABLE READ and READ ONLY: one moment, which neither
waits for writers nor holds them up. A writing one is READ COMMITTED and takes the row of the gallery that it changes
first (`WriteTransaction.hold`), so that writers of one gallery follow one another and each sees all that the one before
it left; writers of different galleries do not meet. `synchronous_commit` is on, whatever the server's default is: what
is acknowledged is on its disk.

The driver is pg8000 (BSD-3-Clause, pure Python). psycopg is faster and under the LGPL; asyncpg has no blocking form.
"""

from __future__ import annotations

import io
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, TypeAlias

import pg8000
from sqlalchemy import URL, Connection, Engine, QueuePool, Table, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from service.errors import InvalidRequestError, StorageError, StorageFullError, VultusError

WAIT_SECONDS: Final = 30
"""How long a transaction waits for a lock or a connection before it is refused."""

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 30
WRITE_SECONDS: Final = 300
"""How long a server that is reached may be silent, before the connection is given up: migrations take their time."""

ABANDONED_SECONDS: Final = 60
"""After this long the server ends a transaction whose process does nothing more, and with it the locks it holds."""

IDLE_SECONDS: Final = 1.0
"""A connection that was idle for longer is tried before it is used: the server may have been restarted."""

READERS: Final = 16
WRITERS: Final = 8

COME_AGAIN_SECONDS: Final = 2

PREPARING: Final = 0x56554C545553
"""The advisory lock of whoever makes or migrates the tables ("VULTUS")."""

SESSION: Final = {
    "lock_timeout": f"{WAIT_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{ABANDONED_SECONDS}s",
    "synchronous_commit": "on",
}
READING: Final = SESSION | {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
}
WRITING: Final = SESSION | {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}

KEEPALIVE: Final = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 25_000,
}
"""A machine that vanished is noticed within half a minute."""

REFUSED: Final = {
    "25006": "may not be written",
    "28000": "lets this user not in",
    "28P01": "refuses the user or the password",
    "3D000": "does not exist on that server",
    "42501": "may not be used by this user",
    "42P01": "lacks a table; restore it from a backup",
    "58030": "could not be read or written; the disk failed",
    "XX001": "is damaged; restore it from a backup",
    "XX002": "is damaged; restore it from a backup",
}
"""SQLSTATE -> what is wrong, where trying again does not help."""

FOR_NOW: Final = {
    "40001": "was changed by another transaction at the same time",
    "40P01": "was changed by another transaction at the same time",
    "53200": "is out of memory",
    "53300": "has too many connections",
    "55P03": "is locked by another transaction",
    "57014": "took too long",
    "57P01": "is being shut down",
    "57P02": "has crashed",
    "57P03": "is starting or stopping",
    "57P05": "ended an idle session",
    "25P03": "ended an idle transaction",
}
"""SQLSTATE -> what is wrong, where trying again helps."""

GONE: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03"})
"""After these the connection is of no use."""

TOO_MUCH: Final = frozenset({"22001", "22021", "22P05"})
"""Texts that are too long, or hold characters that the database cannot keep."""


def speaks_of(url: str) -> bool:
    """Whether a URL names a PostgreSQL database."""
    return url.partition("://")[0].partition("+")[0] in {"postgresql", "postgres"}


Encryption: TypeAlias = ssl.SSLContext | bool | None
"""In pg8000's terms: None encrypts if the server can."""


@dataclass(frozen=True, slots=True)
class PostgresStorage:
    """The connections of one catalog in PostgreSQL; see `service.gallery.catalog.Storage`."""

    writing: Engine
    reading: Engine

    single_writer = False

    @classmethod
    def at(cls, url: str) -> PostgresStorage:
        """Return the storage at a URL; nothing is opened yet.

        Args:
            url: `postgresql://user:password@host:port/database`, and `sslmode` (disable, prefer, require, verify-full)
                and `sslrootcert` as PostgreSQL's own clients take them.

        Raises:
            StorageError: the URL cannot be used.
        """
        address, encryption = _parsed(url)
        return cls(
            writing=_engine(address, encryption, WRITING, connections=WRITERS, silence=WRITE_SECONDS),
            reading=_engine(address, encryption, READING, connections=READERS, silence=READ_SECONDS),
        )

    def version(self) -> str:
        """What the server says that it is.

        Raises:
            StorageError: it does not answer, or does not let this user in.
        """
        with self.translated(), self.reading.begin() as connection:
            return str(connection.exec_driver_sql("SHOW server_version").scalar_one())

    def dispose(self) -> None:
        """Close every connection."""
        self.reading.dispose()
        self.writing.dispose()

    def alone(self, connection: Connection) -> None:
        """Keep every other process from making or migrating the tables until the transaction ends."""
        # Another's migration may take as long as it takes.
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({PREPARING})")

    def insert(self, connection: Connection, table: Table, rows: int, columns: Mapping[str, Any]) -> None:
        """Insert many rows of values as the driver takes them; by COPY, for pg8000 would send them one by one.

        Raises:
            VultusError: as `translated` says.
        """
        cells = [map(_cell, it) if isinstance(it, list) else repeat(_cell(it), rows) for it in columns.values()]
        text = "\n".join(map("\t".join, zip(*cells, strict=True)))
        cursor: Any = connection.connection.cursor()
        try:
            cursor.execute(f"COPY {table.name} ({', '.join(columns)}) FROM STDIN", stream=io.BytesIO(text.encode()))
        except pg8000.Error as error:
            raise _translate(error) from error
        finally:
            cursor.close()

    def draw(self, connection: Connection, table: Table, count: int) -> list[int]:
        """Return keys for rows to be inserted in this transaction."""
        drawn = "SELECT nextval(pg_get_serial_sequence(%s, 'pk')) FROM generate_series(1, %s)"
        return sorted(connection.exec_driver_sql(drawn, (table.name, count)).scalars())

    def scrub(self) -> bool:
        """Nothing to do: PostgreSQL frees what was deleted by itself (autovacuum)."""
        return True

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what pg8000 and SQLAlchemy raise into the product's own errors.

        Raises:
            InvalidRequestError: a text is too long, or holds a character that PostgreSQL cannot keep.
            StorageFullError: no space is left.
            StorageError: any other failure; where trying again helps, `retry_after` says when.
        """
        try:
            yield
        except DBAPIError as error:
            raise _translate(error.orig) from error
        except PoolTimeoutError as error:
            raise StorageError("too many transactions are open at once", retry_after=COME_AGAIN_SECONDS) from error
        except DisconnectionError as error:
            raise _away() from error
        except SQLAlchemyError as error:
            raise StorageError(f"the catalog refused a statement ({type(error).__name__})") from error


def _parsed(url: str) -> tuple[URL, Encryption]:
    """The address, and how the connection is encrypted."""
    try:
        given = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StorageError(
            "the catalog's URL cannot be read; it is like postgresql://user:password@host/name"
        ) from error
    if not given.host or not given.database or not given.username:
        raise StorageError("the catalog's URL names no host, no database or no user")
    query = dict(given.query)
    mode, root = query.pop("sslmode", "prefer"), query.pop("sslrootcert", None)
    if query:
        raise StorageError(f"the catalog's URL takes sslmode and sslrootcert, not {', '.join(sorted(query))}")
    encryption: Encryption
    match mode:
        case "prefer":
            encryption = None
        case "disable" | "require":
            encryption = mode == "require"
        case "verify-full":
            try:
                encryption = ssl.create_default_context(cafile=str(root) if root else None)
            except OSError as error:
                raise StorageError(f"the certificate {root} cannot be read") from error
        case _:
            raise StorageError("the catalog's URL takes sslmode=disable, prefer, require or verify-full")
    return given.set(drivername="postgresql+pg8000", query={}), encryption


def _engine(
    url: URL,
    encryption: Encryption,
    session: Mapping[str, str],
    *,
    connections: int,
    silence: float,
) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        pool_use_lifo=True,
        connect_args={"application_name": "vultus", "ssl_context": encryption, "startup_params": dict(session)},
    )

    @event.listens_for(engine, "do_connect")
    def reach(_dialect: Any, _entry: ConnectionPoolEntry, _args: Any, options: dict[str, Any]) -> Any:
        return _connected(options, silence)

    @event.listens_for(engine, "connect")
    def begin_to_count(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkin")
    def rest(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def try_first(connection: Any, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        if time.monotonic() - entry.info["used"] < IDLE_SECONDS:
            return
        try:
            connection.autocommit = True
            connection.cursor().execute("SELECT 1")
            connection.autocommit = False
        except Exception as error:  # any of pg8000's or the network's: the pool replaces the connection
            raise DisconnectionError("the connection was lost") from error

    @event.listens_for(engine, "handle_error")
    def lost(context: ExceptionContext) -> None:
        if _state(context.original_exception) in GONE:
            context.is_disconnect = True

    return engine


def _connected(options: Mapping[str, Any], silence: float) -> Any:
    # pg8000's own function has one time limit for reaching a server and for its answers.
    reached = _reached(options["host"], options.get("port", 5432), silence)
    try:
        return _Connection(**options, sock=reached)
    except (OSError, pg8000.Error) as error:
        # Files over the socket would keep it open until they are collected.
        descriptor = reached.detach()
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, OSError):
            raise _away() from error
        raise


class _Connection(pg8000.Connection):  # type: ignore[misc]
    """A connection that says so in pg8000's own terms when the network fails, and closes at once all the same."""

    def handle_messages(self, context: Any) -> None:
        # pg8000 translates what fails while it writes and, of what it reads, all but the first bytes.
        try:
            super().handle_messages(context)
        except OSError as error:
            raise pg8000.InterfaceError("network error") from error

    def close(self) -> None:
        file = self._sock
        with suppress(pg8000.InterfaceError):
            super().close()
        with suppress(OSError, ValueError):
            file.close()


def _reached(host: str, port: int, silence: float) -> socket.socket:
    try:
        found = socket.create_connection((host, port), CONNECT_SECONDS)
    except OSError as error:
        raise StorageError(
            f"the catalog's server at {host}:{port} does not answer", retry_after=COME_AGAIN_SECONDS
        ) from error
    found.settimeout(silence)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        found.setsockopt(socket.IPPROTO_TCP, option, value)
    return found


ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _cell(value: object) -> str:
    """A value in the text format of COPY."""
    if value is None:
        return r"\N"
    if isinstance(value, bytes):
        return rf"\\x{value.hex()}"
    return value.translate(ESCAPES) if isinstance(value, str) else repr(value)


def _state(error: BaseException | None) -> str:
    """The SQLSTATE of a driver's error, "" where there is none."""
    said = error.args[0] if error is not None and error.args else None
    return str(said.get("C", "")) if isinstance(said, dict) else ""


def _translate(error: BaseException | None) -> VultusError:
    state = _state(error)
    if state in TOO_MUCH:
        return InvalidRequestError("a text is too long, or holds a character that the catalog cannot keep")
    if state == "53100":
        return StorageFullError("no space is left for the catalog; reading goes on")
    if state in REFUSED:
        return StorageError(f"the catalog {REFUSED[state]}{_said(error)}")
    if state in FOR_NOW:
        return StorageError(f"the catalog {FOR_NOW[state]}", retry_after=COME_AGAIN_SECONDS)
    if state:
        return StorageError(f"the catalog refused a statement (SQLSTATE {state}{_said(error)})")
    return _away()


def _away() -> StorageError:
    return StorageError("the catalog's server does not answer", retry_after=COME_AGAIN_SECONDS)


def _said(error: BaseException | None) -> str:
    """The server's own words."""
    said = error.args[0] if error is not None and error.args else None
    return f": {said['M']}" if isinstance(said, dict) and "M" in said else ""
