"""`vultus identify`: whose faces a photo shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from service.cli.connection import AsJson, Url, connect, json_object, path, run
from service.cli.terminal import print_json, say

COLOURS = {"match": "green", "unknown": "yellow", "ask": "cyan"}


def identify(
    gallery: Annotated[str, typer.Argument(metavar="GALLERY")],
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", exists=True, dir_okay=False, readable=True)],
    fpir: Annotated[float | None, typer.Option(help="Target false-positive identification rate.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Candidates to show.")] = 5,
    device: Annotated[str | None, typer.Option(help="The device that took the photo.")] = None,
    context: Annotated[
        str | None, typer.Option(metavar="JSON", help="What else is known: region, time, observed, claims.")
    ] = None,
    certainty: Annotated[float | None, typer.Option(help="Least posterior of a match, with a context.")] = None,
    safe: Annotated[bool, typer.Option("--safe", help="Decide by an e-value, however much alike people look.")] = False,
    prior: Annotated[bool, typer.Option(help="Whether the context counts.")] = True,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say whose faces a photo shows."""
    fields = {"top": str(top), "safe": json.dumps(safe), "prior": "on" if prior else "off"}
    for name, rate in (("fpir", fpir), ("certainty", certainty)):
        if rate is not None:
            fields[name] = str(rate)
    known = {} if context is None else json_object(context, "--context")
    if device is not None:
        known["device"] = device
    if known:
        fields["context"] = json.dumps(known)

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
    if face["trace"].get("words"):
        say(f"  {escape(face['trace']['words'])}")
    if face.get("answer"):
        say(f"  come back with the answer {face['answer']}")
