"""`vultus doctor`: whether everything that the service needs is there, and what to do where it is not."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.markup import escape

from service.cli.connection import AsJson
from service.cli.terminal import print_json, say
from service.errors import EngineAbsentError, ModelError, VultusError

if TYPE_CHECKING:
    from service.settings import Settings

LEAST_PYTHON: Final = (3, 11)
LEAST_FREE: Final = 1 << 30
"""Bytes that a data folder should have to spare."""

LIBRARIES: Final = {
    "numpy": "numpy",
    "pillow": "PIL",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "faiss": "faiss",
    "sqlalchemy": "sqlalchemy",
    "fastapi": "fastapi",
}
"""What the service cannot do without, and the module to import."""

CPU_FEATURES: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        part: what was looked at.
        fine: whether it is as it should be.
        says: what was found, and what to do where that is not fine.
    """

    part: str
    fine: bool
    says: str


def doctor(as_json: AsJson = False) -> None:
    """Check Python, libraries, models, engines, data, PostgreSQL, Redis and port; exit 1 if anything is wrong."""
    from service.settings import load_settings  # noqa: PLC0415 - a fast start of the other commands

    settings = load_settings()
    found: list[Finding] = []
    for finding in _examine(settings):
        found.append(finding)
        if not as_json:
            mark = "[green]ok     [/green]" if finding.fine else "[red]problem[/red]"
            say(f"{mark}  {escape(f'{finding.part:<18} {finding.says}')}")
    if as_json:
        print_json([vars(finding) for finding in found])
    if not all(finding.fine for finding in found):
        raise typer.Exit(1)


def _examine(settings: Settings) -> Iterator[Finding]:
    yield _python()
    yield from _libraries()
    yield _processor()
    yield from _models(settings)
    yield _data(settings.data)
    yield from _shared(settings)
    yield _port(settings.host, settings.port)


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    fine = sys.version_info >= LEAST_PYTHON
    return Finding("python", fine, version if fine else f"{version}; Vultus needs 3.11 or newer")


def _libraries() -> Iterator[Finding]:
    for name, module in LIBRARIES.items():
        try:
            found = import_module(module)
        except ImportError as error:
            yield Finding(
                name, fine=False, says=f"{error}; install with: pip install -c deploy/constraints.txt '.[cpu]'"
            )
        else:
            yield Finding(name, fine=True, says=str(getattr(found, "__version__", "there")))


def _processor() -> Finding:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return Finding("processor", fine=True, says=f"{os.cpu_count()} cores, features unknown")
    words = set(text.split())
    features = [each for each in CPU_FEATURES if each in words]
    return Finding("processor", fine=True, says=f"{os.cpu_count()} cores, {' '.join(features) or 'no AVX2: slow'}")


def _models(settings: Settings) -> Iterator[Finding]:
    from service.artifact.store import ModelStore  # noqa: PLC0415 - after the libraries were found
    from service.vision import choice  # noqa: PLC0415 - the same

    store = ModelStore(settings.models)
    for name in (settings.detection_model, settings.recognition_model):
        part = f"model {name}"
        try:
            manifest = store.manifest(name)
            store.file(manifest)
            probe = choice.Probe(store, manifest)
            candidates = choice.candidates(store, manifest, 1)
        except ModelError as error:
            yield Finding(part, fine=False, says=error.detail)
            continue
        except VultusError as error:
            yield Finding(part, fine=False, says=f"{error.detail}; VULTUS_MODELS names the folder")
            continue
        calibrated = manifest.task != "recognition" or manifest.calibration is not None
        yield Finding(
            part,
            calibrated,
            f"{manifest.version}, whole"
            if calibrated
            else f"no calibration; `vultus calibrate {name} FOLDER` makes one",
        )
        for candidate in candidates.values():
            engine = f"{name} {candidate.name}"
            try:
                _, parity = probe.check(candidate)
                yield Finding(engine, fine=True, says=f"reproduces the sample at a cosine of {parity:.6f}")
            except EngineAbsentError as error:
                yield Finding(engine, fine=True, says=f"not used: {error.detail}")
            except ModelError as error:
                yield Finding(engine, fine=False, says=f"not used: {error.detail}")


def _data(folder: Path) -> Finding:
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("data", fine=False, says=f"{folder} cannot be written; VULTUS_DATA names another folder")
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE:
        return Finding("data", fine=False, says=f"{folder} has only {free >> 20} MiB left; make space")
    return Finding("data", fine=True, says=f"{folder}, {free / (1 << 30):.0f} GiB free")


def _shared(settings: Settings) -> Iterator[Finding]:
    """PostgreSQL and Redis, where they are configured."""
    from service.gallery.postgresql import PostgresStorage  # noqa: PLC0415 - after the libraries were found
    from service.shared.redis_store import InRedis  # noqa: PLC0415 - the same

    if settings.catalog:
        try:
            storage = PostgresStorage.at(settings.catalog)
            try:
                yield Finding("catalog", fine=True, says=f"PostgreSQL {storage.version()} lets this user in")
            finally:
                storage.dispose()
        except VultusError as error:
            yield Finding("catalog", fine=False, says=f"{error.detail}; VULTUS_CATALOG names another one")
    if settings.redis:
        try:
            shared = InRedis(settings.redis, "doctor")
        except VultusError as error:
            yield Finding("redis", fine=False, says=f"{error.detail}; VULTUS_REDIS names another one")
            return
        up = shared.state == "up"
        shared.close()
        says = "answers" if up else "does not answer; replicas go on alone meanwhile"
        yield Finding("redis", fine=up, says=says)


def _port(host: str, port: int) -> Finding:
    import httpx  # noqa: PLC0415 - a fast start of the other commands

    try:
        with socket.create_connection((host, port), timeout=1):
            pass
    except OSError:
        return Finding("port", fine=True, says=f"{port} of {host} is free")
    try:
        live = httpx.get(f"http://{host}:{port}/health/live", timeout=2, trust_env=False).json() == {"status": "live"}
    except (httpx.HTTPError, ValueError):
        live = False
    if live:
        return Finding("port", fine=True, says=f"{port} of {host}: a Vultus service runs there")
    return Finding(
        "port", fine=False, says=f"{port} of {host} is taken by another program; VULTUS_PORT chooses another"
    )
