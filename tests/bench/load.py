"""The service under load: `python -m tests.bench.load`.

`rest_over_loop` is faces per second through REST with 8 clients over faces per second of the in-process loop decode,
detect, align, encode, on the same cores (the clients use them too), in turns in one run, over photos with one face
each. Latencies and rates are given for 1, 8 and 64 clients; `ready_s` and `resident_mb` are of a service with 10,000
people.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tests.bench.lfw_data import load_lfw
from tests.bench.loop import Loop
from tests.bench.report import Report, fresh_settings, note, parser
from tests.bench.server import Client, Server, fill, form_of, serving

PEOPLE = 10_000
GALLERY = "load"
CLIENTS = (1, 8, 64)
TURNS, QUICK_TURNS = 7, 2
TURN_SECONDS, QUICK_SECONDS = 6.0, 4.0


@dataclass(frozen=True)
class Turn:
    """What some clients saw in some seconds."""

    faces_per_second: float
    milliseconds: np.ndarray
    refused: int


def main() -> None:
    asked = parser(__doc__ or "").parse_args()
    lfw = load_lfw(asked.data)
    report = Report("load")
    turns, seconds = (QUICK_TURNS, QUICK_SECONDS) if asked.quick else (TURNS, TURN_SECONDS)
    with fresh_settings() as folder:
        loop = Loop(engine="auto", memory=folder / "engines.json")
        note(f"the service chooses {loop.chosen.engine.name}")
        photos = single_faces(loop, [lfw.photos[name] for name in sorted(lfw.photos)[:: 40 if asked.quick else 15]])
        fill(folder, GALLERY, 1_000 if asked.quick else PEOPLE)
        with serving(folder) as first:
            note(f"first start after {first.ready_seconds:.2f} s, without a snapshot")
        with serving(folder) as server:
            report.figure("ready_s", round(server.ready_seconds, 3), "s", people=1_000 if asked.quick else PEOPLE)
            report.figure("resident_mb", round(server.resident_mb(), 1), "MB", moment="ready")
            for verb in ("identify", "enroll"):
                compare(report, verb, server, loop, photos, turns, seconds)
            for clients in CLIENTS:
                latencies(report, server, photos, clients, seconds)
            report.figure("resident_mb", round(server.resident_mb(), 1), "MB", moment="after the load")
    report.table()


def single_faces(loop: Loop, photos: list[bytes]) -> list[bytes]:
    """Photos that show one face, so that both sides count the same."""
    with ThreadPoolExecutor(loop.threads) as pool:
        counts = list(pool.map(lambda photo: len(loop.crops(photo)), photos))
    return [photo for photo, count in zip(photos, counts, strict=True) if count == 1]


def compare(
    report: Report, verb: str, server: Server, loop: Loop, photos: list[bytes], turns: int, seconds: float
) -> None:
    """REST with 8 clients against the loop, in turns."""
    loops, rests, refused = [], [], 0
    for turn in range(turns):
        started = time.perf_counter()
        part = photos[: max(16, int(len(photos) * min(1.0, seconds / 10)))]
        _, stages = loop.embed(part)
        loops.append(stages.faces / (time.perf_counter() - started))
        seen = drive(server, verb, photos, 8, seconds, label=f"{verb}-{turn}")
        rests.append(seen.faces_per_second)
        refused += seen.refused
    ratios = [rest / plain for rest, plain in zip(rests, loops, strict=True)]
    report.figure(
        "rest_over_loop",
        round(statistics.median(ratios), 3),
        "x",
        verb=verb,
        clients=8,
        rest=round(statistics.median(rests), 1),
        loop=round(statistics.median(loops), 1),
        least=round(min(ratios), 2),
        most=round(max(ratios), 2),
        refused=refused,
    )


def latencies(report: Report, server: Server, photos: list[bytes], clients: int, seconds: float) -> None:
    """What a number of clients sees of identify."""
    seen = drive(server, "identify", photos, clients, 2 * seconds, label=f"clients-{clients}")
    report.figure("faces_per_second", round(seen.faces_per_second, 1), "faces/s", clients=clients, refused=seen.refused)
    for share in (50, 95, 99):
        value = float(np.percentile(seen.milliseconds, share))
        report.figure(f"p{share}_ms", round(value, 1), "ms", clients=clients, answers=len(seen.milliseconds))


def drive(server: Server, verb: str, photos: list[bytes], clients: int, seconds: float, *, label: str) -> Turn:
    """Let clients ask, each its next question as soon as it has an answer."""
    forms = [form_of([photo]) for photo in photos]
    number, lock = itertools.count(), threading.Lock()
    spent: list[float] = []
    refused = itertools.count()
    begun = time.perf_counter()

    def client() -> None:
        mine = []
        with Client(server.port) as connection:
            while time.perf_counter() - begun < seconds:
                place = next(number)
                path = f"/v1/galleries/{GALLERY}/identify"
                if verb == "enroll":
                    path = f"/v1/galleries/{GALLERY}/people/{label}-{place}/faces"
                started = time.perf_counter()
                status, _ = connection.post_form(path, forms[place % len(forms)])
                if status in {200, 201}:
                    mine.append(time.perf_counter() - started)
                elif status in {422, 429}:
                    next(refused)
                else:
                    raise RuntimeError(f"{verb} was answered with {status}")
        with lock:
            spent.extend(mine)

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    wall = time.perf_counter() - begun
    return Turn(len(spent) / wall, 1000 * np.array(spent), next(refused))


if __name__ == "__main__":
    main()
