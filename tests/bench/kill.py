"""What survives a kill: `python -m tests.bench.kill [--kills 100]`.

A service enrols photos for several clients at once and is killed with SIGKILL at a random moment, again and again.
After each kill every face that was acknowledged must be in the catalog, every person whole (count, templates and fused
vector agree), and a repeated request with the same Idempotency-Key must give the answer of the first. At the end each
person is identified by an enrolled photo. The photos are ORL faces (AT&T Laboratories Cambridge).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from service.gallery import faces, galleries, people
from service.gallery.catalog import Catalog
from service.gallery.folder import DataFolder
from service.identify.fusion import fuse
from tests.bench.report import Report, fresh_settings, note, parser
from tests.bench.server import Server, serving
from tests.faces import orl

GALLERY = "kill"
CLIENTS = 4
LONGEST_LIFE = 1.2


@dataclass
class Ledger:
    """What the clients were told."""

    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)
    photos: dict[str, Path] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    interrupted: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Outcome:
    """What a run of kills found."""

    kills: int
    acknowledged: int
    interrupted: int
    lost: int
    half: int
    answered_differently: int
    not_identified: int


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--kills", type=int, default=100)
    asked = options.parse_args()
    report = Report("kill")
    with fresh_settings(VULTUS_ENGINE="onnxruntime") as folder:
        outcome = kill_again_and_again(folder, 5 if asked.quick else asked.kills)
    for figure in ("lost", "half", "answered_differently", "not_identified"):
        report.figure(
            figure,
            getattr(outcome, figure),
            "faces",
            kills=outcome.kills,
            acknowledged=outcome.acknowledged,
            interrupted=outcome.interrupted,
        )
    report.table()


def kill_again_and_again(data: Path, kills: int, *, seed: int = 0) -> Outcome:
    """Kill the service and look, `kills` times."""
    chance = random.Random(seed)
    ledger = Ledger()
    lost = half = differing = 0
    for round_ in range(kills):
        with serving(data) as server:
            if round_ == 0:
                httpx.post(f"http://127.0.0.1:{server.port}/v1/galleries", json={"name": GALLERY}).raise_for_status()
            differing += asked_again(server, ledger)
            enroll_until_killed(server, ledger, round_, chance)
        found_lost, found_half = inspect(data, ledger)
        lost, half = lost + found_lost, half + found_half
        note(f"killed {round_ + 1} of {kills}: {len(ledger.acknowledged)} acknowledged, {lost} lost, {half} half")
    with serving(data) as server:
        differing += asked_again(server, ledger)
        missed = not_identified(server, ledger)
    return Outcome(kills, len(ledger.acknowledged), ledger.interrupted, lost, half, differing, missed)


def enroll_until_killed(server: Server, ledger: Ledger, round_: int, chance: random.Random) -> None:
    """Clients enrol new people as fast as they can until the service dies."""
    everybody = sorted(orl().glob("s*"))
    lives = chance.uniform(0.0, LONGEST_LIFE)

    def client(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as connection:
            for place in range(10_000):
                person = f"r{round_}-c{number}-{place}"
                photo = everybody[(7 * number + place) % len(everybody)] / f"{1 + place % 10}.pgm"
                with ledger.lock:
                    ledger.photos[person] = photo
                try:
                    answer = enroll(connection, person, photo)
                except httpx.TransportError:
                    with ledger.lock:
                        ledger.unanswered.append(person)
                        ledger.interrupted += 1
                    return
                answer.raise_for_status()
                with ledger.lock:
                    ledger.acknowledged[person] = answer.json()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in clients:
        thread.start()
    time.sleep(lives)
    os.kill(server.pid, signal.SIGKILL)
    for thread in clients:
        thread.join()


def enroll(connection: httpx.Client, person: str, photo: Path) -> httpx.Response:
    """Enrol one photo under a key of its own."""
    path = f"/v1/galleries/{GALLERY}/people/{person}/faces"
    return connection.post(path, files={"photo": photo.read_bytes()}, headers={"Idempotency-Key": f"key-{person}"})


def asked_again(server: Server, ledger: Ledger) -> int:
    """Repeat the youngest requests; how many are answered otherwise than the first time, or not at all."""
    differing = 0
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as connection:
        for person in list(ledger.acknowledged)[-3:]:
            answer = enroll(connection, person, ledger.photos[person])
            differing += answer.status_code != 201 or answer.json() != ledger.acknowledged[person]
        while ledger.unanswered and ledger.unanswered[-1] not in ledger.acknowledged:
            # Committed or not when the answer was lost: either way the repetition succeeds, and the face exists once.
            person = ledger.unanswered.pop()
            answer = enroll(connection, person, ledger.photos[person])
            differing += answer.status_code != 201
            ledger.acknowledged[person] = answer.json()
    return differing


def inspect(data: Path, ledger: Ledger) -> tuple[int, int]:
    """Open the catalog that was left behind: acknowledged faces that are missing, people who are not whole."""
    folder = DataFolder.open(data)
    catalog = Catalog.open(folder.catalog, secret=folder.secret, fuse=fuse)
    lost = half = 0
    try:
        with catalog.read() as reading:
            gallery = galleries.get(reading, GALLERY)
            cursor, kept = None, {}
            while True:
                page = people.page(reading, gallery.pk, after=cursor, limit=1000)
                for person in page.items:
                    templates = faces.of_person(reading, person.pk)
                    kept[person.person] = {template.face for template in templates}
                    fused = faces.fused(reading, person.pk)
                    embeddings = np.stack([template.embedding for template in templates]) if templates else None
                    quality = np.array([template.quality for template in templates], np.float32)
                    whole = embeddings is not None and fused is not None and len(templates) == person.faces
                    half += not (whole and np.array_equal(fuse(embeddings, quality), fused))
                cursor = page.next
                if cursor is None:
                    break
        for person_id, answer in ledger.acknowledged.items():
            given = {item["face"] for item in answer["enrolled"]}
            lost += len(given - kept.get(person_id, set()))
    finally:
        catalog.close()
        folder.close()
    return lost, half


def not_identified(server: Server, ledger: Ledger) -> int:
    """How many people are not found by the photo that they were enrolled with."""
    missed = 0
    seen: dict[Path, set[str]] = {}
    for person in ledger.acknowledged:
        seen.setdefault(ledger.photos[person], set()).add(person)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as connection:
        for photo, holders in seen.items():
            answer = connection.post(f"/v1/galleries/{GALLERY}/identify", files={"photo": photo.read_bytes()})
            missed += answer.json()["faces"][0]["person"] not in holders
    return missed


if __name__ == "__main__":
    main()
