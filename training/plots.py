"""Curves as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def plot(
    path: Path,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    labels: tuple[str, str],
    logarithmic: bool,
) -> None:
    """Draw one curve; error rates go on logarithmic axes."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, y)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1e-4)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120)
