"""`vultus people`: list, show, put."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.markup import escape

from service.cli.connection import AsJson, Url, connect, path, run
from service.cli.terminal import print_json, print_table, say
from service.errors import InvalidJsonError

app = typer.Typer(help="List, show and put people; `enroll` adds faces, `forget` deletes.", no_args_is_help=True)

Gallery = Annotated[str, typer.Argument(metavar="GALLERY")]
Person = Annotated[str, typer.Argument(metavar="PERSON")]


@app.command("list")
def list_people(gallery: Gallery, url: Url = None, as_json: AsJson = False) -> None:
    """List the people of a gallery."""

    async def work() -> list[dict[str, Any]]:
        async with connect(url) as service:
            return [item async for item in service.every(path("galleries", gallery, "people"), "people")]

    found = run(work())
    if as_json:
        print_json(found)
        return
    rows = [(each["person"], each["name"], each["face_count"], each["region"], each["expires_at"]) for each in found]
    print_table(("person", "name", "faces", "region", "expires"), rows, empty=f"Nobody is in {gallery} yet.")


@app.command()
def show(gallery: Gallery, person: Person, url: Url = None, as_json: AsJson = False) -> None:
    """Show a person and the faces that are kept."""

    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            return await service.get(path("galleries", gallery, "people", person))

    _print(run(work()), as_json=as_json)


@app.command()
def put(
    gallery: Gallery,
    person: Person,
    name: Annotated[str | None, typer.Option(help="Full name.")] = None,
    region: Annotated[str | None, typer.Option(help="Home: an H3 cell, or LAT,LON.")] = None,
    device: Annotated[str | None, typer.Option(help="Own device.")] = None,
    digits: Annotated[str | None, typer.Option(help="Last digits of the phone; only a keyed hash is kept.")] = None,
    attributes: Annotated[str | None, typer.Option(metavar="JSON", help="Free attributes, a JSON object.")] = None,
    consent: Annotated[str | None, typer.Option(metavar="JSON", help="Consent, a JSON object.")] = None,
    expires_at: Annotated[str | None, typer.Option(metavar="TIME", help="When to forget the person.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Create a person, or replace everything about them but their faces."""
    body = {
        "name": name,
        "region": _region(region),
        "device": device,
        "digits": digits,
        "attributes": _object("--attributes", attributes) or {},
        "consent": _object("--consent", consent),
        "expires_at": expires_at,
    }

    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            return await service.send("PUT", path("galleries", gallery, "people", person), json=body)

    _print(run(work()), as_json=as_json)


def _region(text: str | None) -> str | dict[str, float] | None:
    if text is None or "," not in text:
        return text
    latitude, _, longitude = text.partition(",")
    try:
        return {"lat": float(latitude), "lon": float(longitude)}
    except ValueError:
        raise typer.BadParameter("a place is LAT,LON, as in 48.137,11.575", param_hint="--region") from None


def _object(option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError(f"{option} is not valid JSON") from error


def _print(person: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(person)
        return
    kept = ("name", "region", "device", "digits", "attributes", "consent", "expires_at", "face_count")
    say(f"[bold]{person['person']}[/bold]")
    for member in kept:
        if person[member] not in (None, {}, False):
            say(f"{member:<11} {escape(str(person[member]))}")
    for face in person.get("faces") or []:
        say(f"face {face['face']}  quality {face['quality']:.2f}  {face['created_at']}")
