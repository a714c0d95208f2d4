"""Bringing published files here: from a package index, a mirror, a URL or a file, always checked by digest."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from service.artifact.files import sha256
from service.errors import FetchError

PIP_SECONDS: Final = 600
LARGEST_DOWNLOAD: Final = 4 << 30

Progress = Callable[[int, int], None]
"""Called with the bytes that have come and the bytes expected (0 when not known)."""


def fetch_wheel(package: str, version: str, digest: str, into: Path, *, index_url: str | None = None) -> Path:
    """Download a wheel with the installed pip, without installing it.

    Args:
        package: name of the distribution.
        version: exact version.
        digest: SHA-256 of the wheel.
        into: folder for the wheel; one that is already there with the right digest is taken.
        index_url: another package index than pip's configured one.

    Raises:
        FetchError: pip failed, or the wheel has another digest.
    """
    into.mkdir(parents=True, exist_ok=True)
    for wheel in into.glob(f"{package.replace('-', '_')}-{version}-*.whl"):
        if sha256(wheel) == digest:
            return wheel
    with tempfile.TemporaryDirectory(dir=into) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", folder, f"{package}=={version}"]
        if index_url:
            command += ["--index-url", index_url]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)  # noqa: S603 - fixed arguments
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"pip did not finish downloading {package}=={version} in {PIP_SECONDS} s") from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise FetchError(f"pip could not download {package}=={version}: {said[-1] if said else 'no wheel came'}")
        found = sha256(wheels[0])
        if found != digest:
            raise FetchError(f"{wheels[0].name} has SHA-256 {found}, expected {digest}")
        return wheels[0].replace(into / wheels[0].name)


def fetch_url(url: str, into: Path, *, progress: Progress | None = None) -> Path:
    """Download a URL to a file of the folder; the caller checks its digest.

    Raises:
        FetchError: the server refused, broke off, or sent more than the largest file taken.
    """
    target = into / "download"
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=60) as answer, target.open("wb") as file:
            answer.raise_for_status()
            expected = int(answer.headers.get("content-length", 0))
            for chunk in answer.iter_bytes(1 << 20):
                file.write(chunk)
                if file.tell() > LARGEST_DOWNLOAD:
                    raise FetchError(f"the file is larger than {LARGEST_DOWNLOAD} bytes")
                if progress:
                    progress(file.tell(), expected)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchError(f"the download failed: {error}") from error
    return target


def member(wheel: Path, name: str) -> bytes:
    """One member of a wheel or other zip file.

    Raises:
        FetchError: the file is no zip file, or holds no such member.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{wheel.name} does not hold {name}") from error
