"""`vultus enroll`: photos of a person into a gallery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from service.cli.connection import AnsweredError, AsJson, Connection, Url, connect, path, run
from service.cli.terminal import print_json, say
from service.errors import GalleryExistsError, NothingEnrolledError

AT_ONCE = 10
BYTES_AT_ONCE = 32 << 20
"""Photos, and bytes of photos, in one request: well under what a service takes."""


def enroll(
    gallery: Annotated[str, typer.Argument(metavar="GALLERY")],
    person: Annotated[str, typer.Argument(metavar="PERSON", help="Your id of the person, created if absent.")],
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", exists=True, dir_okay=False, readable=True, help="Photo files.")
    ],
    create: Annotated[bool, typer.Option("--create", help="Create the gallery if there is none.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Enrol photos of a person, each showing that person alone."""
    answer = run(_enrolled(url, gallery, person, photos, create=create))
    if as_json:
        print_json(answer)
    else:
        _print(answer, photos)


async def _enrolled(
    url: str | None, gallery: str, person: str, photos: Sequence[Path], *, create: bool
) -> dict[str, Any]:
    async with connect(url) as service:
        if create:
            try:
                await service.send("POST", path("galleries"), json={"name": gallery})
            except AnsweredError as error:
                if error.code != GalleryExistsError.code:
                    raise
        whole: dict[str, Any] = {"person": person, "revision": None, "enrolled": [], "refused": []}
        for first, part in _parts(photos):
            await _add(service, whole, path("galleries", gallery, "people", person, "faces"), first, part)
    if not whole["enrolled"]:
        reasons = "; ".join(f"{photos[each['photo']]}: {each['detail']}" for each in whole["refused"])
        raise NothingEnrolledError(f"no photo could be enrolled: {reasons}")
    return whole


async def _add(service: Connection, whole: dict[str, Any], where: str, first: int, part: Sequence[Path]) -> None:
    """Enrol some of the photos, and add the answer to the answer about all."""
    try:
        answer = await service.send("POST", where, files=[("photo", photo.read_bytes()) for photo in part])
        whole["revision"] = answer["revision"]
        whole["enrolled"] += [{**each, "photo": each["photo"] + first} for each in answer["enrolled"]]
        refused = answer["refused"]
    except AnsweredError as error:
        if error.code != NothingEnrolledError.code:
            raise
        refused = error.extra["refused"]
    whole["refused"] += [{**each, "photo": each["photo"] + first} for each in refused]


def _parts(photos: Sequence[Path]) -> Iterator[tuple[int, list[Path]]]:
    """The photos in requests of a size that a service takes, each with the place of its first photo."""
    part: list[Path] = []
    first = held = 0
    for place, photo in enumerate(photos):
        size = photo.stat().st_size
        if part and (len(part) == AT_ONCE or held + size > BYTES_AT_ONCE):
            yield first, part
            first, part, held = place, [], 0
        part.append(photo)
        held += size
    yield first, part


def _print(answer: dict[str, Any], photos: Sequence[Path]) -> None:
    names = [escape(str(photo)) for photo in photos]
    for each in answer["enrolled"]:
        say(f"[green]enrolled[/green]  {names[each['photo']]}  quality {each['quality']:.2f}  face {each['face']}")
        for alike in each["resembles"]:
            say(f"          [yellow]resembles {alike['person']}, similarity {alike['similarity']:.2f}[/yellow]")
    for each in answer["refused"]:
        say(f"[yellow]refused[/yellow]   {names[each['photo']]}  {each['code']}: {escape(each['detail'])}")
