"""Files that are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from service.errors import SnapshotError, StorageError, StorageFullError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file; a reader finds the old one or the whole new one, whatever happens meanwhile.

    Raises:
        StorageFullError: no space is left; the old file stays.
        StorageError: the disk refuses; the old file stays.
    """
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        kind = StorageFullError if full else StorageError
        raise kind(f"the index could not be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_ahead(files: Sequence[tuple[Path, int]]) -> None:
    """Have the system read files into its page cache, but for so many bytes at their ends.

    Those that cannot be read are passed over.
    """
    for path, rest in files:
        with suppress(OSError), path.open("rb") as file:
            wanted = os.fstat(file.fileno()).st_size - rest
            os.posix_fadvise(file.fileno(), 0, max(1, wanted), os.POSIX_FADV_WILLNEED)


@contextmanager
def read_or_damaged(path: Path) -> Iterator[None]:
    """Tell a file that cannot be read, or is empty, as damaged.

    Raises:
        SnapshotError: it is.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{path.name} cannot be read: {error}") from error
