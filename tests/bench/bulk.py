"""Bulk imports: `python -m tests.bench.bulk [--kills N]`.

`bulk_over_loop` is photos per second of an import of LFW, from the request to its last commit, over those of the plain
in-process loop decode, detect, align, encode on all cores, in turns in one run. `rerun_speedup` is how much faster the
same import is a second time, which must change nothing. `rss_growth_mb` is how much the resident memory of the service
and its helpers grew after the first minute of importing (a third of a shorter run). `embeddings_per_second` counts
ready embeddings, durable and to be found, a person each; one line a catalog. `identify_p99_ratio` is the 99th
percentile of identify at a third of its full load beside an import, over that without one; an import that ends too soon
stops the bench. With `--kills`, imports are killed with SIGKILL at random moments and resumed (`.bulk_kills`).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from tests.bench.lfw_data import load_lfw, person_of
from tests.bench.loop import Loop
from tests.bench.report import Report, fresh_settings, note, parser
from tests.bench.server import Client, Server, form_of, serving
from tests.servers import postgres

READY, QUICK_READY = 200_000, 20_000
QUICK_PHOTOS = 480
TURNS = 3
LIVE_SECONDS, QUICK_LIVE_SECONDS = 24.0, 8.0


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--kills", type=int, default=0, help="kill so many imports, and nothing else")
    options.add_argument("--only", choices=["photos", "ready", "live"], help="one part of the figures")
    options.add_argument("--photos", type=int, help="so many photos in place of all")
    asked = options.parse_args()
    report = Report("bulk")
    if asked.kills:
        from tests.bench.bulk_kills import kill_again_and_again

        outcome = kill_again_and_again(asked.kills)
        for figure, value in outcome.figures().items():
            report.figure(figure, value, "", kills=outcome.kills, photos=outcome.photos, resumed=outcome.resumed)
        report.table()
        return
    lfw = load_lfw(asked.data) if asked.only != "ready" else None
    with tempfile.TemporaryDirectory(prefix="vultus-bulk-") as name:
        root = Path(name)
        if lfw is not None:
            names = sorted(lfw.photos)[: asked.photos or (QUICK_PHOTOS if asked.quick else None)]
            photos = {photo: lfw.photos[photo] for photo in names}
            folder = laid_out(root, photos)
            if asked.only != "live":
                photos_per_second(report, root, folder, photos, turns=2 if asked.quick else TURNS)
            if asked.only != "photos":
                live(report, root, folder, list(photos.values()), QUICK_LIVE_SECONDS if asked.quick else LIVE_SECONDS)
        if asked.only in {None, "ready"}:
            ready(report, root, QUICK_READY if asked.quick else READY)
    report.table()


def laid_out(root: Path, photos: dict[str, bytes]) -> Path:
    """The photos as files, a folder a person."""
    folder = root / "people"
    for name, data in photos.items():
        (folder / person_of(name)).mkdir(parents=True, exist_ok=True)
        (folder / person_of(name) / f"{name}.jpg").write_bytes(data)
    return folder


@dataclass
class Watched:
    """A service, and its resident memory together with its helpers', as (seconds since it was watched, MB)."""

    server: Server
    memory: list[tuple[float, float]]
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long it has been watched."""
        return time.perf_counter() - self.began

    def job(self, gallery: str, body: dict[str, Any], *, wait: bool = True) -> dict[str, Any]:
        """Import, and give the job as it ended, with `seconds` from the request to the end."""
        where = f"/v1/galleries/{gallery}/imports"
        with Client(self.server.port) as client:
            started = time.perf_counter()
            status, answer = client.post_json(where, body)
            if status != 201:
                raise RuntimeError(answer.decode())
            job = json.loads(answer)
            while wait and job["ended_at"] is None:
                time.sleep(0.01)
                job = json.loads(client.get(f"{where}/{job['import']}")[1])
        if wait and job["state"] != "done":
            raise RuntimeError(str(job))
        return {**job, "seconds": time.perf_counter() - started}

    def gallery(self, name: str) -> None:
        """Make a gallery."""
        with Client(self.server.port) as client:
            client.post_json("/v1/galleries", {"name": name})

    def state(self, name: str) -> dict[str, Any]:
        """A gallery."""
        with Client(self.server.port) as client:
            return json.loads(client.get(f"/v1/galleries/{name}")[1])


@contextmanager
def watched(data: Path, root: Path, **environment: str) -> Iterator[Watched]:
    """A service that may import from a folder, its memory watched."""
    if (root / "engines.json").exists():
        shutil.copy(root / "engines.json", data)  # measured once
    with serving(data, VULTUS_IMPORT_ROOT=str(root), **environment) as server:
        ended, seen = threading.Event(), Watched(server, [])

        def watch() -> None:
            while not ended.wait(0.5):
                seen.memory.append((seen.seconds, resident_mb(server.pid)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield seen
        finally:
            ended.set()
            watcher.join()


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its children."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue  # it has just ended
        if int(facts["Pid"]) == pid or int(facts["PPid"]) == pid:
            total += int(facts.get("VmRSS", "0 kB").split()[0]) / 1024
    return total


def photos_per_second(report: Report, root: Path, folder: Path, photos: dict[str, bytes], *, turns: int) -> None:
    """The import against the loop, in turns: of all photos at once where there is one turn, else of parts."""
    with fresh_settings() as data:
        loop = Loop(engine="auto", memory=data / "engines.json")
        note(f"the service chooses {loop.chosen.engine.name}")
        shutil.copy(data / "engines.json", root)
        people = sorted(folder.iterdir())
        parts = [people[turn::turns] for turn in range(turns)]
        ratios, rates, loops, again, state, importing = [], [], [], [], {}, float("inf")
        with watched(data, root) as service:
            service.gallery("lfw")
            warm_up(service, folder)
            began = time.perf_counter()
            for turn, part in enumerate(parts):
                half = root / f"turn{turn}"
                half.mkdir()
                for person in part:
                    (half / person.name).symlink_to(person)
                mine = [photos[file.stem] for person in part for file in sorted(person.iterdir())]
                started = time.perf_counter()
                loop.embed(mine)
                loops.append(len(mine) / (time.perf_counter() - started))
                importing = min(importing, service.seconds)
                first = service.job("lfw", {"path": half.name})
                rates.append(len(mine) / first["seconds"])
                ratios.append(rates[-1] / loops[-1])
                if first["total"] != len(mine):
                    raise RuntimeError("the report lacks photos")
            whole = time.perf_counter() - began
            state = service.state("lfw")
            for turn, rate in enumerate(rates):
                second = service.job("lfw", {"path": f"turn{turn}"})
                again.append(second["total"] / second["seconds"] / rate)
            if service.state("lfw") != state:
                raise RuntimeError("a second run changed the gallery")
            # From the end of the first minute of importing on, or of its first third.
            memory = [value for seconds, value in service.memory if seconds > importing + min(60.0, whole / 6)]
            growth = max(memory, default=0.0) - (memory[0] if memory else 0.0)
    report.figure(
        "bulk_over_loop",
        round(statistics.median(ratios), 3),
        "x",
        photos=len(photos),
        bulk=round(statistics.median(rates), 1),
        loop=round(statistics.median(loops), 1),
        least=round(min(ratios), 2),
        most=round(max(ratios), 2),
        enrolled=state["faces"],
    )
    report.figure(
        "rerun_speedup", round(statistics.median(again), 1), "x", photos=len(photos), least=round(min(again), 1)
    )
    report.figure("rss_growth_mb", round(growth, 1), "MB", photos=len(photos), resident=round(max(memory, default=0.0)))


def warm_up(service: Watched, folder: Path) -> None:
    """Start the helpers, as the loop has its engines loaded too."""
    service.gallery("warm")
    first = next(folder.iterdir())
    few = folder.parent / "warm"
    few.mkdir(exist_ok=True)
    if not (few / first.name).exists():
        (few / first.name).symlink_to(first)
    service.job("warm", {"path": few.name})


def live(report: Report, root: Path, folder: Path, photos: list[bytes], seconds: float) -> None:
    """identify at a third of its full load, without and with an import beside it."""
    forms = [form_of([photo]) for photo in photos[:200]]
    with fresh_settings() as data, watched(data, root) as service:
        service.gallery("live")
        warm_up(service, folder)
        service.gallery("beside")
        full = paced(service.server.port, forms, seconds / 2, None)
        rate = len(full) / (seconds / 2) / 3
        quiet = np.percentile(paced(service.server.port, forms, seconds, rate), 99)
        job = service.job("beside", {"path": folder.name}, wait=False)
        beside = np.percentile(paced(service.server.port, forms, seconds, rate), 99)
        with Client(service.server.port) as client:
            client.get("/health/live")
            after = json.loads(client.get(f"/v1/galleries/beside/imports/{job['import']}")[1])
    still_running(after)
    report.figure(
        "identify_p99_ratio",
        round(float(beside / quiet), 2),
        "x",
        quiet_ms=round(float(quiet), 1),
        beside_ms=round(float(beside), 1),
        identify_per_second=round(rate, 1),
        photos_per_second=after["per_second"],
    )


def still_running(job: dict[str, Any]) -> None:
    """Stop the bench where an import was not under way all the time that it was measured beside."""
    if job["state"] != "running":
        raise SystemExit(
            f"the import is {job['state']} after {job['done']} photos, so nothing was measured beside it: "
            "take more photos (--data), or fewer seconds"
        )


def paced(port: int, forms: list[bytes], seconds: float, rate: float | None) -> list[float]:
    """Milliseconds of each identify: as fast as eight clients can, or at so many a second, whoever waits for whom."""
    spent: list[float] = []
    number, lock = 0, threading.Lock()
    began = time.perf_counter()

    def client() -> None:
        nonlocal number
        with Client(port) as connection:
            while True:
                with lock:
                    mine, number = number, number + 1
                due = began + (mine / rate if rate else 0.0)
                if max(due, time.perf_counter()) - began > seconds:
                    return
                time.sleep(max(0.0, due - time.perf_counter()))
                started = max(due, began) if rate else time.perf_counter()
                status, body = connection.post_form("/v1/galleries/live/identify", forms[mine % len(forms)])
                if status != 200:
                    raise RuntimeError(body.decode())
                spent.append(1000 * (time.perf_counter() - started))

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return spent


def ready(report: Report, root: Path, count: int) -> None:
    """Ready embeddings into an empty gallery of each catalog."""
    dim = ModelStore(CHECKOUT / "models").manifest("sface").dim
    vectors = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(root / "ready.npy", vectors)
    (root / "ready.csv").write_text("person\n" + "".join(f"p{number}\n" for number in range(count)))
    body = {"path": "ready.csv", "embeddings": "ready.npy"}
    for catalog in ("sqlite", "postgresql"):
        with fresh_settings(VULTUS_ENGINE="onnxruntime") as data:
            if catalog == "sqlite":
                rate = ready_into(data, root, body)
            else:
                with postgres(durable=True) as server:
                    rate = ready_into(data, root, body, VULTUS_CATALOG=server.database())
        report.figure("embeddings_per_second", round(rate), "1/s", catalog=catalog, embeddings=count)


def made_key(settings: dict[str, str]) -> str:
    """A key that may do everything."""
    scopes = [word for scope in ("read", "enroll", "manage", "embed") for word in ("--scope", scope)]
    command = [sys.executable, "-m", "service", "keys", "create", "--label", "bench", "--json", *scopes]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["text"])


def ready_into(data: Path, root: Path, body: dict[str, Any], **environment: str) -> float:
    """Ready embeddings a second."""
    with serving(data, VULTUS_IMPORT_ROOT=str(root), **environment) as service:
        key = made_key({"VULTUS_DATA": str(data), **environment})
        with Client(service.port, key=key) as client:
            client.post_json("/v1/galleries", {"name": "ready"})
            started = time.perf_counter()
            status, answer = client.post_json("/v1/galleries/ready/imports", body)
            if status != 201:
                raise RuntimeError(answer.decode())
            job = json.loads(answer)
            while job["ended_at"] is None:
                time.sleep(0.02)
                job = json.loads(client.get(f"/v1/galleries/ready/imports/{job['import']}")[1])
            seconds = time.perf_counter() - started
        if job["outcomes"]["enrolled"] != job["total"]:
            raise RuntimeError(str(job))
    return job["total"] / seconds


if __name__ == "__main__":
    main()
