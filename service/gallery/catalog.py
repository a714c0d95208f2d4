"""The catalog: everything that is true about galleries, people and faces.

    with catalog.write() as tx:                     all of it is committed at the end, or nothing
        faces.add(tx, gallery.pk, "anna", [...], limit=50)
    with catalog.read() as reading:                 one consistent moment, beside any writer
        people.get(reading, gallery.pk, "anna")

The verbs live in the modules named after what they speak of (`galleries`, `people`, `faces`, `forgetting`, `keys`,
`idempotency`, `changes`), as functions over a transaction. Every committed transaction that changed a gallery raised
its revision by exactly one, however many rows it touched. The same code runs on SQLite, for one process, and on
PostgreSQL, for several (`Storage`).
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, LargeBinary, Table, bindparam, make_url, select, update

from service.errors import GalleryNotFoundError, StorageError
from service.gallery import migrations, schema
from service.gallery.sqlite import SqliteStorage

Fuse: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.floating[Any]]]
"""(embeddings (n, dim), quality (n,)) -> the person's vector (dim,); of many people at once, with as many each,
(people, n, dim) and (people, n) -> (people, dim)."""


# Statements of the busiest paths are built once: building one takes longer than SQLite takes to run it.
RAISE = (
    update(schema.galleries)
    .where(schema.galleries.c.pk == bindparam("gallery_pk"))
    .values(revision=schema.galleries.c.revision + 1)
    .returning(schema.galleries.c.revision)
)
HOLD = (
    select(schema.galleries.c.pk)
    .where(schema.galleries.c.pk == bindparam("gallery_pk"))
    .with_for_update(key_share=True)  # references to the gallery may still be made
)

TURN_SECONDS = 30
"""How long a writer of a storage that takes one at a time waits for its turn."""


class Storage(Protocol):
    """A database that a catalog is kept in.

    Attributes:
        writing: connections for transactions that change something,
        reading: and for those that see one moment and can change nothing.
        single_writer: whether a writing transaction keeps all others out; where it does not, `WriteTransaction.hold`
            takes the gallery.
    """

    @property
    def writing(self) -> Engine: ...  # noqa: D102 (said above)
    @property
    def reading(self) -> Engine: ...  # noqa: D102
    @property
    def single_writer(self) -> bool: ...  # noqa: D102

    def translated(self) -> AbstractContextManager[None]:
        """Turn what the driver raises into the product's own errors."""

    def alone(self, connection: Connection) -> None:
        """Keep every other process from making or migrating the tables until the transaction ends."""

    def insert(self, connection: Connection, table: Table, rows: int, columns: Mapping[str, Any]) -> None:
        """Insert so many rows as fast as the database can.

        Of each column a list of values as the driver takes them is given, or the one value that stands in every row.
        """

    def draw(self, connection: Connection, table: Table, count: int) -> list[int]:
        """Return keys for rows to be inserted in this transaction, in rising order, which nobody else gets."""

    def scrub(self) -> bool:
        """Take what was deleted out of the log; False where that has to be tried again."""

    def dispose(self) -> None:
        """Close every connection."""


@dataclass(frozen=True, slots=True)
class ReadTransaction:
    """One consistent moment of the catalog."""

    connection: Connection
    now: datetime


@dataclass(slots=True)
class WriteTransaction:
    """Changes that are committed together; it reads its own writes.

    Attributes:
        connection: in a transaction that can write.
        now: the moment that all its changes are stamped with.
        fuse: makes a person's vector from the templates.
        secret: key of the keyed hashes.
        storage: what the catalog is kept in.
        erased: set where templates are deleted, so that no trace of them stays in the log once committed.
    """

    connection: Connection
    now: datetime
    fuse: Fuse
    secret: bytes
    storage: Storage
    erased: bool = False
    _revisions: dict[int, int] = field(default_factory=dict)
    _held: set[int] = field(default_factory=set)

    def hold(self, gallery_pk: int) -> None:
        """Keep other writers out of a gallery until the end; called before anything is read that decides a change.

        Whoever waited here sees all that was committed meanwhile. `galleries.get` and `galleries.by_pk` do it too.
        """
        if not self.storage.single_writer and gallery_pk not in self._held:
            self.connection.execute(HOLD, {"gallery_pk": gallery_pk})
            self._held.add(gallery_pk)

    def holds(self, gallery_pk: int) -> None:
        """Note that a statement has just taken the gallery."""
        self._held.add(gallery_pk)

    @property
    def changed(self) -> bool:
        """Whether a gallery was changed, or held in order to be."""
        return bool(self._revisions or self._held)

    def revise(self, gallery_pk: int) -> int:
        """Return the revision that this transaction gives to the gallery; called before each change of it.

        Raises:
            GalleryNotFoundError: the gallery does not exist.
        """
        if gallery_pk not in self._revisions:
            raised = self.connection.execute(RAISE, {"gallery_pk": gallery_pk}).scalar_one_or_none()
            if raised is None:
                raise GalleryNotFoundError("the gallery does not exist")
            self._revisions[gallery_pk] = int(raised)
        return self._revisions[gallery_pk]

    def insert(self, table: Table, rows: int, /, **columns: Any) -> None:
        """Insert many rows, several times as fast as through a statement.

        Args:
            table: where.
            rows: how many.
            columns: by name, a list of as many values, or anything else that stands in every row.
        """
        dialect = self.connection.dialect
        values: dict[str, Any] = {}
        for name, given in columns.items():
            kind: Any = table.c[name].type.dialect_impl(dialect)
            # Both drivers take bytes as they are.
            convert = None if isinstance(kind, LargeBinary) else kind.bind_processor(dialect)
            if convert is None:
                values[name] = given
            else:
                values[name] = list(map(convert, given)) if isinstance(given, list) else convert(given)
        self.storage.insert(self.connection, table, rows, values)

    def draw(self, table: Table, count: int) -> list[int]:
        """Return keys for so many rows that this transaction will insert, in rising order."""
        return self.storage.draw(self.connection, table, count)


