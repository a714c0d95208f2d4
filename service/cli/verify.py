"""`vultus verify`: whether it is the same person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.connection import AsJson, Url, connect, path, run
from service.cli.terminal import print_json, say


def verify(
    compared: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO_A PHOTO_B | GALLERY PERSON PHOTO", help="Two photos, or an enrolled person and a photo."
        ),
    ],
    fmr: Annotated[float | None, typer.Option(help="Target false-match rate.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say whether two photos, or a person and a photo, show the same person; exit 0 either way."""
    if len(compared) == 2:
        where, photos = path("verify"), {"photo_a": _photo(compared[0]), "photo_b": _photo(compared[1])}
    elif len(compared) == 3:
        where = path("galleries", compared[0], "people", compared[1], "verify")
        photos = {"photo": _photo(compared[2])}
    else:
        raise typer.BadParameter("give two photos, or a gallery, a person and a photo")
    fields = {} if fmr is None else {"fmr": str(fmr)}

    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            return await service.send("POST", where, files=photos, data=fields)

    answer = run(work())
    if as_json:
        print_json(answer)
        return
    said = "[bold green]the same person[/]" if answer["same"] else "[bold yellow]not the same person[/]"
    say(
        f"{said}  similarity {answer['similarity']:.2f}, probability {answer['probability']:.4f}, "
        f"threshold {answer['threshold']:.2f} for FMR {answer['fmr']:g}"
    )


def _photo(name: str) -> bytes:
    file = Path(name)
    if not file.is_file():
        raise typer.BadParameter(f"there is no file {name}")
    return file.read_bytes()
