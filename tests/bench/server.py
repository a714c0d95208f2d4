"""A real service in a process of its own, and lean clients for it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from service.artifact.store import ModelStore
from service.gallery import faces, galleries
from service.gallery.catalog import Catalog
from service.gallery.folder import DataFolder
from service.gallery.records import NewTemplate
from service.identify.fusion import fuse
from service.settings import CHECKOUT
from tests.ports import free_port

START_SECONDS = 60.0
PEOPLE_A_TRANSACTION = 500


@dataclass(frozen=True)
class Server:
    """A service that is ready."""

    pid: int
    port: int
    ready_seconds: float

    def resident_mb(self) -> float:
        """Resident memory of the process and of those that it started; pages that they share count once."""
        shares = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in family(self.pid)]
        return sum(int(share.split("\nPss:")[1].split()[0]) for share in shares) / 1024


def family(pid: int) -> list[int]:
    """A process and those that it started, and theirs."""
    found = [pid]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            found += family(int(child))
    return found


@contextmanager
def serving(data: Path, **environment: str) -> Iterator[Server]:
    """Run `vultus serve` over a data folder until the context ends; stopped by its own process id."""
    port = free_port()
    variables = {**os.environ, "VULTUS_DATA": str(data), "VULTUS_PORT": str(port), "VULTUS_LOG_LEVEL": "warning"}
    started = time.perf_counter()
    with (data / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"], env={**variables, **environment}, stdout=log, stderr=log
        )
    try:
        while not is_ready(port):
            if process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                raise RuntimeError((data / "serve.log").read_text()[-2000:])
            time.sleep(0.02)
        yield Server(process.pid, port, time.perf_counter() - started)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


def is_ready(port: int) -> bool:
    """Whether the service answers that it is ready."""
    try:
        with Client(port) as client:
            return client.get("/health/ready")[0] == 200
    except OSError:
        return False


class Client:
    """One connection that is kept open; bodies are prepared beforehand, so that the client costs little."""

    def __init__(self, port: int, *, key: str = "") -> None:
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """GET a path."""
        return self._request("GET", path, None, {})

    def post_json(self, path: str, body: object) -> tuple[int, bytes]:
        """POST a JSON body."""
        return self._request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def post_form(self, path: str, form: bytes) -> tuple[int, bytes]:
        """POST a form made by `form_of`."""
        return self._request("POST", path, form, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        self._connection.request(method, path, body, {**self._headers, **headers})
        answer = self._connection.getresponse()
        return answer.status, answer.read()


BOUNDARY = "vultus" + secrets.token_hex(8)


def form_of(photos: Sequence[bytes]) -> bytes:
    """A multipart form with photos."""
    head = b'Content-Disposition: form-data; name="photo"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    parts = [b"--" + BOUNDARY.encode() + b"\r\n" + head + photo + b"\r\n" for photo in photos]
    return b"".join(parts) + b"--" + BOUNDARY.encode() + b"--\r\n"


def fill(data: Path, gallery: str, people: int, *, seed: int = 0) -> None:
    """Put people with random templates into a gallery, straight into the catalog of a service that is not running."""
    manifest = ModelStore(CHECKOUT / "models").manifest("sface")
    vectors = np.random.default_rng(seed).standard_normal((people, manifest.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = DataFolder.open(data)
    catalog = Catalog.open(folder.catalog, secret=folder.secret, fuse=fuse)
    try:
        with catalog.write() as tx:
            made = galleries.create(tx, gallery, model=manifest.name, model_digest=manifest.digest, dim=manifest.dim)
        for first in range(0, people, PEOPLE_A_TRANSACTION):
            with catalog.write() as tx:
                for number in range(first, min(first + PEOPLE_A_TRANSACTION, people)):
                    template = NewTemplate(f"{number:064x}", vectors[number], 0.8, (0.0, 0.0, 0.0, 0.0))
                    faces.add(tx, made.pk, f"synthetic-{number}", [template], limit=50)
    finally:
        catalog.close()
        folder.close()