Reading: TypeAlias = ReadTransaction | WriteTransaction
"""What a function needs that only reads."""


class Catalog:
    """A catalog that is open; safe to use from threads.

    Attributes:
        id: random, made with the catalog; what is derived from it (snapshots) carries it.
    """

    def __init__(self, storage: Storage, *, identity: str, secret: bytes, fuse: Fuse) -> None:
        self.id = identity
        self._storage = storage
        self._secret = secret
        self._fuse = fuse
        self._turn = threading.Lock()
        self._scrub_owed = False
        self._committed: Callable[[], None] | None = None

    @classmethod
    def open(cls, url_or_path: str | Path, *, secret: bytes, fuse: Fuse) -> Catalog:
        """Open the catalog, creating it where there is none and bringing an older one forward.

        Args:
            url_or_path: a file, a `sqlite:///` URL, or a `postgresql://` URL (see `PostgresStorage.at`).
            secret: key of the keyed hashes (digits, receipts); the same for everybody who opens this catalog.
            fuse: makes a person's vector from the templates; see `Fuse`.

        Raises:
            SchemaVersionError: it was written by a newer release.
            SecretError: it was made with another secret.
            StorageError: it cannot be opened, is damaged, or is no catalog.
        """
        storage = _storage(url_or_path)
        try:
            with storage.translated(), storage.writing.begin() as connection:
                storage.alone(connection)
                identity = migrations.prepare(connection)
                migrations.own(connection, keyed_hash(secret, "catalog", identity))
        except BaseException:
            storage.dispose()
            raise
        return cls(storage, identity=identity, secret=secret, fuse=fuse)

    @property
    def shared(self) -> bool:
        """Whether other processes may change it too."""
        return not self._storage.single_writer

    def after_commits(self, committed: Callable[[], None]) -> None:
        """Call something after each commit that changed, or may have changed, a gallery."""
        self._committed = committed

    def close(self) -> None:
        """Close all connections; open transactions must have ended."""
        self._storage.dispose()

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        """Read one consistent moment.

        Raises:
            StorageError: the storage does not answer.
        """
        with self._storage.translated(), self._storage.reading.begin() as connection:
            yield ReadTransaction(connection, datetime.now(UTC))

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        """Change the catalog. Never open one inside another.

        In SQLite one transaction runs at a time, each waits its turn; in PostgreSQL one a gallery.

        Raises:
            StorageFullError: no space is left; nothing was changed.
            StorageError: the storage does not answer, or no turn came in time; nothing was changed.
        """
        with self._in_turn():
            with self._storage.translated(), self._storage.writing.begin() as connection:
                tx = WriteTransaction(connection, datetime.now(UTC), self._fuse, self._secret, self._storage)
                yield tx
            if self._committed is not None and tx.changed:
                self._committed()
            if tx.erased or self._scrub_owed:
                self._scrub_owed = not self._storage.scrub()

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._storage.single_writer:
            yield
            return
        if not self._turn.acquire(timeout=TURN_SECONDS):
            raise StorageError("the catalog is busy with other writes", retry_after=1)
        try:
            yield
        finally:
            self._turn.release()

    def digits_hash(self, gallery_pk: int, digits: str) -> str:
        """Return what is kept of the last digits of a phone: comparable within one gallery, useless elsewhere."""
        return self.keyed_hash("digits", str(gallery_pk), digits)

    def person_hash(self, gallery_pk: int, person: str) -> str:
        """Return what a receipt keeps of a forgotten person's id."""
        return self.keyed_hash("person", str(gallery_pk), person)

    def keyed_hash(self, *parts: str) -> str:
        """Return a hash of the parts under the catalog's secret; see `keyed_hash`."""
        return keyed_hash(self._secret, *parts)


def keyed_hash(secret: bytes, *parts: str) -> str:
    """Return HMAC-SHA256 of the parts, in hexadecimal; no two lists of parts run into each other."""
    message = b"".join(len(part).to_bytes(8, "big") + part for part in (each.encode() for each in parts))
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def _storage(url_or_path: str | Path) -> Storage:
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return SqliteStorage.at(Path(url_or_path))
    # Its driver takes a tenth of a start to import.
    from service.gallery.postgresql import PostgresStorage, speaks_of  # noqa: PLC0415

    if speaks_of(url_or_path):
        return PostgresStorage.at(url_or_path)
    url = make_url(url_or_path)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise StorageError("the catalog is kept in a SQLite file or in PostgreSQL; give a path or a postgresql:// URL")
    return SqliteStorage.at(Path(url.database))
