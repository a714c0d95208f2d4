"""The service under load: `python -m tests.bench.load`.

`rest_over_loop` is faces per second through REST with 8 clients over faces per second of the in-process loop decode,
detect, align, encode, on the same cores (the clients use them too), in turns in one run, over photos with one face
each. Latencies and rates are given for 1, 8 and 64 clients; `ready_s` and `resident_mb` are of a service with 10,000
people. `processor_ms` says where the time goes: of the loop, of the service and of its clients; it depends less than a
rate on whatever else the machine is doing.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tests.bench.clients import Turn, drive, request
from tests.bench.lfw_data import load_lfw
from tests.bench.loop import Loop
from tests.bench.report import Report, fresh_settings, note, parser
from tests.bench.server import Server, family, fill, form_of, serving

PEOPLE = 10_000
GALLERY = "load"
CLIENTS = (1, 8, 64)
TURNS, QUICK_TURNS = 7, 2
TURN_SECONDS, QUICK_SECONDS = 6.0, 4.0


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
    loop_ms, rest_ms, client_ms = [], [], []
    part = photos[: max(16, int(len(photos) * min(1.0, seconds / 10)))]
    for turn in range(turns):
        started, used = time.perf_counter(), processor_ms()
        _, stages = loop.embed(part)
        loops.append(stages.faces / (time.perf_counter() - started))
        loop_ms.append((processor_ms() - used) / stages.faces)
        used, served = processor_ms(), processor_ms(server.pid)
        seen = asking(server, verb, photos, 8, seconds, label=f"{verb}-{turn}")
        rests.append(seen.faces_per_second)
        client_ms.append((processor_ms() - used) / len(seen.milliseconds))
        rest_ms.append((processor_ms(server.pid) - served) / len(seen.milliseconds))
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
    for side, spent in (("loop", loop_ms), ("service", rest_ms), ("clients", client_ms)):
        report.figure("processor_ms", round(statistics.median(spent), 2), "ms a face", verb=verb, side=side)


def latencies(report: Report, server: Server, photos: list[bytes], clients: int, seconds: float) -> None:
    """What a number of clients sees of identify."""
    seen = asking(server, "identify", photos, clients, 2 * seconds, label=f"clients-{clients}")
    report.figure("faces_per_second", round(seen.faces_per_second, 1), "faces/s", clients=clients, refused=seen.refused)
    for share in (50, 95, 99):
        value = float(np.percentile(seen.milliseconds, share))
        report.figure(f"p{share}_ms", round(value, 1), "ms", clients=clients, answers=len(seen.milliseconds))


def asking(server: Server, verb: str, photos: list[bytes], clients: int, seconds: float, *, label: str) -> Turn:
    """Clients that identify, or that enrol somebody new with each request."""
    forms = [form_of([photo]) for photo in photos]

    def requests() -> Iterator[bytes]:
        for number in itertools.count():
            path = "identify" if verb == "identify" else f"people/{label}-{number}/faces"
            yield request(f"/v1/galleries/{GALLERY}/{path}", forms[number % len(forms)])

    return drive(server.port, requests(), clients, seconds)


def processor_ms(pid: int | None = None) -> float:
    """Milliseconds of processor time that a process, or this one, has used."""
    if pid is None:
        return 1000 * time.process_time()
    spent = 0
    for each in family(pid):
        threads = Path(f"/proc/{each}/task").iterdir()
        spent += sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
    return spent / 1e6


if __name__ == "__main__":
    main()
