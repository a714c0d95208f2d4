"""The catalog: everything that is true about galleries, people and faces.

    with catalog.write() as tx:                     all of it is committed at the end, or nothing
        faces.add(tx, gallery.pk, "anna", [...], limit=50)
    with catalog.read() as reading:                 one consistent moment, beside any writer
        people.get(reading, gallery.pk, "anna")

The verbs live in the modules named after what they speak of (`galleries`, `people`, `faces`, `forgetting`, `keys`,
`idempotency`, `changes`), as functions over a transaction. Every committed transaction that changed a gallery raised
its revision by exactly one, however many rows it touched.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, make_url, update

from service.errors import GalleryNotFoundError, StorageError
from service.gallery import schema, sqlite

Fuse: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.floating[Any]]]
"""(embeddings (n, dim), quality (n,)) -> the person's vector (dim,)."""


# Statements of the busiest paths are built once: building one takes longer than SQLite takes to run it.
RAISE = (
    update(schema.galleries)
    .where(schema.galleries.c.pk == bindparam("gallery_pk"))
    .values(revision=schema.galleries.c.revision + 1)
    .returning(schema.galleries.c.revision)
)


@dataclass(frozen=True, slots=True)
class ReadTransaction:
    """One consistent moment of the catalog."""

    connection: Connection
    now: datetime


@dataclass(slots=True)
class WriteTransaction:
    """Changes that are committed together; it reads its own writes.

    Attributes:
        connection: in a transaction that excludes other writers.
        now: the moment that all its changes are stamped with.
        fuse: makes a person's vector from the templates.
        secret: key of the keyed hashes.
        erased: set where templates are deleted, so that no trace of them stays in the log once committed.
    """

    connection: Connection
    now: datetime
    fuse: Fuse
    secret: bytes
    erased: bool = False
    _revisions: dict[int, int] = field(default_factory=dict)

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


Reading: TypeAlias = ReadTransaction | WriteTransaction
"""What a function needs that only reads."""


class Catalog:
    """A catalog that is open; safe to use from threads.

    Attributes:
        id: random, made with the catalog; what is derived from it (snapshots) carries it.
    """

    def __init__(self, path: Path, engines: sqlite.Engines, *, identity: str, secret: bytes, fuse: Fuse) -> None:
        self.id = identity
        self._path = path
        self._engines = engines
        self._secret = secret
        self._fuse = fuse
        self._turn = threading.Lock()
        self._scrub_owed = False

    @classmethod
    def open(cls, url_or_path: str | Path, *, secret: bytes, fuse: Fuse) -> Catalog:
        """Open the catalog, creating it where there is none.

        Args:
            url_or_path: a file, or a `sqlite:///` URL.
            secret: key of the keyed hashes (digits, receipts).
            fuse: makes a person's vector from the templates; see `Fuse`.

        Raises:
            SchemaVersionError: it was written by a newer release.
            StorageError: it cannot be opened, is damaged, or is no SQLite database.
        """
        path = _path(url_or_path)
        engines = sqlite.engines(path)
        try:
            with sqlite.translated(path), engines.writing.begin() as connection:
                identity = schema.prepare(connection)
        except BaseException:
            engines.dispose()
            raise
        return cls(path, engines, identity=identity, secret=secret, fuse=fuse)

    def close(self) -> None:
        """Close all connections; open transactions must have ended."""
        self._engines.dispose()

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        """Read one consistent moment.

        Raises:
            StorageError: the storage does not answer.
        """
        with sqlite.translated(self._path), self._engines.reading.begin() as connection:
            yield ReadTransaction(connection, datetime.now(UTC))

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        """Change the catalog; one transaction at a time, each waits its turn. Never open one inside another.

        Raises:
            StorageFullError: no space is left; nothing was changed.
            StorageError: the storage does not answer, or no turn came in time; nothing was changed.
        """
        if not self._turn.acquire(timeout=sqlite.WAIT_SECONDS):
            raise StorageError("the catalog is busy with other writes")
        try:
            with sqlite.translated(self._path), self._engines.writing.begin() as connection:
                tx = WriteTransaction(connection, datetime.now(UTC), self._fuse, self._secret)
                yield tx
            if tx.erased or self._scrub_owed:
                self._scrub_owed = not sqlite.scrub(self._engines.writing)
        finally:
            self._turn.release()

    def digits_hash(self, gallery_pk: int, digits: str) -> str:
        """Return what is kept of the last digits of a phone: comparable within one gallery, useless elsewhere."""
        return keyed_hash(self._secret, "digits", str(gallery_pk), digits)

    def person_hash(self, gallery_pk: int, person: str) -> str:
        """Return what a receipt keeps of a forgotten person's id."""
        return keyed_hash(self._secret, "person", str(gallery_pk), person)


def keyed_hash(secret: bytes, *parts: str) -> str:
    """Return HMAC-SHA256 of the parts, in hexadecimal; no two lists of parts run into each other."""
    message = b"".join(len(part).to_bytes(8, "big") + part for part in (each.encode() for each in parts))
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def _path(url_or_path: str | Path) -> Path:
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return Path(url_or_path)
    url = make_url(url_or_path)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise StorageError("the catalog is kept in a SQLite file; give its path or a sqlite:/// URL")
    return Path(url.database)
