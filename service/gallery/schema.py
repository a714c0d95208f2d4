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

Only types that PostgreSQL knows too. `migrations` creates the tables in a new database and brings an older one forward.
A `pk` is never used twice: an index or a snapshot that still holds a dead one must not find a stranger under it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
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
)
from sqlalchemy.types import TypeDecorator

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
