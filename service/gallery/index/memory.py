"""How much memory an index needs and this process may have: a clear refusal instead of the kernel's killer."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

from service.errors import IndexMemoryError
from service.gallery.index.codes import Layout
from service.gallery.index.segment import BLOCK

GROUPS: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
MEBI: Final = 1 << 20

ROOM: Final = 1.1
"""What an index needs while it works, over what it holds."""

COPIES: Final = 6
"""Of vectors, which building a segment makes at most at one time."""


def needed(dim: int, sealed: int, growing: int) -> int:
    """Bytes that so many sealed vectors (codes, tables) and growing ones (as they are) take, beside mapped files."""
    return int(ROOM * (sealed * (Layout.of(dim).code_bytes + 24) + growing * (4 * dim + 128)))


def to_seal(dim: int, growing: int) -> int:
    """Bytes that sealing so many growing vectors takes for a while, beside themselves: copies, turned and rounded."""
    return COPIES * 4 * dim * growing


def to_merge(dim: int, sealed: int) -> int:
    """Bytes that merging so many sealed vectors takes for a while: their codes anew, where each lies, and a block."""
    return needed(dim, sealed, 0) + 56 * sealed + COPIES * 4 * dim * min(sealed, BLOCK)


def limit(groups: Path = GROUPS, own: Path = OWN) -> int:
    """The least limit on this process' memory, in bytes: of the process, of its control groups, of the machine.

    Args:
        groups: where control groups are mounted.
        own: the file that names those of this process.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    found += [soft for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA) if (soft := resource.getrlimit(kind)[0]) >= 0]
    for line in own.read_text().splitlines() if own.exists() else ():
        _, kinds, path = line.split(":", 2)
        if not kinds:
            inner = groups / path.lstrip("/")
            found += [size for group in (inner, *inner.parents) if (size := _stated(group / "memory.max")) is not None]
        elif "memory" in kinds.split(","):
            size = _stated(groups / "memory" / path.lstrip("/") / "memory.limit_in_bytes")
            found += [] if size is None else [size]
    return min(found)


def _stated(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def used() -> int:
    """Bytes that this process holds beside mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def require(more: int, most: int) -> None:
    """Refuse what would not fit.

    Args:
        more: bytes that are needed on top of what is used.
        most: bytes that this process may have.

    Raises:
        IndexMemoryError: it would be too much.
    """
    if used() + more > most:
        raise IndexMemoryError(
            f"the index needs {more // MEBI + 1} MiB more, {used() // MEBI} MiB are used and {most // MEBI} MiB allowed"
        )
