"""`vultus forget`: a person is deleted, with a receipt."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.connection import AsJson, Url, connect, path, run
from service.cli.terminal import print_json, say


def forget(
    gallery: Annotated[str, typer.Argument(metavar="GALLERY")],
    person: Annotated[str, typer.Argument(metavar="PERSON")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Forget a person: everything kept about them is deleted."""

    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            return await service.send("DELETE", path("galleries", gallery, "people", person))

    answer = run(work())
    if as_json:
        print_json(answer)
        return
    say(f"{answer['person']} is forgotten, with {answer['faces']} faces; receipt {answer['receipt']}")
