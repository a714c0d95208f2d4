"""How long a thread of PyTorch's spins while it waits for another: set by the package, before PyTorch is loaded."""

import os
import subprocess
import sys

import pytest


def spins(module: str, **environment: str) -> str:
    """What GNU OpenMP itself says that it was set to in a process that imports a module."""
    others = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env=others | {"OMP_DISPLAY_ENV": "verbose"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = {line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line}
    return line.split("'")[1]


@pytest.mark.parametrize("module", ["training.train", "training.evaluate", "training.export", "tests.bench.train"])
def test_waiting_is_short(module: str) -> None:
    """Every command that computes with PyTorch runs with the package's count, the bench of training among them."""
    assert spins(module) == "10000"


def test_waiting_is_as_the_user_says() -> None:
    """A user's own count is kept."""
    assert spins("training.train", GOMP_SPINCOUNT="7") == "7"
