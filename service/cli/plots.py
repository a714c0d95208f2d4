"""Plots of a calibration: score histograms, the trade-off of errors (DET) and reliability, as PNG and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.cli.terminal import note
from service.errors import VultusError


class PlotsError(VultusError):
    """Nothing can be plotted here."""

    status, code, title = 503, "plots_unavailable", "Plots cannot be made here"


def plot(folder: Path, name: str, figures: dict[str, Any]) -> None:
    """Write `name.json` and `name.png` into a folder.

    Args:
        folder: is made where it is not there.
        name: of both files.
        figures: the members of `service.identify.figures.Figures`.

    Raises:
        PlotsError: matplotlib is not installed, or the folder cannot be written; the JSON is written before the PNG.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(figures) + "\n")
    except OSError as error:
        raise PlotsError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra of its own
    except ImportError as error:
        raise PlotsError(
            "plots need the extra `plots`: pip install -c deploy/constraints.txt -e '.[plots]'; "
            f"their numbers are in {folder / name}.json"
        ) from error
    page = Figure(figsize=(13, 4), layout="constrained")
    scores, det, reliability = page.subplots(1, 3)
    middles = [(low + high) / 2 for low, high in zip(figures["edges"], figures["edges"][1:], strict=False)]
    scores.fill_between(middles, figures["impostor"], alpha=0.6, label="two people")
    scores.fill_between(middles, figures["mated"], alpha=0.6, label="one person")
    scores.set(xlabel="cosine", ylabel="density", title="Scores")
    scores.legend()
    det.plot(figures["fmr"], [max(each, 1e-5) for each in figures["fnmr"]], marker=".")
    det.set(xscale="log", yscale="log", xlabel="false-match rate", ylabel="false non-match rate", title="DET")
    reliability.plot([0, 1], [0, 1], color="grey", linewidth=1)
    reliability.plot(figures["predicted"], figures["observed"], marker="o")
    reliability.set(xlabel="stated probability", ylabel="share that was so", title="Reliability")
    for axes in (scores, det, reliability):
        axes.grid(alpha=0.3)
    page.savefig(folder / f"{name}.png", dpi=120)
    note(f"plotted {folder / name}.png")
