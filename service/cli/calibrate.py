"""`vultus calibrate`: measure what a model's cosines mean, and keep it in the manifest."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.connection import AsJson, run
from service.cli.terminal import note, print_json, print_table, progress, say

if TYPE_CHECKING:
    from service.artifact.manifest import CalibrationRecord, Manifest
    from service.artifact.store import ModelStore
    from service.recognition.calibrate import Labelled
    from service.settings import Settings

LARGEST_PHOTO = 1 << 30
"""Photos of a calibration are the operator's own; their limits are wide."""


def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A recognition model, as `models list` shows it.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of people, a folder of photos each.")],
    data: Annotated[str | None, typer.Option(help="What the photos are, in a few words, for the manifest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure error rates and thresholds on labelled photos; a service that runs takes them up at its next start."""
    from service.artifact.files import write_atomic  # noqa: PLC0415 - a fast start of the other commands
    from service.artifact.manifest import manifest_text  # noqa: PLC0415 - the same
    from service.artifact.store import ModelStore  # noqa: PLC0415 - the same
    from service.recognition import calibrate as calibrating  # noqa: PLC0415 - the same
    from service.settings import load_settings  # noqa: PLC0415 - the same

    settings = load_settings()
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = ModelStore(settings.models)
    manifest = store.manifest(model)
    _ = manifest.dim
    labelled = run(_labelled(settings, store, manifest, folder))
    for path, reason in labelled.skipped.items():
        note(f"skipped {path}: {reason}")
    record = calibrating.calibrate(labelled, data=data or f"photos in {folder.name}")
    changed = manifest.model_copy(update={"calibration": record})
    write_atomic(store.folder / model / "manifest.json", manifest_text(changed).encode())
    if as_json:
        print_json(record.model_dump())
    else:
        _print(record, manifest)


async def _labelled(settings: Settings, store: ModelStore, manifest: Manifest, folder: Path) -> Labelled:
    from service.recognition.calibrate import label, photos_in  # noqa: PLC0415 - a fast start of the other commands
    from service.vision.choice import choose  # noqa: PLC0415 - the same
    from service.vision.encode import Encoder  # noqa: PLC0415 - the same
    from service.vision.reader import Limits, reader  # noqa: PLC0415 - the same

    photos = photos_in(folder)
    streams, memory = settings.threads or os.cpu_count() or 1, settings.data / "engines.json"
    detection = store.manifest(settings.detection_model)
    detector = await asyncio.to_thread(choose, store, detection, wanted="auto", streams=streams, memory=memory)
    recogniser = await asyncio.to_thread(
        choose, store, manifest, wanted=settings.engine, streams=streams, memory=memory
    )
    limits = Limits(LARGEST_PHOTO, settings.max_photo_pixels, settings.max_faces)
    with progress() as display:
        task = display.add_task("reading photos", total=len(photos))
        async with reader(
            detector.engine,
            Encoder(recogniser.engine),
            limits=limits,
            max_batch=settings.batch,
            capacity=settings.queue,
            workers=streams,
        ) as faces:
            return await label(faces, photos, read=lambda: display.advance(task))


def _print(record: CalibrationRecord, manifest: Manifest) -> None:
    say(
        f"{manifest.name} {manifest.version}: {record.people:,} people, {record.mated_pairs:,} mated and "
        f"{record.impostor_pairs:,} impostor pairs"
    )
    rows = [
        (f"{fmr:.1e}", f"{threshold:.3f}", f"{100 * fnmr:.2f} %")
        for fmr, threshold, fnmr in zip(record.fmr, record.thresholds, record.fnmr, strict=True)
        if fmr <= 2e-2 or fmr == record.fmr[-1]
    ]
    print_table(("FMR", "threshold", "FNMR"), [*rows], empty="")
