"""A backup back into a catalog: all of it in one transaction, into one that is empty.

    restoring.restore(catalog, file, secret_matters=True)

A process that is killed meanwhile leaves the catalog as empty as it was. The catalog gets a new id, so that indexes and
snapshots of the one before are not taken for its own: their revisions may be ahead of it.
"""

from __future__ import annotations

from typing import BinaryIO

from sqlalchemy import Table, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from service.errors import BackupDamagedError, NotEmptyError, SecretError
from service.gallery import backup, counters, migrations, schema
from service.gallery.backup import Backup, Reader, Row
from service.gallery.catalog import Catalog, Reading, WriteTransaction


def restore(catalog: Catalog, file: BinaryIO, *, without_secret: bool = False) -> Backup:
    """Fill an empty catalog with what a backup holds; the file is read twice, checked whole before anything is done.

    Args:
        catalog: where to.
        file: the backup; it can be read from its beginning again.
        without_secret: take a backup of another secret: digits are left out, for nothing could be compared with them.

    Raises:
        BackupDamagedError: the file is no backup, is cut short or was changed.
        BackupVersionError: it is of a release that this one does not read.
        SecretError: it was made with another secret.
        NotEmptyError: the catalog holds something.
        StorageError: the catalog does not take it; nothing is restored.
    """
    header = backup.Reader(file, None).header
    own = header.secret == backup.fingerprint(catalog)
    if not own and not without_secret:
        raise SecretError("the backup was made with another secret; give the one that belongs to it")
    seal = backup.seal_of(catalog) if own else None
    file.seek(0)
    backup.verify(file, seal)
    file.seek(0)
    with catalog.write() as tx:
        refuse_filled(tx)
        reader = Reader(file, seal)
        for table, rows in reader:
            _insert(tx, table, rows if own else _without_hashes(table, rows))
        if reader.backup is None:
            raise BackupDamagedError("the backup changed while it was read")
        counters.write(tx.connection, header.counters)
        migrations.rename(tx.connection, lambda identity: catalog.keyed_hash("catalog", identity))
    return reader.backup


def refuse_filled(reading: Reading) -> None:
    """Refuse a catalog in which anything is kept.

    Raises:
        NotEmptyError: it holds something.
    """
    for table in backup.TABLES:
        if reading.connection.execute(select(table).limit(1)).first() is not None:
            raise NotEmptyError(
                f"the catalog is not empty, its table {table.name!r} holds something; a backup is restored into an "
                "empty data folder or database"
            )


def _insert(tx: WriteTransaction, table: Table, rows: list[Row]) -> None:
    if not rows:
        return
    try:
        tx.insert(table, len(rows), **{name: [row[name] for row in rows] for name in rows[0]})
    except StatementError as error:
        # A statement that the driver itself refused is the database's matter, unless it is about these values.
        if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
            raise
        raise BackupDamagedError(f"the backup holds rows that do not fit table {table.name!r}") from error


def _without_hashes(table: Table, rows: list[Row]) -> list[Row]:
    return [{**row, "digits": None} for row in rows] if table is schema.people else rows
