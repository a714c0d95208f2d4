"""What a run says while it goes on: a progress bar, a JSONL file, TensorBoard, and plots at the end.

FOLDER/log.jsonl       one object a logged step, and one an evaluation
FOLDER/events.out...   the same for TensorBoard
FOLDER/*.png           loss, rate, accuracy, and the DET curve of the last evaluation
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from service.artifact.files import write_atomic
from training.plots import plot


class Journal:
    """The journal of one run; on ranks other than the first it writes nothing.

    Args:
        folder: where to.
        total: steps of the run.
        step: steps that are done; what an interrupted run wrote about later ones is removed.
        silent: write nothing.

    Raises:
        OSError: the folder cannot be written or is full; the log is as it was.
    """

    def __init__(self, folder: Path, *, total: int, step: int, silent: bool) -> None:
        self.folder, self.silent = folder, silent
        self._bar = tqdm(total=total, initial=step, disable=True if silent else None, unit="step")
        self._writer: SummaryWriter | None = None
        if not silent:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [line for line in self._lines() if line["step"] <= step]
            write_atomic(self._path(), "".join(json.dumps(line) + "\n" for line in kept).encode())
            self._writer = SummaryWriter(folder, purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def advance(self, steps: int = 1) -> None:
        """Move the progress bar, back too."""
        self._bar.update(steps)

    def write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        """Write figures of a step; `kind` is `train`, `evaluation` or another word without spaces."""
        if self._writer is None:
            return
        with self._path().open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **figures}) + "\n")
        for name, value in figures.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)

    def note(self, text: str) -> None:
        """Say something beside the progress bar."""
        if not self.silent:
            tqdm.write(text)

    def plot(self, det: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None) -> None:
        """Write the plots of everything that the log holds, and of a DET curve (FMR, FNMR)."""
        if self.silent:
            return
        lines = self._lines()
        for kind, name in (("train", "loss"), ("train", "rate"), ("evaluation", "accuracy")):
            points = [(line["step"], line[name]) for line in lines if line["kind"] == kind and name in line]
            if points:
                x, y = np.array(points).T
                plot(self.folder / f"{name}.png", x, y, labels=("step", name), logarithmic=False)
        if det is not None:
            plot(self.folder / "det.png", *det, labels=("false-match rate", "false-non-match rate"), logarithmic=True)

    def _path(self) -> Path:
        return self.folder / "log.jsonl"

    def _lines(self) -> list[dict[str, Any]]:
        """The log's whole lines; a last one that was cut short by a kill is left out."""
        if not self._path().exists():
            return []
        found = []
        for line in self._path().read_text("utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found
