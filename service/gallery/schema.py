"""The catalog's tables and their version.

    galleries --< people --< templates      a gallery's revision is stamped on every row that changed with it
    galleries --< departures                people who left, for those who follow the revisions
    galleries --< calibrations              what the scores of its own people mean, version by version
    people    --< visits                    confirmed ones; a visit of a stranger belongs to the gallery alone
    galleries --< imports --< shards --< outcomes
                                            a bulk job, its manifest in parts for workers, what became of each row
    galleries --< refusals                  photos that an import need not look at again
    templates --- crops                     where the gallery keeps them
    galleries --- reindexings               moves to another model; versions, fusions and set_aside belong to them
    receipts, keys, idempotency, meta       beside them

Only types that PostgreSQL knows too. `prepare` creates the tables in a new database and brings an older one forward.
A `pk` is never used twice: an index or a snapshot that still holds a dead one must not find a stranger under it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    false,
    inspect,
    select,
    update,
)
from sqlalchemy.types import TypeDecorator

from service.errors import SchemaVersionError, SecretError, StorageError

VERSION: Final = 6
"""The version of the tables below; raised with every change of them, together with a migration."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """An instant, kept as whole microseconds since 1970 so that every database orders and compares it alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002 (SQLAlchemy's signature)
        """Turn an aware datetime into microseconds."""
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 (as above)
        """Turn microseconds into an aware datetime."""
        return None if value is None else EPOCH + value * MICROSECOND


def _key() -> BigInteger:
    # SQLite counts only columns declared INTEGER (which hold 64 bits there).
    return BigInteger().with_variant(Integer(), "sqlite")


def _ordered(length: int) -> String:
    """A text that listings are ordered by: by code points in every database, whatever its language is."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _json() -> JSON:
    return JSON(none_as_null=True)


def _belongs_to(column: str) -> ForeignKey:
    return ForeignKey(column, ondelete="CASCADE")


metadata: Final = MetaData()

meta: Final = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
)

galleries: Final = Table(
    "galleries",
    metadata,
    Column("pk", _key(), primary_key=True, autoincrement=True),
    Column("name", _ordered(255), nullable=False, unique=True),
    Column("model", String(255), nullable=False),
    Column("model_digest", String(128), nullable=False),
    Column("dim", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("fpir", Float(53)),
    Column("keep_crops", Boolean, nullable=False, server_default=false()),
    Column("habits", _json()),
    Column("observed", _json()),
    Column("attributes", _json(), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    sqlite_autoincrement=True,
)

people: Final = Table(
    "people",
    metadata,
    Column("pk", _key(), primary_key=True, autoincrement=True),
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), nullable=False),
    Column("person", _ordered(255), nullable=False),
    Column("name", String(1000)),
    Column("region", String(16)),
    Column("device", String(255)),
    Column("digits", String(64)),
    Column("attributes", _json(), nullable=False),
    Column("consent", _json()),
    Column("expires_at", UtcTime, index=True),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("faces", Integer, nullable=False),
    Column("fused", LargeBinary),
    UniqueConstraint("gallery_pk", "person", name="one_person_per_id"),
    Index("people_by_revision", "gallery_pk", "revision"),
    Index("people_by_digits", "gallery_pk", "digits"),
    Index("people_by_device", "gallery_pk", "device"),
    sqlite_autoincrement=True,
)

templates: Final = Table(
    "templates",
    metadata,
    Column("pk", _key(), primary_key=True, autoincrement=True),
    Column("person_pk", BigInteger, _belongs_to("people.pk"), nullable=False),
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), nullable=False),
    Column("face", String(64), nullable=False, unique=True),
    Column("photo_digest", String(64), nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    Column("quality", Float(53), nullable=False),
    Column("box", _json(), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
    UniqueConstraint("person_pk", "photo_digest", name="one_template_per_photo"),
    Index("templates_by_photo", "gallery_pk", "photo_digest"),
    sqlite_autoincrement=True,
)

crops: Final = Table(
    "crops",
    metadata,
    Column("template_pk", BigInteger, _belongs_to("templates.pk"), primary_key=True),
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), nullable=False, index=True),
    Column("crop", LargeBinary, nullable=False),
)

reindexings: Final = Table(
    "reindexings",
    metadata,
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), primary_key=True),
    Column("model", String(255), nullable=False),
    Column("model_digest", String(128), nullable=False),
    Column("dim", Integer, nullable=False),
    Column("former", String(255), nullable=False),
    Column("former_digest", String(128), nullable=False),
    Column("former_dim", Integer, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("switched_at", UtcTime),
)

# The embedding that each model makes of a template's crop, while the gallery moves from one to the other.
versions: Final = Table(
    "versions",
    metadata,
    Column("template_pk", BigInteger, _belongs_to("templates.pk"), primary_key=True),
    Column("model_digest", String(128), primary_key=True),
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), nullable=False, index=True),
    Column("embedding", LargeBinary, nullable=False),
)

# The same of the people's vectors; right as long as the person has the revision.
fusions: Final = Table(
    "fusions",
    metadata,
    Column("person_pk", BigInteger, _belongs_to("people.pk"), primary_key=True),
    Column("model_digest", String(128), primary_key=True),
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), nullable=False, index=True),
    Column("fused", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

# Templates that only the model that is not in use can compare: they have no crop.
set_aside: Final = Table(
    "set_aside",
    metadata,
    Column("pk", BigInteger, primary_key=True, autoincrement=False),
    Column("person_pk", BigInteger, _belongs_to("people.pk"), nullable=False, index=True),
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), nullable=False, index=True),
    Column("model_digest", String(128), nullable=False),
    Column("face", String(64), nullable=False),
    Column("photo_digest", String(64), nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    Column("quality", Float(53), nullable=False),
    Column("box", _json(), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

departures: Final = Table(
    "departures",
    metadata,
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), primary_key=True),
    Column("person_pk", BigInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Index("departures_by_revision", "gallery_pk", "revision"),
)

visits: Final = Table(
    "visits",
    metadata,
    Column("pk", _key(), primary_key=True, autoincrement=True),
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), nullable=False),
    # Null for a visitor who is confirmed to be nobody in the gallery.
    Column("person_pk", BigInteger, _belongs_to("people.pk"), index=True),
    Column("home", String(16)),
    Column("device", String(255)),
    Column("cell", String(16)),
    Column("region", String(16)),
    Column("at", UtcTime, nullable=False, index=True),
    Column("confirmed_by", String(64), nullable=False),
    Index("visits_by_device", "gallery_pk", "device"),
    Index("visits_by_cell", "gallery_pk", "cell"),
    Index("visits_by_region", "gallery_pk", "region"),
    sqlite_autoincrement=True,
)

calibrations: Final = Table(
    "calibrations",
    metadata,
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("people", BigInteger, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("tiers", _json(), nullable=False),
)

imports: Final = Table(
    "imports",
    metadata,
    Column("pk", _key(), primary_key=True, autoincrement=True),
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), nullable=False),
    Column("import_id", String(64), nullable=False, unique=True),
    # Of everything that was asked for, so that asking again for a job that has not ended finds it.
    Column("request_digest", String(64), nullable=False),
    Column("request", _json(), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("total", BigInteger),
    Column("counts", _json(), nullable=False),
    Column("error", _json()),
    # Who reads its manifest at the moment.
    Column("worker", String(64)),
    Column("leased_until", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime),
    Index("imports_by_gallery", "gallery_pk", "pk"),
    sqlite_autoincrement=True,
)

shards: Final = Table(
    "import_shards",
    metadata,
    Column("pk", _key(), primary_key=True, autoincrement=True),
    Column("import_pk", BigInteger, _belongs_to("imports.pk"), nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("count", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("entries", LargeBinary, nullable=False),
    Column("worker", String(64)),
    Column("leased_until", UtcTime),
    UniqueConstraint("import_pk", "first", name="one_shard_per_place"),
    sqlite_autoincrement=True,
)

outcomes: Final = Table(
    "import_outcomes",
    metadata,
    Column("shard_pk", BigInteger, _belongs_to("import_shards.pk"), primary_key=True),
    Column("first", Integer, primary_key=True, autoincrement=False),
    Column("rows", LargeBinary, nullable=False),
)

refusals: Final = Table(
    "refusals",
    metadata,
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), primary_key=True),
    Column("photo_digest", String(64), primary_key=True),
    # Empty where the photo was refused whoever it is of; else the person it was refused for.
    Column("person", String(255), primary_key=True),
    Column("rule", String(64), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("code", String(64), nullable=False),
    Column("detail", String(1000), nullable=False),
    Column("rival_pk", BigInteger, _belongs_to("people.pk"), index=True),
    Column("similarity", Float(53)),
    Index("refusals_by_person", "gallery_pk", "person"),
)

marks: Final = Table(
    "marks",
    metadata,
    Column("gallery_pk", BigInteger, _belongs_to("galleries.pk"), primary_key=True),
    Column("place", String(128), primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

receipts: Final = Table(
    "receipts",
    metadata,
    Column("receipt", String(64), primary_key=True),
    # No foreign key: a receipt outlives its gallery.
    Column("gallery_pk", BigInteger, nullable=False),
    Column("gallery", String(255), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("forgotten_at", UtcTime, nullable=False),
    Column("person_hash", String(64), nullable=False),
    Column("faces", Integer, nullable=False),
)

keys: Final = Table(
    "keys",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("scopes", _json(), nullable=False),
    Column("label", String(255), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
)

answers: Final = Table(
    "idempotency",
    metadata,
    Column("scope", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", UtcTime, nullable=False, index=True),
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
