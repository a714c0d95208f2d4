"""The data folder: one process at a time, one secret, and where everything lies.

lock              held as long as the folder is open; names the process
secret            32 random bytes: the key of every keyed hash in the catalog; replicas name one file for all instead
catalog.sqlite    the truth, where it is not in PostgreSQL
snapshots/        indexes made from it
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from service.errors import DataFolderInUseError, SecretError, StorageError

SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A data folder that this process holds."""

    path: Path
    secret: bytes = field(repr=False)
    _lock: int = field(repr=False)

    @classmethod
    def open(cls, path: Path, *, secret: Path | None = None) -> DataFolder:
        """Take the folder for this process, creating it, readable to its owner alone, where there is none.

        Args:
            path: of the folder.
            secret: a file outside of it that holds the secret.

        Raises:
            DataFolderInUseError: another process holds it; `pid` says which.
            StorageError: it cannot be made or read, or the secret is missing or damaged.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take(path / "lock")
        except OSError as error:
            raise StorageError(f"the data folder {path} cannot be used: {error.strerror}") from error
        try:
            folder = cls(path, _secret(path) if secret is None else secret_in(secret), lock)
            folder.snapshots.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            os.close(lock)
            raise StorageError(f"{error.filename or path} cannot be used: {error.strerror}") from error
        except StorageError:
            os.close(lock)
            raise
        return folder

    @property
    def catalog(self) -> Path:
        """The catalog's file."""
        return _catalog(self.path)

    @property
    def snapshots(self) -> Path:
        """The folder of the index snapshots."""
        return self.path / "snapshots"

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)


def _catalog(folder: Path) -> Path:
    return folder / "catalog.sqlite"


def _take(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # The kernel drops the lock with its process, so a crash leaves none behind.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise DataFolderInUseError(f"process {holder} works on {path.parent}", pid=holder) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def secret_in(path: Path) -> bytes:
    """The secret that a file holds.

    Raises:
        StorageError: it is too short to be one.
        OSError: it cannot be read.
    """
    secret = path.read_bytes()
    if len(secret) < SECRET_BYTES:
        raise StorageError(f"{path} has {len(secret)} bytes and a secret at least {SECRET_BYTES}: it is damaged")
    return secret


def take_secret(folder: Path, source: Path) -> None:
    """Give a data folder that has no catalog yet the secret of another one.

    Raises:
        SecretError: the folder has a catalog, and another secret.
        StorageError: the file holds no secret.
        OSError: something cannot be read or written.
    """
    secret = secret_in(source)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "secret"
    if path.exists() and path.read_bytes() == secret:
        return
    if _catalog(folder).exists():
        raise SecretError(f"the catalog in {folder} has another secret than {source}")
    _keep_secret(folder, secret)


def _secret(folder: Path) -> bytes:
    path = folder / "secret"
    with contextlib.suppress(FileNotFoundError):
        return secret_in(path)
    if _catalog(folder).exists():
        # A new secret would silently fail every hash that the catalog holds.
        raise StorageError(f"{path} is missing while the catalog is there; put the copy of it there that you kept")
    secret = secrets.token_bytes(SECRET_BYTES)
    _keep_secret(folder, secret)
    return secret


def _keep_secret(folder: Path, secret: bytes) -> None:
    temporary = folder / ".secret"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "secret")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
