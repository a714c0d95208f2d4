"""`vultus habits`: fit a gallery's prior to its visits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.connection import AsJson, Url, connect, path, run
from service.cli.terminal import print_json, print_table, say


def habits(
    gallery: Annotated[str, typer.Argument(metavar="GALLERY")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Fit the prior of a gallery to its visits, and say how many bits they tell."""

    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            return await service.send("POST", path("galleries", gallery, "habits"))

    answer = run(work())
    if as_json:
        print_json(answer)
        return
    say(
        f"{answer['visits']} visits held out: the history tells {answer['bits']:.2f} bits of each, "
        f"{answer['bits_before']:.2f} before"
    )
    print_table(("parameter", "value"), [(name, f"{value:g}") for name, value in answer["habits"].items()], empty="")
