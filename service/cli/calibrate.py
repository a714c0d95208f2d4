"""`vultus calibrate`: measure what cosines mean, for a model or for a gallery, and who may be expected where.

calibrate MODEL FOLDER              a model, on labelled photos
calibrate MODEL --gallery GALLERY   a model, on a gallery's people who have several faces
calibrate --gallery GALLERY         a gallery, on its own people
calibrate --gallery GALLERY --prior the prior of a gallery, on its visits
calibrate --gallery GALLERY --observed FILE
                                    what its people's attributes tell, on confirmed visitors
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.connection import AsJson, Url, connect, json_object, path, run
from service.cli.plots import plot
from service.cli.terminal import note, print_json, print_table, progress, say
from service.errors import InvalidRequestError

if TYPE_CHECKING:
    from service.artifact.manifest import CalibrationRecord, Manifest
    from service.artifact.store import ModelStore
    from service.recognition.calibrate import Labelled
    from service.settings import Settings

LARGEST_PHOTO = 1 << 30
"""Photos of a calibration are the operator's own; their limits are wide."""


def calibrate(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A recognition model, as `models list` shows it.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="A folder of people, a folder of photos each.")
    ] = None,
    gallery: Annotated[str | None, typer.Option(help="A gallery: to be measured, or to measure the model on.")] = None,
    prior: Annotated[bool, typer.Option("--prior", help="Fit the gallery's prior to its visits instead.")] = False,
    observed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Fit the gallery's attributes to confirmed visitors instead: a JSON object a line.",
        ),
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Plot histograms, DET and reliability into this folder.")] = None,
    data: Annotated[str | None, typer.Option(help="What the photos are, in a few words, for the manifest.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Measure error rates and thresholds: of a model on labelled photos, or of a gallery on its own people."""
    given = {"model": model, "folder": folder, "gallery": gallery, "prior": prior or None, "observed": observed}
    what = {name for name, value in given.items() if value is not None}
    if gallery is not None and what == {"gallery", "prior"}:
        _habits(gallery, url, as_json)
    elif gallery is not None and observed is not None and what == {"gallery", "observed"}:
        _attributes(gallery, observed, url, as_json)
    elif gallery is not None and what == {"gallery"}:
        _gallery(gallery, plots, url, as_json)
    elif model is not None and what in ({"model", "folder"}, {"model", "gallery"}):
        _model(model, folder, gallery, plots, data, as_json)
    else:
        raise InvalidRequestError(
            "say one of: calibrate MODEL FOLDER, calibrate MODEL --gallery GALLERY, calibrate --gallery GALLERY, "
            "calibrate --gallery GALLERY --prior, calibrate --gallery GALLERY --observed FILE"
        )


def _habits(gallery: str, url: str | None, as_json: bool) -> None:
    answer = _send(url, "POST", path("galleries", gallery, "habits"))
    if as_json:
        print_json(answer)
        return
    say(
        f"{answer['visits']} visits held out: the history tells {answer['bits']:.2f} bits of each, "
        f"{answer['bits_before']:.2f} before"
    )
    print_table(("parameter", "value"), [(name, f"{value:g}") for name, value in answer["habits"].items()], empty="")


def _attributes(gallery: str, file: Path, url: str | None, as_json: bool) -> None:
    lines = enumerate(file.read_text().splitlines(), 1)
    cases = [json_object(line, f"line {number} of {file}") for number, line in lines if line.strip()]
    answer = _send(url, "POST", path("galleries", gallery, "observed"), json={"cases": cases})
    if as_json:
        print_json(answer)
        return
    for name, gain in answer["gains"].items():
        power, bits, cases = f"{gain['power']:.2f}", f"{gain['bits']:.3f}", gain["cases"]
        say(f"{name} counts with a power of {power} and gains {bits} bits on {cases} cases")
        print_table(("group", "bits"), [(group, f"{bits:.3f}") for group, bits in gain["groups"].items()], empty="")


def _gallery(gallery: str, plots: Path | None, url: str | None, as_json: bool) -> None:
    answer = _send(url, "POST", path("galleries", gallery, "calibration"))
    if plots is not None:
        for name, tier in answer["tiers"].items():
            plot(plots, f"{gallery}-{name}", tier["figures"])
    if as_json:
        print_json(answer)
        return
    say(f"Version {answer['version']} of {gallery}, {answer['people']:,} people")
    for name, tier in answer["tiers"].items():
        say(
            f"{'Everybody' if name == 'all' else 'Neighbours'}: {tier['pairs']:,} pairs of two people, "
            f"{tier['doubles']} left out as one person twice; good for rates from {tier['least_fmr']:.1e}"
            f"{_cost(tier['cllr'], tier['min_cllr'])}"
        )
        lines = zip(tier["fmr"], tier["thresholds"], tier["thresholds_low"], tier["thresholds_high"], strict=True)
        rows = [
            (f"{fmr:.1e}", f"{threshold:.3f}", f"{low:.3f} to {high:.3f}")
            for fmr, threshold, low, high in lines
            if fmr <= 2e-2
        ]
        print_table(("FMR", "threshold", "95 % interval"), [*rows], empty="")


def _cost(cllr: float | None, least: float | None) -> str:
    """What the likelihood ratios cost in bits, and what they would if they were right throughout, where it is known."""
    return "" if cllr is None or least is None else f"; Cllr {cllr:.4f} bits, minCllr {least:.4f}"


def _send(url: str | None, method: str, where: str, **request: Any) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        async with connect(url) as service:
            return await service.send(method, where, **request)

    return run(work())


def _model(
    model: str, folder: Path | None, gallery: str | None, plots: Path | None, data: str | None, as_json: bool
) -> None:
    from service.artifact.store import ModelStore  # noqa: PLC0415 - a fast start of the other commands
    from service.recognition import calibrate as calibrating  # noqa: PLC0415 - the same
    from service.settings import load_settings  # noqa: PLC0415 - the same

    settings = load_settings()
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = ModelStore(settings.models)
    manifest = store.manifest(model)
    _ = manifest.dim
    if folder is not None:
        labelled, told = run(_labelled(settings, store, manifest, folder)), f"photos in {folder.name}"
    else:
        labelled, told = _templates(settings, manifest, str(gallery)), f"templates of gallery {gallery}"
    for file, reason in labelled.skipped.items():
        note(f"skipped {file}: {reason}")
    record, figures = calibrating.calibrate(labelled, data=data or told)
    store.change(manifest.model_copy(update={"calibration": record}))
    if plots is not None:
        plot(plots, model, asdict(figures))
    if as_json:
        print_json(record.model_dump())
    else:
        _print(record, manifest)


def _templates(settings: Settings, manifest: Manifest, gallery: str) -> Labelled:
    """The faces of a gallery's people who have several; no service may run on the data folder meanwhile."""
    from service.gallery.catalog import Catalog  # noqa: PLC0415 - a fast start of the other commands
    from service.gallery.folder import DataFolder  # noqa: PLC0415 - the same
    from service.identify.fusion import fuse  # noqa: PLC0415 - the same
    from service.recognition.calibrate import templates_of  # noqa: PLC0415 - the same

    folder = DataFolder.open(settings.data, secret=settings.secret)
    try:
        catalog = Catalog.open(settings.catalog or folder.catalog, secret=folder.secret, fuse=fuse)
        try:
            return templates_of(catalog, gallery, manifest)
        finally:
            catalog.close()
    finally:
        folder.close()


async def _labelled(settings: Settings, store: ModelStore, manifest: Manifest, folder: Path) -> Labelled:
    from service.recognition.calibrate import label, photos_in  # noqa: PLC0415 - a fast start of the other commands
    from service.vision.choice import choose  # noqa: PLC0415 - the same
    from service.vision.encode import Encoder  # noqa: PLC0415 - the same
    from service.vision.reader import reader  # noqa: PLC0415 - the same
    from service.vision.see import Limits  # noqa: PLC0415 - the same
    from service.vision.seeing import Setup  # noqa: PLC0415 - the same

    photos = photos_in(folder)
    streams, memory = settings.streams, settings.data / "engines.json"
    detection = store.manifest(settings.detection_model)
    detector = await asyncio.to_thread(choose, store, detection, wanted="auto", streams=streams, memory=memory)
    recogniser = await asyncio.to_thread(
        choose, store, manifest, wanted=settings.engine, streams=streams, memory=memory
    )
    limits = Limits(LARGEST_PHOTO, settings.max_photo_pixels, settings.max_faces)
    with progress() as display:
        task = display.add_task("reading photos", total=len(photos))
        async with reader(
            Setup((detector.engine.name, store.file(detection)), limits),
            Encoder(recogniser.engine),
            max_batch=settings.batch,
            capacity=settings.queue,
            workers=streams,
        ) as faces:
            return await label(faces, photos, read=lambda: display.advance(task))


def _print(record: CalibrationRecord, manifest: Manifest) -> None:
    say(
        f"{manifest.name} {manifest.version}: {record.people:,} people, {record.mated_pairs:,} mated and "
        f"{record.impostor_pairs:,} impostor pairs{_cost(record.cllr, record.min_cllr)}"
    )
    rows = [
        (f"{fmr:.1e}", f"{threshold:.3f}", f"{100 * fnmr:.2f} %")
        for fmr, threshold, fnmr in zip(record.fmr, record.thresholds, record.fnmr, strict=True)
        if fmr <= 2e-2 or fmr == record.fmr[-1]
    ]
    print_table(("FMR", "threshold", "FNMR"), [*rows], empty="")
