"""`vultus reindex`: galleries to another model, from the crops that they keep."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.connection import AsJson
from service.cli.terminal import note, print_json, progress, say
from service.cli.truth import truth
from service.errors import GalleryNotFoundError, InvalidRequestError, ReindexingError

if TYPE_CHECKING:
    from service.artifact.manifest import Manifest
    from service.gallery.catalog import Catalog
    from service.gallery.records import GalleryRecord
    from service.recognition.reindex import Encode

TRIES = 10
"""Of a switch, where somebody is enrolled at the same moment."""


def reindex(
    model: Annotated[str, typer.Option(help="The model to move to, as `models list` names it.")],
    gallery: Annotated[list[str] | None, typer.Option(help="A gallery, repeated; all without it.")] = None,
    switch: Annotated[bool, typer.Option("--switch", help="Then let the galleries be of that model.")] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Switch although faces without a crop are left behind.")
    ] = False,
    end: Annotated[
        bool, typer.Option("--end", help="Delete what is kept of the model that is not in use: no way back from there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Encode the kept crops with another model, compare the two, and switch if told to.

    Encoding runs beside a service (`nice` lets that go first) and goes on where it was killed. A switch is one moment;
    with SQLite the service has to be stopped for it, and afterwards VULTUS_RECOGNITION_MODEL names the new model. To go
    back, name the old one.
    """
    if end and switch:
        raise InvalidRequestError("--switch and --end are two steps: look at what the new model does in between")
    manifest = _manifest(model)
    with truth(alone=switch and not _shared()) as catalog:
        found = _galleries(catalog, gallery, manifest)
        if end:
            report = [_ended(catalog, each) for each in found]
        else:
            encode = (manifest, _encoder(manifest))
            report = [_prepared(catalog, each, model, encode) for each in found]
            if switch:
                for each, said in zip(found, report, strict=True):
                    said["revision"] = _switched(catalog, each, encode, leave_out=leave_out)
    if as_json:
        print_json(report)
        return
    for said in report:
        _say(said, model)
    if switch and report:
        note(f"Start the service with VULTUS_RECOGNITION_MODEL={model}; this command with the other model goes back.")


def _shared() -> bool:
    from service.settings import load_settings  # noqa: PLC0415 - a fast start of the other commands

    return bool(load_settings().catalog)


def _galleries(catalog: Catalog, named: list[str] | None, model: Manifest) -> list[GalleryRecord]:
    """The galleries that were named; all that are not of the model already where none was.

    Raises:
        GalleryNotFoundError: there is none of a name.
    """
    from service.gallery import galleries, reindexing  # noqa: PLC0415 - a fast start of the other commands

    with catalog.read() as reading:
        if named:
            return [galleries.get(reading, name) for name in named]
        every = [galleries.by_pk(reading, pk) for pk in galleries.every_pk(reading)]
        found = [each for each in every if each.model_digest != model.digest or reindexing.find(reading, each.pk)]
    if not found:
        raise GalleryNotFoundError(f"there is no gallery that could move to model {model.name}")
    return found


def _manifest(name: str) -> Manifest:
    """The model's manifest.

    Raises:
        InvalidRequestError: it is no recognition model.
        ModelNotFoundError: there is none of that name.
    """
    from service.artifact.store import ModelStore  # noqa: PLC0415 - a fast start of the other commands
    from service.settings import load_settings  # noqa: PLC0415 - the same

    manifest = ModelStore(load_settings().models).manifest(name)
    if manifest.task != "recognition":
        raise InvalidRequestError(f"model {name} is for {manifest.task}, not for recognition")
    return manifest


def _encoder(manifest: Manifest) -> Encode:
    """The model, in the engine that the settings name or that is fastest here."""
    from service.artifact.store import ModelStore  # noqa: PLC0415 - a fast start of the other commands
    from service.settings import load_settings  # noqa: PLC0415 - the same
    from service.vision.choice import choose  # noqa: PLC0415 - the same
    from service.vision.encode import Encoder  # noqa: PLC0415 - the same

    settings = load_settings()
    streams = settings.streams
    memory = settings.data / "engines.json"
    store = ModelStore(settings.models)
    return Encoder(choose(store, manifest, wanted=settings.engine, streams=streams, memory=memory).engine)


def _prepared(catalog: Catalog, gallery: GalleryRecord, model: str, encoder: tuple[Manifest, Encode]) -> dict[str, Any]:
    from service.gallery import reindexing  # noqa: PLC0415 - a fast start of the other commands
    from service.recognition import reindex as work  # noqa: PLC0415 - the same

    manifest, encode = encoder
    with catalog.write() as tx:
        move = reindexing.begin(tx, gallery.pk, reindexing.Model(model, manifest.digest, manifest.dim))
        if move.other.digest != manifest.digest:
            raise ReindexingError(f"gallery {gallery.name!r} is of model {model} already")
        before = reindexing.progress(tx, gallery.pk)
    with progress() as bar:
        task = bar.add_task(f"{gallery.name}: encoding", total=before.faces - before.without, completed=before.encoded)
        work.encode_pending(catalog, gallery.pk, encode, told=lambda faces: bar.advance(task, faces))
    with catalog.read() as reading:
        done = reindexing.progress(reading, gallery.pk)
    return {
        "gallery": gallery.name,
        "model": model,
        **asdict(done),
        "compared": asdict(work.compare(catalog, gallery.pk)),
    }


def _switched(catalog: Catalog, gallery: GalleryRecord, encoder: tuple[Manifest, Encode], *, leave_out: bool) -> int:
    from service.errors import WithoutCropsError  # noqa: PLC0415 - a fast start of the other commands
    from service.gallery import reindexing  # noqa: PLC0415 - the same
    from service.recognition import reindex as work  # noqa: PLC0415 - the same

    for again in range(TRIES):
        try:
            with catalog.write() as tx:
                return reindexing.switch(tx, gallery.pk, leave_out=leave_out)
        except WithoutCropsError:
            raise
        except ReindexingError:
            if again == TRIES - 1:
                raise
            work.encode_pending(catalog, gallery.pk, encoder[1])
    raise AssertionError


def _ended(catalog: Catalog, gallery: GalleryRecord) -> dict[str, Any]:
    from service.gallery import galleries, reindexing  # noqa: PLC0415 - a fast start of the other commands

    with catalog.write() as tx:
        reindexing.end(tx, gallery.pk)
        return {"gallery": gallery.name, "model": galleries.by_pk(tx, gallery.pk).model, "ended": True}


def _say(said: dict[str, Any], model: str) -> None:
    if said.get("ended"):
        say(f"{said['gallery']}: stays with {said['model']}; nothing is kept of the other model")
        return
    say(f"{said['gallery']}: {said['encoded']} of {said['faces']} faces encoded by {model}")
    if said["without"]:
        say(f"  [yellow]{said['without']} faces have no crop, {said['people_without']} people no other face[/yellow]")
    compared = said["compared"]
    if compared["both"] is None:
        say("  nobody to compare the models on: that takes people with several faces")
    else:
        say(
            f"  on {compared['faces']} faces of {compared['people']} people the nearest is the person's own: "
            f"{compared['in_use']:.1%} until now, {compared['other']:.1%} by {model}, {compared['both']:.1%} by both"
        )
    if "revision" in said:
        say(f"  switched at revision {said['revision']}")
