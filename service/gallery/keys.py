"""API keys: made once, shown once, kept as a digest.

A key reads `vk_<id>_<secret>`. The secret has 256 random bits, so a plain sha256 of it cannot be turned round and needs
no salt.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update

from service.errors import NotFoundError
from service.gallery.catalog import Reading, WriteTransaction
from service.gallery.schema import keys

PREFIX = "vk"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key, without its secret."""

    key: str
    label: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `text` is what the caller sends and is never shown again."""

    record: KeyRecord
    text: str


def create(tx: WriteTransaction, label: str, scopes: Iterable[str]) -> NewKey:
    """Make a key with these scopes."""
    key, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    values = {
        "key": key,
        "secret_sha256": _digest(secret),
        "scopes": sorted(set(scopes)),
        "label": label,
        "created_at": tx.now,
    }
    row = tx.connection.execute(insert(keys).values(values).returning(keys)).one()
    return NewKey(_record(row), f"{PREFIX}_{key}_{secret}")


def find(reading: Reading, text: str) -> KeyRecord | None:
    """Return the key that a caller sent, or None when it is unknown, wrong or revoked."""
    prefix, _, rest = text.partition("_")
    key, _, secret = rest.partition("_")
    if prefix != PREFIX or not text.isascii():
        return None
    row = reading.connection.execute(select(keys).where(keys.c.key == key)).one_or_none()
    if row is None or row.revoked_at is not None:
        return None
    return _record(row) if hmac.compare_digest(row.secret_sha256, _digest(secret)) else None


def every(reading: Reading) -> tuple[KeyRecord, ...]:
    """Return all keys, the oldest first, revoked ones too."""
    query = select(keys).order_by(keys.c.created_at, keys.c.key)
    return tuple(_record(row) for row in reading.connection.execute(query))


def revoke(tx: WriteTransaction, key: str) -> KeyRecord:
    """Make a key useless from now on; revoked once, the time stays.

    Raises:
        NotFoundError: there is no such key.
    """
    tx.connection.execute(update(keys).where(keys.c.key == key, keys.c.revoked_at.is_(None)).values(revoked_at=tx.now))
    row = tx.connection.execute(select(keys).where(keys.c.key == key)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no key {key!r}")
    return _record(row)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(row.key, row.label, frozenset(row.scopes), row.created_at, row.revoked_at)
