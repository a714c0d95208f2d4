"""Three replicas under fire: `python -m tests.bench.replicas [--seconds 120]`.

Three services share one PostgreSQL and one Redis. Clients enrol and forget people at whichever replica answers, and
repeat what was not acknowledged at another one. Every ten seconds one replica is killed and started again; PostgreSQL
is restarted once, and Redis is killed once and comes back empty. All of it runs on this machine. At the end:

lost                  acknowledged faces that are not in the catalog
twice                 requests that were repeated and done again
forgotten_answered    times a person was named by a replica that says that it shows what came after the forgetting
differing             photos for which the replicas do not answer the same once all is quiet
never_acknowledged    requests that no replica took within two minutes
notice_ms             time until another replica shows what one has acknowledged, before anything else is going on
behind_s              greatest `behind_seconds` of /health/ready while everybody was up for some seconds
seen_s                time until another replica shows what one has acknowledged, while everybody was up
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from service.gallery import faces, galleries, people
from service.gallery.catalog import Catalog
from service.identify.fusion import fuse
from tests.bench.report import Report, note, parser
from tests.bench.server import is_ready
from tests.faces import orl
from tests.ports import free_port
from tests.servers import Postgres, Redis, postgres, redis_server

GALLERY = "staff"
REPLICAS = 3
CLIENTS = 2
ANSWER_SECONDS = 30.0
PATIENCE_SECONDS = 120.0
QUIET_SECONDS = 2.0
"""Figures of lag count from this long after everybody is up again: a replica that has just started is busy."""

FORGETTABLE = 40
"""The ORL person whose photos are enrolled to be forgotten, and by nobody else."""

NOTICES = 20
REVISION = "X-Vultus-Revision"


@dataclass
class Replica:
    """A service process that is killed and started again, always at the same port."""

    data: Path
    port: int
    settings: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; it answers some seconds later."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VULTUS_")}
        own = {"VULTUS_DATA": str(self.data), "VULTUS_PORT": str(self.port), "VULTUS_LOG_LEVEL": "warning"}
        environment = {**clean, **self.settings, **own}
        with self.data.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Send it a signal, and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None


@dataclass
class Ledger:
    """What the clients were told."""

    enrolled: dict[str, set[str]] = field(default_factory=dict)
    repeated: int = 0
    twice: int = 0
    never: int = 0
    forgotten: int = 0
    forgotten_checked: int = 0
    forgotten_answered: int = 0
    behind: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Outcome:
    """What a run found; see the top."""

    acknowledged: int
    repeated: int
    kills: int
    lost: int
    twice: int
    forgotten: int
    forgotten_checked: int
    forgotten_answered: int
    differing: int
    never_acknowledged: int
    notice: list[float]
    behind: list[float]
    seen: list[float]


class Field:
    """The replicas, the servers behind them, and since when nothing was disturbed."""

    def __init__(self, replicas: list[Replica], database: Postgres, shared: Redis) -> None:
        self.replicas, self.database, self.shared = replicas, database, shared
        self.ending = threading.Event()
        self.disturbed = time.monotonic()
        self.disturbing = threading.Lock()

    @contextmanager
    def disturb(self) -> Iterator[None]:
        """Do something bad, and wait until everybody is ready again."""
        with self.disturbing:
            self.disturbed = float("inf")
            yield
            self.wait()
            self.disturbed = time.monotonic()

    def wait(self) -> None:
        """Wait until every replica is ready."""
        deadline = time.monotonic() + 240
        for replica in self.replicas:
            while not is_ready(replica.port):
                if time.monotonic() > deadline:
                    raise RuntimeError(replica.data.with_suffix(".log").read_text()[-3000:])
                time.sleep(0.05)

    @property
    def quiet(self) -> bool:
        """Whether nothing was disturbed for some time."""
        return time.monotonic() - self.disturbed > QUIET_SECONDS


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seconds", type=float, default=120)
    asked = options.parse_args()
    report = Report("replicas")
    with tempfile.TemporaryDirectory(prefix="vultus-bench-") as folder:
        outcome = under_fire(Path(folder), 25 if asked.quick else asked.seconds, every=10)
    how = {"acknowledged": outcome.acknowledged, "repeated": outcome.repeated, "kills": outcome.kills}
    for figure in ("lost", "twice", "differing", "never_acknowledged"):
        report.figure(figure, getattr(outcome, figure), "count", **how)
    report.figure("forgotten_answered", outcome.forgotten_answered, "count", checked=outcome.forgotten_checked)
    report.figure("notice_ms", round(float(np.median(outcome.notice)) * 1000, 1), "ms", samples=len(outcome.notice))
    for figure, values in (("behind_s", outcome.behind), ("seen_s", outcome.seen)):
        if values:
            median, most = np.quantile(values, [0.5, 1.0])
            report.figure(figure, round(float(most), 3), "s", median=round(float(median), 3), samples=len(values))
    report.table()


def under_fire(folder: Path, seconds: float, *, every: float, seed: int = 0) -> Outcome:
    """Run it all.

    Args:
        folder: for the replicas' data.
        seconds: how long replicas are killed.
        every: seconds from one kill to the next.
        seed: of what is left to chance.
    """
    ledger, chance = Ledger(), random.Random(seed)
    (folder / "secret").write_bytes(os.urandom(32))
    with ExitStack() as stack:
        database = stack.enter_context(postgres(durable=True))
        shared = stack.enter_context(redis_server())
        url = database.database()
        settings = {
            "VULTUS_CATALOG": url,
            "VULTUS_REDIS": shared.url,
            "VULTUS_SECRET": str(folder / "secret"),
            "VULTUS_ENGINE": "onnxruntime",
            "VULTUS_THREADS": "1",
        }
        replicas = [Replica(folder / f"replica{number}", free_port(), settings) for number in range(REPLICAS)]
        for replica in replicas:
            replica.data.mkdir()
            stack.callback(replica.stop, signal.SIGKILL)
        alike(replicas)
        arena = Field(replicas, database, shared)
        arena.wait()
        httpx.post(f"{replicas[0].url}/v1/galleries", json={"name": GALLERY}).raise_for_status()
        notice = [time_to_hear(replicas, number) for number in range(NOTICES)]
        arena.disturbed = time.monotonic()
        works: list[Callable[[], None]] = [
            *(lambda number=number: enrol_on_and_on(arena, ledger, number) for number in range(CLIENTS)),
            lambda: forget_on_and_on(arena, ledger),
            lambda: watch(arena, ledger),
        ]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        try:
            kills = fire(arena, seconds, every, chance)
        finally:
            arena.ending.set()
            for thread in threads:
                thread.join()
        ended = time.time()
        while not all(knows_of(replica, ended) for replica in replicas):
            time.sleep(0.1)
        lost, twice = compare(url, (folder / "secret").read_bytes(), ledger)
        differing = disagreements(replicas)
    return Outcome(
        acknowledged=len(ledger.enrolled),
        repeated=ledger.repeated,
        kills=kills,
        lost=lost,
        twice=twice + ledger.twice,
        forgotten=ledger.forgotten,
        forgotten_checked=ledger.forgotten_checked,
        forgotten_answered=ledger.forgotten_answered,
        differing=differing,
        never_acknowledged=ledger.never,
        notice=notice,
        behind=ledger.behind,
        seen=ledger.seen,
    )


def alike(replicas: list[Replica]) -> None:
    """Start replicas with the engines that the first one has measured.

    Measuring at the same time they may choose different ones for detection, which find the corners of a face a hair
    apart: then similarities differ in the fifth digit, and `differing` would count that.
    """
    first, others = replicas[0], replicas[1:]
    first.start()
    measured, deadline = first.data / "engines.json", time.monotonic() + PATIENCE_SECONDS
    while not measured.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the first replica has not chosen its engines in time")
        time.sleep(0.05)
    for replica in others:
        shutil.copy(measured, replica.data)
        replica.start()


def fire(arena: Field, seconds: float, every: float, chance: random.Random) -> int:
    """Kill a replica again and again; half way restart PostgreSQL, at three quarters kill Redis."""
    began = time.monotonic()
    troubles = [(0.5 * seconds, arena.database.stop, arena.database.start, "PostgreSQL")]
    troubles.append((0.75 * seconds, arena.shared.stop, arena.shared.start, "Redis"))
    kills = 0
    for number in itertools.count(1):
        until = began + min(number * every, seconds)
        while troubles and began + troubles[0][0] <= until:
            at, stop, start, name = troubles.pop(0)
            time.sleep(max(0.0, began + at - time.monotonic()))
            note(f"{time.monotonic() - began:5.1f} s  {name} goes")
            with arena.disturb():
                stop()
                time.sleep(1)
                start()
        time.sleep(max(0.0, until - time.monotonic()))
        if number * every > seconds:
            return kills
        victim = chance.choice(arena.replicas)
        note(f"{time.monotonic() - began:5.1f} s  replica {arena.replicas.index(victim)} is killed")
        with arena.disturb():
            victim.stop(signal.SIGKILL)
            victim.start()
        kills += 1
    return kills


def enrol_on_and_on(arena: Field, ledger: Ledger, client: int) -> None:
    """Enrol new people, each with a photo, until the end."""
    everybody = sorted((orl() / f"s{number}" for number in range(1, FORGETTABLE)), key=lambda path: path.name)
    for number in itertools.count():
        if arena.ending.is_set():
            return
        person = f"c{client}-{number}"
        photo = everybody[(7 * number + client) % len(everybody)] / f"{1 + number % 10}.pgm"
        files = {"photo": photo.read_bytes()}
        answer = insist(arena, ledger, "POST", f"people/{person}/faces", key=person, files=files)
        if answer is not None:
            with ledger.lock:
                ledger.enrolled[person] = {face["face"] for face in answer.json()["enrolled"]}
            if arena.quiet and number % 5 == 0:
                time_to_see(arena, ledger, int(answer.headers[REVISION]))
        time.sleep(0.05)


def forget_on_and_on(arena: Field, ledger: Ledger) -> None:
    """Enrol somebody, forget them, and ask every replica that should know whose face it is."""
    for number in itertools.count():
        if arena.ending.is_set():
            return
        person, photo = f"f-{number}", (orl() / f"s{FORGETTABLE}" / f"{1 + number % 10}.pgm").read_bytes()
        files = {"photo": photo}
        if insist(arena, ledger, "POST", f"people/{person}/faces", key=person, files=files) is None:
            continue
        gone = insist(arena, ledger, "DELETE", f"people/{person}", key=f"forget-{person}")
        if gone is None:
            continue
        told = time.time()
        ledger.forgotten += 1
        for replica in arena.replicas:
            for _ in range(20):
                if arena.ending.is_set() or knows_of(replica, told):
                    break
                time.sleep(0.1)
            else:
                continue
            try:
                answer = httpx.post(f"{replica.url}/v1/galleries/{GALLERY}/identify", files=files, data={"top": "50"})
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                named = {other["person"] for face in answer.json()["faces"] for other in face["candidates"]}
                ledger.forgotten_checked += 1
                ledger.forgotten_answered += person in named


def knows_of(replica: Replica, moment: float) -> bool:
    """Whether a replica says that it shows what was committed before a moment."""
    asked = time.time()
    ready = readiness(replica)
    return ready is not None and asked - float(ready["behind_seconds"]) > moment


def readiness(replica: Replica) -> dict[str, Any] | None:
    """What /health/ready says, None where it is not."""
    try:
        answer = httpx.get(f"{replica.url}/health/ready", timeout=ANSWER_SECONDS)
    except httpx.TransportError:
        return None
    return dict(answer.json()) if answer.status_code == 200 else None


def watch(arena: Field, ledger: Ledger) -> None:
    """Note how far behind the replicas say that they are, while everybody is up."""
    while not arena.ending.wait(0.1):
        for replica in arena.replicas:
            quiet = arena.quiet
            ready = readiness(replica)
            if quiet and arena.quiet and ready is not None:
                ledger.behind.append(float(ready["behind_seconds"]))


def time_to_hear(replicas: list[Replica], number: int) -> float:
    """Seconds from an acknowledged change at the first replica until the second one shows it."""
    there = f"{replicas[1].url}/v1/galleries/{GALLERY}"
    with httpx.Client() as one, httpx.Client() as other:
        other.get(there)
        answer = one.put(f"{replicas[0].url}/v1/galleries/{GALLERY}/people/notice-{number}", json={})
        began, revision = time.monotonic(), int(answer.raise_for_status().headers[REVISION])
        while int(other.get(there).headers[REVISION]) < revision:
            pass
        return time.monotonic() - began


def time_to_see(arena: Field, ledger: Ledger, revision: int) -> None:
    """Measure how long it takes until each replica shows a revision that was just acknowledged."""
    began = time.monotonic()
    for replica in arena.replicas:
        while arena.quiet:
            try:
                answer = httpx.get(f"{replica.url}/v1/galleries/{GALLERY}", timeout=ANSWER_SECONDS)
            except httpx.TransportError:
                return
            if int(answer.headers.get(REVISION, 0)) >= revision:
                break
            time.sleep(0.005)
    if arena.quiet:
        with ledger.lock:
            ledger.seen.append(time.monotonic() - began)


def insist(arena: Field, ledger: Ledger, method: str, path: str, *, key: str, **sent: Any) -> httpx.Response | None:
    """Send a write to one replica after the other, under one key, until one acknowledges it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for attempt in itertools.count():
        replica = random.choice(arena.replicas)
        try:
            answer = httpx.request(
                method,
                f"{replica.url}/v1/galleries/{GALLERY}/{path}",
                headers={"Idempotency-Key": key},
                timeout=ANSWER_SECONDS,
                **sent,
            )
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code in {200, 201}:
            ledger.repeated += attempt > 0
            return answer
        if answer is not None and answer.status_code not in {409, 429, 503}:
            # A repeated write that was done before, and is not known to have been, fails: nothing new, or nobody there.
            ledger.twice += 1
            note(f"{method} {path}: {answer.status_code} {answer.text}")
            return None
        if time.monotonic() > deadline:
            ledger.never += 1
            return None
        time.sleep(0.1)
    return None


