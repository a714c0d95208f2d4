"""How every bench reports: one JSON object a line on stdout, a table for people on stderr."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass
class Report:
    """The figures of one run of a bench."""

    bench: str
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def figure(self, figure: str, value: float, unit: str, **more: Any) -> None:
        """Print a figure at once, so that a bench that is cut short has said what it knew."""
        print(json.dumps({"bench": self.bench, "figure": figure, "value": value, "unit": unit, **more}), flush=True)
        self.rows.append(
            (figure, f"{value:.5g}", unit, escape(", ".join(f"{key} {item}" for key, item in more.items())))
        )

    def table(self) -> None:
        """Print all figures as a table."""
        table = Table(title=f"{self.bench} on {os.cpu_count()} cores, {platform.machine()}")
        for heading in ("figure", "value", "unit", "more"):
            table.add_column(heading)
        for row in self.rows:
            table.add_row(*row)
        Console(stderr=True, width=150).print(table)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every bench has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--quick", action="store_true", help="within a minute, from less data")
    options.add_argument("--data", type=Path, help="folder that holds lfw/ (default: ../shared/data)")
    return options


@contextmanager
def fresh_settings(**environment: str) -> Iterator[Path]:
    """A temporary data folder, with `VULTUS_*` variables set for the time being."""
    with tempfile.TemporaryDirectory(prefix="vultus-bench-") as folder:
        wanted = {"VULTUS_DATA": folder, **environment}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def chart(
    out: Path | None,
    name: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Plot lines (xs, ys) by their labels into `out`/`name`.png, where a folder was asked for."""
    if out is None:
        return
    from matplotlib.figure import Figure

    out.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, (xs, ys) in lines.items():
        axes.plot(xs, ys, marker="o", label=label)
    axes.set(xlabel=x, ylabel=y, xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(out / f"{name}.png", dpi=120)
    note(f"plotted {out / name}.png")


def note(text: str) -> None:
    """Tell whoever watches what is going on."""
    print(text, file=sys.stderr, flush=True)
