"""`vultus identify`: whose faces a photo shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.connection import AsJson, Url, connect, path, run
from service.cli.terminal import print_json, say

COLOURS = {"match": "green", "unknown": "yellow", "ask": "cyan"}


def identify(
    gallery: Annotated[str, typer.Argument(metavar="GALLERY")],
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", exists=True, dir_okay=False, readable=True)],
    fpir: Annotated[float | None, typer.Option(help="Target false-positive identification rate.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Candidates to show.")] = 5,
    device: Annotated[str | None, typer.Option(help="The device that took the photo.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say whose faces a photo shows."""
    fields = {"top": str(top)}
    if fpir is not None:
        fields["fpir"] = str(fpir)
    if device is not None:
        fields["context"] = json.dumps({"device": device})

    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            where = path("galleries", gallery, "identify")
            return await service.send("POST", where, files={"photo": photo.read_bytes()}, data=fields)

    answer = run(work())
    if as_json:
        print_json(answer)
        return
    for face in answer["faces"]:
        _print(face)


def _print(face: dict[str, Any]) -> None:
    box = face["box"]
    where = f"at {box['x']:.0f},{box['y']:.0f} {box['width']:.0f}x{box['height']:.0f}"
    decision = f"[bold {COLOURS[face['decision']]}]{face['decision']}[/]"
    say(f"{decision} {face['person'] or ''}  {where}, threshold {face['threshold']:.2f} for FPIR {face['fpir']:g}")
    for each in face["candidates"]:
        say(f"  {each['person']}  similarity {each['similarity']:.2f}  posterior {each['posterior']:.4f}")
