"""Tar shards in the webdataset layout: KEY.jpg (or .png, .webp) beside KEY.cls, the label as text.

The shards are indexed once and then read at random, a photo at a time: no order in the files has to be good.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.records import digest_of

PHOTOS = {"jpg", "jpeg", "png", "webp"}


class Shards:
    """The labelled photos of some tar files.

    Args:
        paths: the shards; their order is the order of the photos.

    Raises:
        DataError: a shard is damaged, a label is missing or no number, or there are no photos.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        places: list[tuple[int, int, int]] = []
        labels: list[int] = []
        for number, path in enumerate(self.paths):
            for photo, label in _index(path):
                places.append((number, *photo))
                labels.append(label)
        if not places:
            raise DataError(f"there are no photos in {len(self.paths)} shards")
        self._places = np.array(places, np.int64)
        self.labels: NDArray[np.int64] = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """The encoded bytes of a photo."""
        shard, offset, size = self._places[index].tolist()
        with self.paths[shard].open("rb") as file:
            file.seek(offset)
            return bytes(file.read(size))

    def place(self, index: int) -> str:
        """Where a photo lies, for messages."""
        shard, offset, _ = self._places[index].tolist()
        return f"{self.paths[shard]}, byte {offset}"

    def digest(self) -> str:
        """Of the labels and of each photo's place and size: to read all of their bytes could take an hour."""
        return digest_of(self.labels, self._places.astype("<i8").tobytes())


def _index(path: Path) -> list[tuple[tuple[int, int], int]]:
    """((offset, size), label) of each photo of a shard."""
    photos: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".") if "/" not in member.name else _split(member.name)
                if ending in PHOTOS:
                    photos[key] = (member.offset_data, member.size)
                elif ending == "cls":
                    file = tar.extractfile(member)
                    labels[key] = int(file.read()) if file is not None else -1
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(f"the shard {path} cannot be read: {error}") from error
    missing = sorted(photos.keys() - labels.keys())
    if missing:
        raise DataError(f"the shard {path} has no label (.cls) for {missing[0]} and {len(missing) - 1} others")
    return [(place, labels[key]) for key, place in photos.items()]


def _split(name: str) -> tuple[str, str, str]:
    """Key and ending of a member in a folder: the ending starts at the first dot of the last part of the name."""
    folder, _, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return f"{folder}/{stem}", dot, ending


def write_shards(folder: Path, photos: Iterable[tuple[bytes, int]], *, each: int = 10_000) -> list[Path]:
    """Write (encoded JPEG, label) pairs as shards of `each` photos, without times and owners so that bytes repeat.

    Returns:
        The shards' paths, in order.
    """
    paths: list[Path] = []
    numbered = enumerate(photos)
    while chunk := list(itertools.islice(numbered, each)):
        paths.append(folder / f"shard-{len(paths):06d}.tar")
        with tarfile.open(paths[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (photo, label) in chunk:
                for ending, data in (("jpg", photo), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return paths
