"""What a catalog weighs, and how long its backup, restore and move take: `python -m tests.bench.backup`.

Figures, one line a catalog: catalog_bytes_per_person (SQLite alone), backup_bytes_per_person, backup_seconds,
restore_seconds, switch_seconds (to another model, everybody prepared). Embeddings of 128 numbers, one face a person.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from service.gallery import backup, bulk, galleries, reindexing, restoring
from service.gallery.bulk import Addition
from service.gallery.catalog import Catalog
from service.gallery.records import NewTemplate, PersonFields
from service.identify.fusion import fuse
from tests.bench.newcomers import owners_of
from tests.bench.report import Report, parser
from tests.servers import postgres

DIM = 128
GROUP = 1_000
CROP = b"a crop"


def main() -> None:
    """Measure both catalogs."""
    people = 5_000 if parser(__doc__).parse_args().quick else 100_000
    report = Report("backup")
    with tempfile.TemporaryDirectory(prefix="vultus-bench-") as name, postgres(durable=True) as server:
        folder = Path(name)
        measure(report, "sqlite", folder / "one.sqlite", folder / "two.sqlite", folder, people)
        measure(report, "postgresql", server.database(), server.database(), folder, people)
    report.table()


def measure(report: Report, kind: str, place: Path | str, other: Path | str, folder: Path, people: int) -> None:
    """Fill a catalog, back it up, restore it elsewhere, and move its gallery to another model."""
    facts = {"catalog": kind, "people": people}
    catalog = opened(place)
    pk = fill(catalog, people)
    if isinstance(place, Path):
        catalog.close()
        report.figure("catalog_bytes_per_person", place.stat().st_size / people, "bytes", **facts)
        catalog = opened(place)
    file = folder / f"{kind}.backup"
    with file.open("wb") as target:
        seconds = timed(lambda: backup.write(catalog, target))
    report.figure("backup_seconds", seconds, "s", **facts)
    report.figure("backup_bytes_per_person", file.stat().st_size / people, "bytes", **facts)
    restored = opened(other)
    with file.open("rb") as source:
        report.figure("restore_seconds", timed(lambda: restoring.restore(restored, source)), "s", **facts)
    restored.close()
    prepare(catalog, pk)
    report.figure("switch_seconds", timed(lambda: switch(catalog, pk)), "s", **facts)
    catalog.close()


def opened(place: Path | str) -> Catalog:
    """A catalog at a place."""
    return Catalog.open(place, secret=b"s" * 32, fuse=fuse)


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def unit(draw: np.random.Generator, count: int) -> np.ndarray:
    """Random unit vectors, (count, DIM)."""
    vectors = draw.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fill(catalog: Catalog, people: int) -> int:
    """Enrol people with one face each; the gallery's key."""
    draw = np.random.default_rng(1)
    with catalog.write() as tx:
        made = galleries.create(tx, "staff", model="one", model_digest="d1", dim=DIM)
    for first in range(0, people, GROUP):
        given = [
            Addition(
                f"person-{number:09d}",
                f"f_{number:020x}",
                NewTemplate(f"{number:064x}", vector, 0.8, (10.5, 20.5, 80.0, 100.0), CROP),
                PersonFields(name="Anna Example", region="871f8d4ffffffff"),
            )
            for number, vector in enumerate(unit(draw, GROUP), first)
        ]
        with catalog.write() as tx:
            bulk.add(tx, galleries.by_pk(tx, made.pk), owners_of(given), given)
    return made.pk


def prepare(catalog: Catalog, pk: int) -> None:
    """Do what comes before a switch, with random vectors in the place of a network's."""
    draw = np.random.default_rng(2)
    with catalog.write() as tx:
        reindexing.begin(tx, pk, reindexing.Model("two", "d2", DIM))
        rows = [int(row) for (row,) in tx.connection.exec_driver_sql("SELECT pk FROM templates ORDER BY pk")]
    for first in range(0, len(rows), GROUP):
        some = rows[first : first + GROUP]
        with catalog.write() as tx:
            reindexing.keep(tx, pk, some, unit(draw, len(some)))
    while True:
        with catalog.write() as tx:
            owners = reindexing.unfused(tx, pk, limit=GROUP)
            if not owners:
                return
            reindexing.fuse(tx, pk, owners)


def switch(catalog: Catalog, pk: int) -> None:
    """Switch the gallery."""
    with catalog.write() as tx:
        reindexing.switch(tx, pk)


if __name__ == "__main__":
    main()
