"""What can be imported: a folder, a manifest, a tar, ready embeddings; and which of them a path is."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import ImportManifestError, ImportPathError, InvalidIdError, PhotoUnreadableError
from service.imports import manifests
from service.imports.entries import Entry
from service.imports.manifests import Hash
from service.recognition.ids import valid_id

Kind: TypeAlias = Literal["folder", "tar", "manifest", "embeddings"]

PACKED: Final = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z")


@dataclass(frozen=True)
class Source:
    """A source of an import, at real paths under the import root.

    Attributes:
        kind: what it is.
        path: of the folder, tar or manifest.
        embeddings: of the array, None without ready embeddings.
    """

    kind: Kind
    path: Path
    embeddings: Path | None = None

    @property
    def base(self) -> Path:
        """What a photo's path is relative to."""
        return self.path if self.kind == "folder" else self.path.parent

    def entries(self, digits_hash: Hash, dim: int) -> Iterator[Entry]:
        """Yield what it holds: a folder sorted by person and photo, everything else in its own order.

        Args:
            digits_hash: hashes the digits of a manifest.
            dim: of the gallery's embeddings.

        Raises:
            ImportManifestError: it cannot be used as a whole.
            ImportPathError: it cannot be read.
        """
        try:
            if self.kind == "folder":
                yield from _of_folder(self.path)
            elif self.kind == "tar":
                yield from _of_tar(self.path)
            elif self.embeddings is None:
                yield from manifests.entries_of(self.path, digits_hash, ready=False)
            else:
                yield from self._of_embeddings(self.embeddings, digits_hash, dim)
        except OSError as error:
            raise ImportPathError(f"{self.path.name} cannot be read: {error.strerror or error}") from error

    def _of_embeddings(self, path: Path, digits_hash: Hash, dim: int) -> Iterator[Entry]:
        expected, number = len(array_of(path, dim)), 0
        for entry in manifests.entries_of(self.path, digits_hash, ready=True):
            number += 1
            if number <= expected:
                yield entry
        if number != expected:
            raise ImportManifestError(f"the manifest has {number} rows and the array {expected}")


def source_of(path: Path, embeddings: Path | None = None) -> Source:
    """Tell what a path is.

    Raises:
        ImportManifestError: nothing that can be imported.
    """
    if embeddings is not None:
        return Source("embeddings", path, embeddings)
    if path.is_dir():
        return Source("folder", path)
    suffix = path.suffix.lower()
    if suffix in PACKED:
        raise ImportManifestError("a compressed archive cannot be read at any place; unpack it to a folder or a .tar")
    if suffix == ".npy":
        raise ImportManifestError("an array needs a manifest: give the manifest, and the array as embeddings")
    return Source("tar" if suffix == ".tar" else "manifest", path)


def array_of(path: Path, dim: int) -> NDArray[np.floating]:
    """The array of ready embeddings, (n, dim), mapped into memory.

    Raises:
        ImportManifestError: it is no such array.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ImportManifestError(f"{path.name} is no array of numpy: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != dim or array.dtype.kind != "f":
        shape = getattr(array, "shape", "unknown")
        raise ImportManifestError(f"{path.name} has shape {shape}; this gallery needs numbers of shape (n, {dim})")
    return array


# --- folders ---


def _of_folder(folder: Path) -> Iterator[Entry]:
    """A folder a person; photos may lie deeper. Hidden files and folders are passed over."""
    for place in _listed(folder):
        if not place.is_dir():
            yield Entry(place.name, "", fault=_nobody)
            continue
        try:
            person = valid_id(place.name)
        except InvalidIdError as error:
            for photo in _below(place, place.name):
                yield photo if photo.fault else Entry(photo.photo, place.name, fault=(error.code, error.detail))
            continue
        yield from _below(place, person)


_nobody: Final = ("invalid_id", "the photo lies in no person's folder")


def _below(folder: os.DirEntry[str], person: str) -> Iterator[Entry]:
    top = len(os.path.dirname(folder.path)) + 1  # noqa: PTH120 - text for millions of photos
    folders = [folder.path]
    while folders:
        path = folders.pop()
        try:
            places = _listed(path)
        except OSError as error:
            detail = f"the folder cannot be read: {error.strerror}"
            yield Entry(path[top:], person, fault=(PhotoUnreadableError.code, detail))
            continue
        # Links to folders are not followed: they may lead round in circles.
        folders += [place.path for place in reversed(places) if place.is_dir(follow_symlinks=False)]
        for place in places:
            if not place.is_dir(follow_symlinks=False):
                yield Entry(place.path[top:], person)


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as places:
        return sorted((place for place in places if not place.name.startswith(".")), key=lambda place: place.name)


# --- tars ---


def _of_tar(path: Path) -> Iterator[Entry]:
    """person/photo in an uncompressed tar. Nothing is unpacked: members are read where they lie."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in _members(tar):
                entry = _of_member(member)
                if entry is not None:
                    yield entry
            # A header that is cut off looks like the end to tarfile; the true end is a block of zeros.
            if os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset) != bytes(tarfile.BLOCKSIZE):
                raise ImportManifestError(f"{path.name} is no tar, or damaged: it is cut short")
    except (tarfile.TarError, ValueError) as error:
        raise ImportManifestError(f"{path.name} is no tar, or damaged: {error}") from error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined] # it would remember every member for ever
        yield member


def _of_member(member: tarfile.TarInfo) -> Entry | None:
    name = member.name.removeprefix("./")
    parts = name.split("/")
    if member.isdir() or parts[-1].startswith("."):
        return None
    person = parts[0]
    if name.startswith("/") or ".." in parts:
        return Entry(name, "", fault=(PhotoUnreadableError.code, "the member's path leads out of the archive"))
    if not member.isreg() or member.issparse():
        return Entry(name, person, fault=(PhotoUnreadableError.code, "the member is no plain file"))
    if len(parts) < 2:
        return Entry(name, "", fault=_nobody)
    try:
        return Entry(name, valid_id(person), (member.offset_data, member.size))
    except InvalidIdError as error:
        return Entry(name, person, fault=(error.code, error.detail))
