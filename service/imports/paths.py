"""The import root: imports read what lies under it, and nothing else, whatever links and names say."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from service.errors import ImportPathError, PhotoTooLargeError, PhotoUnreadableError


@dataclass(frozen=True)
class Root:
    """The folder that imports may read from.

    Attributes:
        path: absolute, without links; None where imports are not allowed.
    """

    path: Path | None

    @classmethod
    def of(cls, path: Path | None) -> Root:
        """The root at a path, its links followed."""
        return cls(None if path is None else path.resolve())

    def find(self, text: str) -> Path:
        """Return the real path of a file or folder under the root, given relative to it or whole.

        Raises:
            ImportPathError: there is no root, or nothing there, or it lies elsewhere.
        """
        if self.path is None:
            raise ImportPathError("the service reads no files: VULTUS_IMPORT_ROOT names the folder that it may read")
        try:
            found = (self.path / text).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            # Outside of the root not even this is told: what exists, and what not.
            if _inside(os.path.normpath(self.path / text.replace("\0", "")), self.path):
                reason = error.strerror if isinstance(error, OSError) and error.strerror else "no path"
                raise ImportPathError(f"{text!r} cannot be read: {reason}") from error
            raise ImportPathError("the path lies outside of the import root") from error
        if not _inside(str(found), self.path):
            raise ImportPathError("the path lies outside of the import root")
        return found


def read(root: Path, path: str, limit: int, place: tuple[int, int] | None = None) -> bytes:
    """Read a photo's file, or a part of a tar.

    Args:
        root: where the file must really lie.
        path: of the file.
        limit: most bytes.
        place: where in the file, and how many bytes; None for all of it.

    Raises:
        PhotoUnreadableError: absent, no plain file, not permitted, outside of the root, or the disk fails.
        PhotoTooLargeError: it has more bytes; nothing is read.
    """
    try:
        # Not blocking: a pipe among the photos must not stop an import for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no path"
        raise PhotoUnreadableError(f"the file cannot be read: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PhotoUnreadableError("the file cannot be read: it is no plain file")
        # Asked after opening: what a link leads to cannot change between the question and the answer.
        if not _inside(os.readlink(f"/proc/self/fd/{descriptor}"), root):  # noqa: PTH115 - three times as fast
            raise PhotoUnreadableError("the file lies outside of the import root")
        start, size = place or (0, status.st_size)
        if size > limit:
            raise PhotoTooLargeError(f"the photo has {size} bytes, {limit} are allowed", limit=limit)
        data = os.pread(descriptor, size, start)
        while len(data) < size and (more := os.pread(descriptor, size - len(data), start + len(data))):
            data += more
        if place is not None and len(data) < size:
            raise PhotoUnreadableError("the file cannot be read: it is cut short")
    except OSError as error:
        raise PhotoUnreadableError(f"the file cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return data


def _inside(path: str, root: Path) -> bool:
    return path == str(root) or path.startswith(f"{str(root).rstrip('/')}/")
