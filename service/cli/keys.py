"""`vultus keys`: API keys, made and revoked where the data folder is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.connection import AsJson
from service.cli.terminal import note, print_json, print_table, say
from service.cli.truth import truth
from service.errors import InvalidRequestError

if TYPE_CHECKING:
    from service.gallery.keys import KeyRecord

app = typer.Typer(help="Create, list and revoke API keys; works beside a running service.", no_args_is_help=True)


@app.command()
def create(
    label: Annotated[str, typer.Option(help="What the key is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do, repeated: read, identify, enroll, manage, embed. All but embed by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once."""
    from service.api.access import SCOPES  # noqa: PLC0415 - a fast start of the other commands
    from service.gallery import keys  # noqa: PLC0415 - the same

    scopes = scope or [each for each in SCOPES if each != "embed"]
    for each in scopes:
        if each not in SCOPES:
            raise InvalidRequestError(f"there is no scope {each!r}; scopes are {', '.join(SCOPES)}")
    with truth() as catalog, catalog.write() as tx:
        made = keys.create(tx, label, scopes)
    if as_json:
        print_json({"key": made.record.key, "text": made.text, "scopes": sorted(made.record.scopes), "label": label})
        return
    note("Keep it safe, it is not shown again; send it as `Authorization: Bearer ...` or set VULTUS_KEY:")
    print(made.text)  # noqa: T201 - the result, alone on standard output


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys, revoked ones too."""
    from service.gallery import keys  # noqa: PLC0415 - a fast start of the other commands

    with truth() as catalog, catalog.read() as reading:
        found = keys.every(reading)
    if as_json:
        print_json([_facts(each) for each in found])
        return
    rows = [
        (each.key, each.label, " ".join(sorted(each.scopes)), f"{each.created_at:%Y-%m-%d}", _state(each))
        for each in found
    ]
    print_table(
        ("key", "label", "scopes", "created", "state"), rows, empty="No keys: whoever reaches the service may use it."
    )


@app.command()
def revoke(key: Annotated[str, typer.Argument(metavar="KEY", help="As `keys list` shows it.")]) -> None:
    """Make a key useless; a running service notices within seconds."""
    from service.gallery import keys  # noqa: PLC0415 - a fast start of the other commands

    with truth() as catalog, catalog.write() as tx:
        gone = keys.revoke(tx, key)
    say(f"key {gone.key} ({gone.label}) is revoked")


def _state(key: KeyRecord) -> str:
    return "valid" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d}"


def _facts(key: KeyRecord) -> dict[str, Any]:
    return {
        "key": key.key,
        "label": key.label,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }
