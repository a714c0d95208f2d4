"""`vultus backup` and `vultus restore`: the whole catalog to a file and back, on either database."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from service.cli.connection import AsJson
from service.cli.terminal import note, print_json, say
from service.cli.truth import truth
from service.errors import InvalidRequestError, NotEmptyError, NotFoundError

if TYPE_CHECKING:
    from service.gallery.backup import Backup

STANDARD = Path("-")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; `-` is the standard output.")],
    as_json: AsJson = False,
) -> None:
    """Write everything the catalog holds at this moment to FILE; works beside a running service.

    The file is read back and checked before it gets its name. The secret is not in it: keep a copy of that elsewhere.
    """
    from service.gallery import backup as backups  # noqa: PLC0415 - a fast start of the other commands
    from service.settings import load_settings  # noqa: PLC0415 - the same

    settings = load_settings()
    if not settings.catalog and not (settings.data / "catalog.sqlite").is_file():
        raise NotFoundError(f"there is no catalog in {settings.data}; VULTUS_DATA names another folder")
    with truth() as catalog:
        if file == STANDARD:
            made = backups.write(catalog, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            made = _written(catalog, file)
    if file != STANDARD:
        _report("backup", file, made, as_json=as_json)
    note(f"Its hashes are keyed by the secret, which is not in it: keep {settings.secret or settings.data / 'secret'}.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup; `-` is the standard input.")],
    secret: Annotated[
        Path | None, typer.Option(help="The secret that belongs to it, for a data folder that has none yet.")
    ] = None,
    without_secret: Annotated[
        bool, typer.Option("--without-secret", help="The secret is lost: leave people's digits out.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read it to its end and check it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fill an empty data folder or database with a backup, all of it or nothing; no service may run meanwhile."""
    from service.gallery import backup as backups  # noqa: PLC0415 - a fast start of the other commands
    from service.gallery import restoring  # noqa: PLC0415 - the same
    from service.gallery.folder import take_secret  # noqa: PLC0415 - the same
    from service.settings import load_settings  # noqa: PLC0415 - the same

    settings = load_settings()
    with _opened(file) as source:
        if check:
            found = backups.verify(source, None)
        else:
            if secret is not None:
                if settings.secret is not None:
                    raise InvalidRequestError("the secret is set by VULTUS_SECRET already")
                take_secret(settings.data, secret)
            with truth(alone=True) as catalog:
                found = restoring.restore(catalog, source, without_secret=without_secret)
    _report("whole" if check else "restored", file, found, as_json=as_json)


def _written(catalog: Any, file: Path) -> Backup:
    """Write a backup beside its place, check it, and put it there in one step."""
    from service.gallery import backup as backups  # noqa: PLC0415 - a fast start of the other commands

    if file.exists():
        with file.open("rb") as old:
            if not backups.begins_like_one(old):
                raise NotEmptyError(f"{file} is there and is no backup; it is left as it is")
    part = file.with_name(f"{file.name}.part")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as target:
            made = backups.write(catalog, target)
            target.flush()
            os.fsync(target.fileno())
            target.seek(0)
            backups.verify(target, backups.seal_of(catalog))
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return made


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """A backup that can be read twice."""
    if file != STANDARD:
        with file.open("rb") as source:
            yield source
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.seek(0)
        yield copy


def _report(done: str, file: Path, found: Backup, *, as_json: bool) -> None:
    header = found.header
    if as_json:
        galleries = [
            {"gallery": each.name, "revision": each.revision, "people": each.people, "faces": each.faces}
            for each in header.galleries
        ]
        facts = {"file": file, "created_at": header.created_at, "sha256": found.sha256, "galleries": galleries}
        print_json(facts | {"rows": found.rows})
        return
    people, faces = found.rows.get("people", 0), found.rows.get("templates", 0)
    say(f"{done}: {len(header.galleries)} galleries, {people} people, {faces} faces, as of {header.created_at}")
    for each in header.galleries:
        say(f"  {each.name} at revision {each.revision}: {each.people} people, {each.faces} faces")
    say(f"  sha256 {found.sha256}")
