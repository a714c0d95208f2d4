"""`vultus demo`: forty people, thirty of them enrolled, to see what the answers look like."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.cli.connection import AnsweredError, Connection, Url, connect, path, run
from service.cli.demo_people import Shown, Visitor, cast_from, outcome_of
from service.cli.terminal import note, print_json, progress, say
from service.errors import GalleryNotFoundError

GALLERY = "demo"
COLOURS = {"right": "green", "missed": "yellow", "wrong": "red"}


def demo(
    photos: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of people, a folder of photos each, instead of the ORL faces."),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Where to write the contact sheet.")] = None,
    index_url: Annotated[
        str | None, typer.Option("--index-url", metavar="URL", help="Package index for the ORL faces.")
    ] = None,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, and nothing else.")] = False,
) -> None:
    """Build a small gallery of real faces and show enrol, identify, an unknown person and verify."""
    from service.settings import load_settings  # noqa: PLC0415 - a fast start of the other commands

    settings = load_settings()
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    credit = ""
    if photos is None:
        from service.artifact import orl  # noqa: PLC0415 - the same

        with progress(counted=False) as display:
            display.add_task("fetching the ORL faces", total=None)
            photos, credit = orl.orl_faces(settings.data / "demo", index_url=index_url), orl.CREDIT
    visitors = cast_from(photos)
    shown, facts = run(_shown(url, visitors, quiet=as_json))
    target = sheet or settings.data / "demo" / "contact-sheet.png"
    from service.cli.contact_sheet import draw  # noqa: PLC0415 - loads Pillow

    draw(shown, target, credit=credit)
    summary = _summary(shown, facts)
    if as_json:
        print_json({**summary, "sheet": str(target)})
    else:
        _report(shown, summary)
        say(f"Contact sheet: {escape(str(target))}")
        if credit:
            say(f"[dim]{credit}[/dim]")


async def _shown(url: str | None, visitors: Sequence[Visitor], *, quiet: bool) -> tuple[list[Shown], dict[str, Any]]:
    async with connect(url) as service:
        if not quiet:
            note(f"service: {service.where}")
        try:
            await service.send("DELETE", path("galleries", GALLERY))
        except AnsweredError as error:
            if error.code != GalleryNotFoundError.code:
                raise
        await service.send("POST", path("galleries"), json={"name": GALLERY})
        facts = await _enrolled(service, visitors)
        shown: list[Shown] = []
        with progress() as display:
            task = display.add_task("identifying", total=len(visitors))
            for visitor in visitors:
                shown.append(await _identified(service, visitor))
                display.advance(task)
        facts["verify"] = await _verified(service, visitors)
        return shown, facts


async def _enrolled(service: Connection, visitors: Sequence[Visitor]) -> dict[str, Any]:
    members = [visitor for visitor in visitors if visitor.enrolled]
    started, faces, refused = time.perf_counter(), 0, 0
    with progress() as display:
        task = display.add_task("enrolling", total=len(members))
        for visitor in members:
            files = [("photo", photo.read_bytes()) for photo in visitor.enrolled]
            try:
                answer = await service.send(
                    "POST", path("galleries", GALLERY, "people", visitor.person, "faces"), files=files
                )
                faces, refused = faces + len(answer["enrolled"]), refused + len(answer["refused"])
            except AnsweredError as error:
                if error.code != "nothing_enrolled":
                    raise
                refused += len(files)
            display.advance(task)
    spent = time.perf_counter() - started
    return {"people": len(members), "faces": faces, "refused": refused, "enrol_seconds": round(spent, 2)}


async def _identified(service: Connection, visitor: Visitor) -> Shown:
    started = time.perf_counter()
    try:
        answer = await service.send(
            "POST", path("galleries", GALLERY, "identify"), files={"photo": visitor.probe.read_bytes()}
        )
    except AnsweredError as error:
        return Shown(visitor, "missed", None, None, time.perf_counter() - started, error.code)
    spent = time.perf_counter() - started
    face = answer["faces"][0]
    best = face["candidates"][0] if face["candidates"] else None
    return Shown(visitor, outcome_of(visitor, face), face, best, spent)


async def _verified(service: Connection, visitors: Sequence[Visitor]) -> dict[str, Any]:
    member = next(visitor for visitor in visitors if visitor.enrolled)
    photos = {"photo_a": member.enrolled[0].read_bytes(), "photo_b": member.probe.read_bytes()}
    answer = await service.send("POST", path("verify"), files=photos)
    return {"person": member.person, **{name: answer[name] for name in ("same", "similarity", "probability", "fmr")}}


def _summary(shown: Sequence[Shown], facts: dict[str, Any]) -> dict[str, Any]:
    known = [each for each in shown if each.visitor.enrolled]
    unknown = [each for each in shown if not each.visitor.enrolled]
    stated = next((each.face["fpir"] for each in shown if each.face), None)
    times = sorted(each.seconds for each in shown)
    return {
        **facts,
        "known": len(known),
        "found": sum(each.outcome == "right" for each in known),
        "missed": sum(each.outcome == "missed" for each in known),
        "wrong": sum(each.outcome == "wrong" for each in known),
        "unknown": len(unknown),
        "kept_out": sum(each.outcome != "wrong" for each in unknown),
        "fpir": stated,
        "median_ms": round(1000 * times[len(times) // 2], 1),
    }


def _report(shown: Sequence[Shown], summary: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("photo", "decision", "person"):
        table.add_column(column)
    for column in ("similarity", "posterior", "ms"):
        table.add_column(column, justify="right")
    for each in shown:
        face, best = each.face, each.best
        decision = face["decision"] if face else (each.fault or "")
        table.add_row(
            escape(f"{each.visitor.person}/{each.visitor.probe.name}")
            + ("" if each.visitor.enrolled else " (unknown)"),
            f"[{COLOURS[each.outcome]}]{decision}[/]",
            (face or {}).get("person") or "",
            f"{best['similarity']:.2f}" if best else "",
            f"{best['posterior']:.4f}" if best else "",
            f"{1000 * each.seconds:.0f}",
        )
    Console(highlight=False).print(table)
    same = summary["verify"]
    say("")
    say(
        f"Enrolled  {summary['people']} people with {summary['faces']} faces in {summary['enrol_seconds']:.1f} s"
        + (f", {summary['refused']} photos refused" if summary["refused"] else "")
    )
    say(
        f"Known     {summary['found']} of {summary['known']} found, {summary['missed']} missed, "
        f"{summary['wrong']} wrong, {summary['median_ms']:.0f} ms each"
    )
    say(f"Unknown   {summary['kept_out']} of {summary['unknown']} kept out, at a stated FPIR of {summary['fpir']:g}")
    say(
        f"Verify    two photos of {same['person']}: {'the same person' if same['same'] else 'not the same person'}, "
        f"similarity {same['similarity']:.2f}, at a stated FMR of {same['fmr']:g}"
    )
