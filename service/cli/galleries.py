"""`vultus galleries`: list, create, delete."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.connection import AsJson, Url, connect, json_object, path, run
from service.cli.terminal import print_json, print_table, say

app = typer.Typer(help="List, create and delete galleries.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="GALLERY")]


@app.command("list")
def list_galleries(url: Url = None, as_json: AsJson = False) -> None:
    """List the galleries."""

    async def work() -> list[dict[str, Any]]:
        async with connect(url) as service:
            return [item async for item in service.every(path("galleries"), "galleries")]

    found = run(work())
    if as_json:
        print_json(found)
        return
    columns = ("name", "people", "faces", "model", "fpir", "revision")
    rows = [tuple(each[column] for column in columns) for each in found]
    print_table(columns, rows, empty="No galleries yet: vultus galleries create NAME")


@app.command()
def create(
    gallery: Name,
    fpir: Annotated[float | None, typer.Option(help="Target false-positive identification rate.")] = None,
    keep_crops: Annotated[
        bool, typer.Option("--keep-crops", help="Keep the crops of faces too, so that another model can encode them.")
    ] = False,
    observed: Annotated[
        str | None, typer.Option(metavar="JSON", help="Attributes of people that count as evidence when observed.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Create an empty gallery."""
    asked: dict[str, Any] = {"name": gallery, "fpir": fpir, "keep_crops": keep_crops}
    if observed is not None:
        asked["observed"] = json_object(observed, "--observed")

    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            return await service.send("POST", path("galleries"), json=asked)

    made = run(work())
    if as_json:
        print_json(made)
        return
    say(f"gallery {made['name']}, bound to model {made['model']}")


@app.command()
def delete(
    gallery: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Delete a gallery with everybody in it."""
    if not yes:
        typer.confirm(f"Delete gallery {gallery} with everybody in it?", abort=True, err=True)

    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            return await service.send("DELETE", path("galleries", gallery))

    gone = run(work())
    if as_json:
        print_json(gone)
        return
    say(f"gallery {gone['gallery']} is gone, with {gone['people']} people and {gone['faces']} faces")
