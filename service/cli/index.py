"""`vultus index`: a folder, a manifest, a tar or ready embeddings into a gallery."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from service.cli.connection import AnsweredError, AsJson, Connection, Url, connect, path, run
from service.cli.terminal import note, print_json, print_table, rated_progress, say
from service.errors import GalleryExistsError, VultusError

LOOK_SECONDS = 0.25
"""Between two looks at how far an import is."""


class ImportFailedError(VultusError):
    """The import failed, or was cancelled; code and detail are its own."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code  # type: ignore[misc] # as the service told it


def index(
    source: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A folder person/photo, a manifest (.csv, .jsonl, .parquet) or a .tar."),
    ],
    gallery: Annotated[str, typer.Option(metavar="GALLERY", help="Where the faces go.")],
    create: Annotated[bool, typer.Option("--create", help="Create the gallery if there is none.")] = False,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="NPY", help="An array with a row for each row of the manifest.")
    ] = None,
    look_alikes: Annotated[
        Literal["refuse", "enroll"] | None,
        typer.Option(help="Faces that are likely another person's; photos are refused unless told otherwise."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Where to write what became of each photo.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Enrol many photos at once. Broken off, it goes on where it was when it is run again."""
    body = {
        "path": _there(source, url),
        "embeddings": None if embeddings is None else _there(embeddings, url),
        "look_alikes": look_alikes,
    }
    done, target = run(_indexed(url, gallery, body, report, create=create))
    if as_json:
        print_json(done)
    else:
        _print(done, target)
    if done["state"] != "done":
        trouble = done["trouble"] or {"code": "cancelled", "detail": "the import was cancelled"}
        raise ImportFailedError(trouble["code"], trouble["detail"])


def _there(given: Path, url: str | None) -> str:
    """A path as the service shall see it: one that exists here is made whole, for its working folder is another."""
    return str(given.resolve()) if url is None or given.exists() else str(given)


async def _indexed(
    url: str | None, gallery: str, body: dict[str, Any], report: Path | None, *, create: bool
) -> tuple[dict[str, Any], Path]:
    async with connect(url, import_root=Path("/")) as service:
        if create:
            try:
                await service.send("POST", path("galleries"), json={"name": gallery})
            except AnsweredError as error:
                if error.code != GalleryExistsError.code:
                    raise
        where = path("galleries", gallery, "imports")
        job = await service.send("POST", where, json=body)
        if job["done"]:
            note(f"This import was broken off after {job['done']} of {job['total']} photos and goes on.")
        mine = f"{where}/{job['import']}"
        job = await _watched(service, mine, job)
        target = report or Path(f"{job['import']}.csv")
        await service.download(f"{mine}/report", target)
    return job, target


async def _watched(service: Connection, where: str, job: dict[str, Any]) -> dict[str, Any]:
    told = ""
    with rated_progress() as display:
        task = display.add_task("reading the manifest", total=None, rate="", left="")
        while job["ended_at"] is None:
            await asyncio.sleep(LOOK_SECONDS)
            job = await service.get(where)
            seconds = job["seconds_left"]
            display.update(
                task,
                description="indexing" if job["total"] is not None else "reading the manifest",
                total=job["total"],
                completed=job["done"],
                rate=f"{job['per_second']:.0f}/s",
                left="" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d} left",
            )
            trouble = job["trouble"]
            if trouble is not None and job["ended_at"] is None and trouble["detail"] != told:
                told = trouble["detail"]
                note(f"The import has to wait: {told}")
    return job


def _print(job: dict[str, Any], target: Path) -> None:
    rows = [(outcome.replace("_", " "), count) for outcome, count in job["outcomes"].items() if count]
    print_table(("outcome", "photos"), rows, empty="The source holds no photos.")
    say(f"{job['done']} photos, {job['per_second']:.1f} a second; report in {escape(str(target))}")