def compare(url: str, secret: bytes, ledger: Ledger) -> tuple[int, int]:
    """Acknowledged faces that the catalog lacks, and faces that are there more than once."""
    catalog = Catalog.open(url, secret=secret, fuse=fuse)
    lost = twice = 0
    with catalog.read() as reading:
        gallery = galleries.get(reading, GALLERY)
        for person, given in ledger.enrolled.items():
            found = people.find(reading, gallery.pk, person)
            kept = set() if found is None else {each.face for each in faces.of_person(reading, found.pk)}
            lost += len(given - kept)
            twice += len(kept - given)
    catalog.close()
    return lost, twice


def disagreements(replicas: list[Replica]) -> int:
    """Photos that the replicas answer differently."""
    differing = 0
    for number in range(1, 31):
        photo = (orl() / f"s{number}" / "1.pgm").read_bytes()
        answers = []
        for replica in replicas:
            found = httpx.post(
                f"{replica.url}/v1/galleries/{GALLERY}/identify", files={"photo": photo}, data={"top": "30"}, timeout=60
            )
            (face,) = found.raise_for_status().json()["faces"]
            answers.append(sorted((round(other["similarity"], 4), other["person"]) for other in face["candidates"]))
        if any(answer != answers[0] for answer in answers):
            differing += 1
            note(f"photo {number}: {[sorted(set(answer) ^ set(answers[0])) for answer in answers[1:]]}")
    return differing


if __name__ == "__main__":
    main()
