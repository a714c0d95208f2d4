"""Real processes: the command line as its users start it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from typer.testing import CliRunner

from service.cli import app
from service.settings import CHECKOUT

SECONDS = 60


def environment(data: Path, **settings) -> dict[str, str]:
    """This process' variables, with no setting but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VULTUS_")}
    # Measuring the engines would make each first start slow, and the answers differ by machine.
    given = {"data": data, "port": 0, "engine": "onnxruntime", **settings}
    return {
        **kept,
        "PYTHONPATH": str(CHECKOUT),
        **{f"VULTUS_{name.upper()}": str(value) for name, value in given.items()},
    }


def vultus(*words: str, data: Path, **settings) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "service", *words]
    return subprocess.run(
        command, env=environment(data, **settings), capture_output=True, text=True, timeout=SECONDS, check=False
    )


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def typed(*words: str, data: Path, **settings) -> Done:
    """Run a command in this process, which is quicker than in one of its own."""
    cleared = {name: None for name in os.environ if name.startswith("VULTUS_")}
    given = {name: value for name, value in environment(data, **settings).items() if name.startswith("VULTUS_")}
    done = CliRunner().invoke(app, words, env=cleared | given)
    return Done(done.exit_code, done.stdout, done.stderr)


@dataclass
class Running:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    data: Path
    log: Path
    said: str

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Send a signal, and give the exit code."""
        self.process.send_signal(how)
        return self.process.wait(SECONDS)

    def client(self, **options) -> httpx.Client:
        """A client of the service."""
        return httpx.Client(base_url=self.url, timeout=SECONDS, **options)


@contextlib.contextmanager
def serving(data: Path, **settings) -> Iterator[Running]:
    """A service that is ready; it is killed at the end if it still runs."""
    log = data.parent / f"{data.name}.log"
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            env=environment(data, **settings),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        said = announced(process)
        assert "ready at" in said, log.read_text()
        yield Running(process, said.split("ready at", 1)[1].split()[0], data, log, said)
    finally:
        process.kill()
        process.wait(SECONDS)
        process.stdout.close()


def announced(process: subprocess.Popen[str]) -> str:
    """What a service says when it is ready, or what it said before it ended."""
    said, deadline = "", time.monotonic() + SECONDS
    for line in process.stdout:
        said += line
        if "stop it" in line or time.monotonic() > deadline:
            break
    return said
