"""A folder of people: PEOPLE/PERSON/PHOTO, each file looked at once before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.photos import check_file
from training.records import digest_of


@dataclass(frozen=True)
class FolderReport:
    """What a folder holds, and what of it is not used.

    Attributes:
        people: folders that give at least one photo.
        photos: photos used.
        skipped: (path, reason) of the files that are no readable photo.
        shared: paths of photos whose exact bytes two or more people have; one label must be wrong, so all are left out.
        single: people with one photo; they make classes, and no pairs.
        empty: folders without a usable photo.
    """

    people: int
    photos: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    single: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for a log."""
        return (
            f"{self.photos} photos of {self.people} people; left out: {len(self.skipped)} unreadable files, "
            f"{len(self.shared)} photos that several people share, {len(self.empty)} empty folders; "
            f"{len(self.single)} people have one photo"
        )


class Folder:
    """PEOPLE/PERSON/PHOTO: a person's place among the sorted usable folders is the label.

    Every file is read and decoded once, in threads, before training starts: a broken file is found in minutes and not
    in the third night.

    Args:
        root: the folder of people.
        least: people with fewer photos are left out.
        only: names of the people to take; None takes all.
        threads: how many files are checked at once.

    Raises:
        DataError: there is no such folder, or nothing in it can be used.
    """

    def __init__(self, root: Path, *, least: int = 1, only: Sequence[str] | None = None, threads: int = 4) -> None:
        if not root.is_dir():
            raise DataError(f"there is no folder {root}")
        names = sorted(each.name for each in root.iterdir() if each.is_dir())
        if only is not None:
            wanted = set(only)
            names = [name for name in names if name in wanted]
        files = [(name, path) for name in names for path in sorted((root / name).iterdir()) if path.is_file()]
        with ThreadPoolExecutor(threads) as pool:
            checks = list(pool.map(lambda each: check_file(each[1]), files))
        owners: dict[str, set[str]] = {}
        for (name, _), check in zip(files, checks, strict=True):
            owners.setdefault(check.digest, set()).add(name)
        skipped, shared, used = [], [], dict[str, list[Path]]()
        for (name, path), check in zip(files, checks, strict=True):
            if check.fault:
                skipped.append((str(path), check.fault))
            elif len(owners[check.digest]) > 1:
                shared.append(str(path))
            else:
                used.setdefault(name, []).append(path)
        digests = {path: check.digest for (_, path), check in zip(files, checks, strict=True)}
        self.people = [name for name in names if len(used.get(name, ())) >= max(least, 1)]
        self.paths = [path for name in self.people for path in used[name]]
        self.labels: NDArray[np.int64] = np.repeat(
            np.arange(len(self.people)), [len(used[name]) for name in self.people]
        ).astype(np.int64)
        self.report = FolderReport(
            people=len(self.people),
            photos=len(self.paths),
            skipped=skipped,
            shared=shared,
            single=[name for name in names if len(used.get(name, ())) == 1],
            empty=[name for name in names if name not in used],
        )
        if not self.paths:
            raise DataError(f"{root} holds no photo that can be used: {self.report.summary()}")
        self._digest = digest_of(self.labels, "".join(digests[path] for path in self.paths).encode())

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """Encoded bytes of a photo."""
        return self.paths[index].read_bytes()

    def place(self, index: int) -> str:
        """The photo's path."""
        return str(self.paths[index])

    def digest(self) -> str:
        """Of every photo's bytes and label."""
        return self._digest
