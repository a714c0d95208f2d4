"""A model card in Markdown, from the manifest alone."""

from __future__ import annotations

from service.artifact.manifest import FileEntry, Manifest


def card(manifest: Manifest) -> str:
    """What a model is, may be used for, and was measured to do, each file beside the others."""
    use = "allowed" if manifest.licence.commercial else "not allowed"
    calibrated = "not yet: `vultus calibrate`"
    if manifest.calibration is not None:
        record = manifest.calibration
        calibrated = f"on {record.data}, {record.people} people, {record.date}"
    told = any(name.endswith("_accuracy") for name in manifest.measured)
    return (
        f"# {manifest.name} {manifest.version}\n\n"
        f"Turns aligned faces into embeddings of {manifest.dim} numbers.\n\n"
        f"| | |\n|---|---|\n"
        f"| input | {manifest.input.name}: {manifest.input.shape} {manifest.input.dtype}, {manifest.input.meaning} |\n"
        f"| output | {manifest.outputs[0].name}: {manifest.outputs[0].shape} {manifest.outputs[0].dtype} |\n"
        f"| licence | {manifest.licence.spdx}, commercial use {use} ({manifest.licence.source}) |\n"
        f"| trained on | {manifest.provenance.data} |\n"
        f"| by | {manifest.provenance.recipe} |\n"
        f"| code | {manifest.provenance.commit} |\n"
        f"| calibrated | {calibrated} |\n\n"
        f"{_files(manifest)}\n"
        f"{'Accuracy is of the set in its name' if told else 'No accuracy was measured'}; how often the model is wrong "
        f"where it is used is for\n`vultus calibrate` to say, on photos from there.\n"
    )


def _files(manifest: Manifest) -> str:
    """One column a file, one row a figure."""
    files: list[tuple[str, FileEntry, dict[str, float]]] = [("float32", manifest.file, manifest.measured)]
    files += [(each.precision, each.file, each.measured) for each in manifest.variants]
    names = list(dict.fromkeys(name for _, _, measured in files for name in measured))
    rows = [
        ["", *(precision for precision, _, _ in files)],
        ["---"] * (len(files) + 1),
        ["file", *(entry.name for _, entry, _ in files)],
        ["megabytes", *(f"{entry.bytes / 1e6:.2f}" for _, entry, _ in files)],
        ["SHA-256", *(f"`{entry.sha256}`" for _, entry, _ in files)],
        *([name, *(_number(measured.get(name)) for _, _, measured in files)] for name in names),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
