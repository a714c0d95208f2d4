"""What an import is worth that is killed again and again: `python -m tests.bench.bulk --kills 200`.

`vultus index` runs over a folder of ORL faces (AT&T Laboratories Cambridge) with everything that a photo can come to
in it, and is killed with SIGKILL at a random moment; then it is run again, until it ends by itself. The gallery must be
that of an undisturbed run, template for template, bit for bit, and the report must have each photo once, with the same
outcome. Then the next import begins.

What is compared is the report in the catalog, of the first import there: who kills the command between the end of the
import and that of the process, and runs it again, begins another one, in whose report each photo is a duplicate. The
file that the command leaves must name each photo once in any case.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from service.gallery import galleries, imports
from service.gallery.catalog import Catalog
from service.gallery.folder import DataFolder
from service.gallery.schema import people, templates
from service.identify.fusion import fuse
from service.settings import CHECKOUT
from tests.bench.report import note
from tests.faces import crowd, orl, saved, scene, truncated_jpeg

GALLERY = "kill"
SECONDS = 300

Template = tuple[str, bytes, float]


@dataclass(frozen=True)
class Left:
    """What an import left: templates and vector of each person, outcome of each photo, and the photos in the file."""

    people: dict[str, tuple[list[Template], bytes | None]]
    report: Counter[tuple[str, str, str]]
    filed: Counter[str]


@dataclass
class Outcome:
    """What a run of kills found; the last five must be 0."""

    photos: int
    kills: int = 0
    resumed: int = 0
    imports: int = 0
    lost: int = 0
    added: int = 0
    changed: int = 0
    rows_missing: int = 0
    rows_twice_or_wrong: int = 0
    lives: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, int]:
        """What must be 0."""
        names = ("lost", "added", "changed", "rows_missing", "rows_twice_or_wrong")
        return {name: getattr(self, name) for name in names}


def kill_again_and_again(kills: int, *, persons: int = 40, seed: int = 0) -> Outcome:
    """Kill imports until `kills` of them were killed, each resumed until it ended."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="vultus-kills-") as name:
        home = Path(name)
        source = laid_out(home / "people", persons)
        started, undisturbed = time.monotonic(), home / "undisturbed"
        indexed(undisturbed, source, home / "undisturbed.csv")
        longest = time.monotonic() - started
        wanted = left(undisturbed, home / "undisturbed.csv")
        outcome = Outcome(photos=sum(wanted.report.values()))
        while outcome.kills < kills:
            data = prepared(home / "data", undisturbed)
            broken_off(data, source, home / "report.csv", longest, chance, outcome, kills)
            compare(outcome, left(data, home / "report.csv"), wanted)
            note(f"killed {outcome.kills} of {kills} in {outcome.imports} imports: {outcome.figures()}")
            shutil.rmtree(data)
        return outcome


def laid_out(folder: Path, persons: int) -> Path:
    """ORL faces as files, with photos among them of which nothing, or nothing more, is kept."""
    for number in range(1, persons + 1):
        (folder / f"s{number}").mkdir(parents=True)
        for photo in (orl() / f"s{number}").glob("*.pgm"):
            shutil.copy(photo, folder / f"s{number}")
    odd = folder / "s3"
    shutil.copy(odd / "1.pgm", odd / "again.pgm")
    (odd / "crowd.jpg").write_bytes(crowd(2))
    (odd / "nobody.jpg").write_bytes(saved(scene(), "JPEG"))
    (odd / "cut.jpg").write_bytes(truncated_jpeg())
    shutil.copy(orl() / "s1" / "1.pgm", odd / "somebody-else.pgm")
    return folder


def prepared(data: Path, other: Path) -> Path:
    """An empty data folder, in which the engines need not be measured again."""
    data.mkdir(mode=0o700)
    shutil.copy(other / "engines.json", data)
    return data


def command(data: Path, source: Path, report: Path) -> dict[str, Any]:
    """`vultus index`, as subprocess takes it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VULTUS_")}
    settings = {"VULTUS_DATA": str(data), "VULTUS_PORT": "0", "VULTUS_ENGINE": "onnxruntime"}
    words = ["index", str(source), "--gallery", GALLERY, "--create", "--report", str(report), "--json"]
    return {
        "args": [sys.executable, "-m", "service", *words],
        "env": {**kept, **settings, "PYTHONPATH": str(CHECKOUT)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }


def indexed(data: Path, source: Path, report: Path) -> dict[str, Any]:
    """Import to the end."""
    done = subprocess.run(**command(data, source, report), timeout=SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def broken_off(
    data: Path, source: Path, report: Path, longest: float, chance: random.Random, outcome: Outcome, kills: int
) -> None:
    """Import, killed at random moments until enough were, and then to the end."""
    report.unlink(missing_ok=True)
    outcome.imports += 1
    while outcome.kills < kills:
        lives = chance.uniform(0.0, 1.1 * longest)
        with subprocess.Popen(**command(data, source, report)) as process:
            try:
                process.communicate(timeout=lives)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                outcome.kills += 1
                outcome.lives.append(lives)
                continue
        if process.returncode:
            raise RuntimeError("an import failed by itself")
        return
    outcome.resumed += indexed(data, source, report)["done"]


def left(data: Path, report: Path) -> Left:
    """Open what was left behind."""
    folder = DataFolder.open(data)
    opened = contextlib.closing(Catalog.open(folder.catalog, secret=folder.secret, fuse=fuse))
    with opened as catalog, catalog.read() as reading:
        found: dict[str, tuple[list[Template], bytes | None]] = {
            person: ([], vector)
            for person, vector in reading.connection.execute(select(people.c.person, people.c.fused))
        }
        kept = (
            select(people.c.person, templates.c.photo_digest, templates.c.embedding, templates.c.quality)
            .join_from(templates, people, templates.c.person_pk == people.c.pk)
            .order_by(templates.c.pk)
        )
        for person, *template in reading.connection.execute(kept):
            found[person][0].append(tuple(template))
        gallery = galleries.get(reading, GALLERY)
        first = imports.page(reading, gallery.pk).items[-1]
        lines = Counter(
            (photo, owner, outcome)
            for shard in imports.shards_of(reading, first.pk)
            for _, (photo, owner, outcome, *_) in imports.report(reading, shard)
        )
    folder.close()
    with report.open(newline="") as file:
        filed = Counter(line["photo"] for line in csv.DictReader(file))
    return Left(found, lines, filed)


def compare(outcome: Outcome, found: Left, wanted: Left) -> None:
    """Count what differs."""
    for person, (expected, vector) in wanted.people.items():
        kept, fused = found.people.get(person, ([], None))
        digests = Counter(template[0] for template in kept)
        outcome.lost += (Counter(template[0] for template in expected) - digests).total()
        outcome.added += (digests - Counter(template[0] for template in expected)).total()
        outcome.changed += (kept, fused) != (expected, vector)
    outcome.added += len(found.people.keys() - wanted.people.keys())
    for expected_rows, rows in ((wanted.report, found.report), (wanted.filed, found.filed)):
        outcome.rows_missing += (expected_rows - rows).total()
        outcome.rows_twice_or_wrong += (rows - expected_rows).total()
