"""How long a thread of PyTorch's spins while it waits for another: set by the package, before PyTorch is loaded."""

import os
import subprocess
import sys

import pytest


def spins(**environment: str) -> str:
    """What GNU OpenMP itself says that it was set to in a process of its own."""
    others = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", "import training.train"],
        env=others | {"OMP_DISPLAY_ENV": "verbose"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = {line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line}
    return line.split("'")[1]


@pytest.mark.parametrize(("own", "meant"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_waiting_is_short_unless_the_user_says_otherwise(own: dict[str, str], meant: str) -> None:
    """The training loop's process runs with the package's count; a user's own is kept."""
    assert spins(**own) == meant
