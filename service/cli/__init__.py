"""The command line, `vultus`: one module a word, assembled here.

Words that speak about people (`enroll`, `identify`, ...) go through REST, to a running service or to one that is
opened inside the command (`service.cli.connection`); words of the operator (`models`, `keys`, `doctor`, ...) work on
the folders directly. Commands import what they compute with when they run, so that `vultus --help` is instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

from service import __version__
from service.cli import (
    backup,
    calibrate,
    demo,
    doctor,
    enroll,
    forget,
    galleries,
    identify,
    index,
    keys,
    models,
    people,
    reindex,
    serve,
    verify,
)
from service.cli.terminal import Words

app = typer.Typer(
    name="vultus",
    cls=Words,
    help="Finds whose face a photo shows, and says how sure it is.",
    epilog="Settings are VULTUS_* variables; the README lists them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vultus {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Finds whose face a photo shows, and says how sure it is."""


app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.add_typer(galleries.app, name="galleries")
app.add_typer(people.app, name="people")
app.command("enroll")(enroll.enroll)
app.command("index")(index.index)
app.command("identify")(identify.identify)
app.command("verify")(verify.verify)
app.command("forget")(forget.forget)
app.add_typer(models.app, name="models")
app.command("calibrate")(calibrate.calibrate)
app.add_typer(keys.app, name="keys")
app.command("reindex")(reindex.reindex)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command that was typed."""
    app()
