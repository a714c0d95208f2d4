"""Catalogs as they come: made, brought forward from older versions, and held to the secret that they were made with.

prepare -> own      at every opening, in one transaction
rename              once, when a backup becomes a catalog of its own
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, inspect, select, update

from service.errors import SchemaVersionError, SecretError, StorageError
from service.gallery.schema import (
    VERSION,
    calibrations,
    crops,
    fusions,
    galleries,
    imports,
    marks,
    meta,
    metadata,
    outcomes,
    people,
    refusals,
    reindexings,
    set_aside,
    shards,
    versions,
    visits,
)


def _add_visits(connection: Connection) -> None:
    """From version 1 to 2: visits, habits, and the indexes that find people by digits and by device."""
    visits.create(connection)
    connection.exec_driver_sql("ALTER TABLE galleries ADD COLUMN habits JSON")
    for index in people.indexes:
        if index.name in {"people_by_digits", "people_by_device"}:
            index.create(connection)


def _add_calibrations(connection: Connection) -> None:
    """From version 2 to 3: calibrations, attributes that may be observed, and the home behind each visit."""
    calibrations.create(connection)
    connection.exec_driver_sql("ALTER TABLE galleries ADD COLUMN observed JSON")
    if "home" not in {column["name"] for column in inspect(connection).get_columns(visits.name)}:
        connection.exec_driver_sql("ALTER TABLE visits ADD COLUMN home VARCHAR(16)")
    homes = select(people.c.region).where(people.c.pk == visits.c.person_pk).scalar_subquery()
    connection.execute(update(visits).values(home=homes))


def _add_imports(connection: Connection) -> None:
    """From version 3 to 4: bulk imports."""
    for table in (imports, shards, outcomes, refusals):
        table.create(connection)


def _add_marks(connection: Connection) -> None:
    """From version 4 to 5: how far an index that a server keeps has followed a gallery."""
    marks.create(connection)


def _add_reindexing(connection: Connection) -> None:
    """From version 5 to 6: crops that a gallery may keep, and moves to another model."""
    if "keep_crops" not in {column["name"] for column in inspect(connection).get_columns(galleries.name)}:
        connection.exec_driver_sql("ALTER TABLE galleries ADD COLUMN keep_crops BOOLEAN NOT NULL DEFAULT false")
    for table in (crops, reindexings, versions, fusions, set_aside):
        table.create(connection)


MIGRATIONS: Final[Mapping[int, Callable[[Connection], None]]] = {
    1: _add_visits,
    2: _add_calibrations,
    3: _add_imports,
    4: _add_marks,
    5: _add_reindexing,
}
"""Version -> the function that brings a catalog of that version to the next one."""


def prepare(
    connection: Connection,
    *,
    version: int = VERSION,
    migrations: Mapping[int, Callable[[Connection], None]] = MIGRATIONS,
) -> str:
    """Create the tables, or bring an older catalog to this version, within the caller's transaction.

    Args:
        connection: in a transaction that excludes other writers.
        version: the version to reach.
        migrations: a step for every older version that can be brought forward.

    Returns:
        The catalog's id: random, made with the catalog, and carried by all that is derived from it.

    Raises:
        SchemaVersionError: the catalog is newer than this code, or so old that no step is known.
        StorageError: the database holds a meta table that is not a catalog's.
    """
    if not inspect(connection).has_table(meta.name):
        metadata.create_all(connection)
        identity = _new_identity()
        connection.execute(meta.insert(), [_entry("schema_version", str(version)), _entry("catalog", identity)])
        return identity
    entries = {str(row.name): str(row.value) for row in connection.execute(select(meta))}
    try:
        found, identity = int(entries["schema_version"]), entries["catalog"]
    except (KeyError, ValueError) as error:
        raise StorageError("the database does not say which catalog and version it is") from error
    if found > version:
        raise SchemaVersionError(f"the catalog has version {found} and this release reads up to {version}")
    for step in range(found, version):
        if step not in migrations:
            raise SchemaVersionError(f"the catalog has version {found}, which this release cannot bring forward")
        migrations[step](connection)
    if found < version:
        connection.execute(update(meta).where(meta.c.name == "schema_version").values(value=str(version)))
    return identity


def own(connection: Connection, proof: str) -> None:
    """Make sure that a catalog is opened with the secret that it was made with.

    With another one, every keyed hash in it would silently fail; replicas of one catalog must share theirs.

    Args:
        connection: in the transaction of `prepare`.
        proof: a keyed hash of the catalog's id, which does not tell the secret.

    Raises:
        SecretError: the catalog belongs to another secret.
    """
    kept = connection.execute(select(meta.c.value).where(meta.c.name == "secret_proof")).scalar_one_or_none()
    if kept is None:
        connection.execute(meta.insert(), _entry("secret_proof", proof))
    elif kept != proof:
        raise SecretError(
            "the catalog was made with another secret; replicas share the file `secret` of the first one's data folder"
        )


def rename(connection: Connection, proof_of: Callable[[str], str]) -> None:
    """Give the catalog a new id, so that nothing that was derived from it before is taken for its own.

    Args:
        connection: in a transaction that can write.
        proof_of: see `own`.
    """
    identity = _new_identity()
    for name, value in (("catalog", identity), ("secret_proof", proof_of(identity))):
        connection.execute(update(meta).where(meta.c.name == name).values(value=value))


def _new_identity() -> str:
    return secrets.token_hex(16)


def _entry(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}
