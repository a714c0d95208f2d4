"""The index: does the mate still come first, how fast, in how much memory: `python -m tests.bench.search`.

A gallery of synthetic embeddings (`crowd`) is built, kept, and opened again as the service would open it. Exact answers
come from a scan in float32 while it is built. With `--folder` what was built is kept and used again, and `--build` does
only that. Ten million float32 vectors do not fit beside the rest, so flat peers are timed over one million that lie in
memory, and their time is scaled by the number of people; each figure says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from service.gallery import bulk, galleries
from service.gallery.index.codes import Layout
from service.gallery.index.memory import used
from service.gallery.records import NewTemplate, PersonFields
from service.gallery.view import GalleryView
from tests.bench.copies import multiplied, turn_of, turned_back
from tests.bench.crowd import BLOCK, KINDS, Crowd, Probes, crowd_of, faces_of, probes_of, stratum_of
from tests.bench.lfw_data import load_lfw, person_of
from tests.bench.newcomers import owners_of
from tests.bench.peers import peers
from tests.bench.report import Report, parser
from tests.bench.search_gallery import BASE, Gallery, build, by_region, lent

RESIDENT = 1_000_000

TOGETHER = 64
"""Probes asked about at once where it is not timed: each finds what it finds alone."""

CLOSE = 5e-3
"""Far above what a cosine is off by here, some 3.4e-4; only what is closer is compared in float32."""

PARTS = ("recall", "losses", "speed", "scores", "beside", "replay")

Figure = Callable[..., None]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--people", type=int, help="in the gallery (default 1,000,000; quick 60,000)")
    options.add_argument("--kind", choices=(*KINDS, "mixed"), default="mixed", help="of the crowd")
    options.add_argument("--dim", type=int, default=512, help="of the embeddings")
    options.add_argument("--probes", type=int, default=200, help="a stratum and kind")
    options.add_argument("--many", type=int, default=1_000, help="probes a stratum and kind that tell who is lost")
    options.add_argument("--every", type=int, default=1, help="of the probes that were kept, one of so many is asked")
    options.add_argument("--copies", type=int, default=1, help="of the crowd, each turned another way (see copies.py)")
    options.add_argument("--folder", type=Path, help="where what is built is kept")
    options.add_argument("--out", type=Path, help="folder for plots")
    options.add_argument("--build", action="store_true", help="build and end")
    options.add_argument("--peers", type=int, default=0, help="compare with other indexes over so many people, and end")
    options.add_argument(
        "--only",
        nargs="*",
        default=(),
        help=f"some of {PARTS}; of the peers, those whose name holds one of these words",
    )
    asked = options.parse_args()
    people = (asked.people or (60_000 if asked.quick else 1_000_000)) // BLOCK * BLOCK
    lfw = load_lfw(asked.data)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="vultus-bench-"))
    folder.mkdir(exist_ok=True, parents=True)
    try:
        faces = faces_of(lfw, folder / "lfw.npz", most=400 if asked.quick else len(lfw.photos))
        different = {person_of(name): face for name, face in faces.items()}
        crowd = crowd_of(asked.kind, asked.dim, np.stack(list(different.values())))
        report = Report("search")
        if asked.peers:
            peers(report, crowd, asked.peers // BLOCK * BLOCK, folder, asked.out, each=asked.probes, only=asked.only)
        else:
            place = folder / f"{asked.kind}-{asked.dim}-{people}"
            if not (place / "truth.npz").exists():
                build(place, crowd, people, 20 if asked.quick else asked.probes, faces)
            if asked.copies > 1:
                place = multiplied(place, crowd, people, asked.copies, asked.every)
            if not asked.build:
                with lent(place) as copy:
                    measure(report, Gallery(copy), crowd, people * asked.copies, asked)
        report.table()
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)


def measure(report: Report, gallery: Gallery, crowd: Crowd, people: int, asked: argparse.Namespace) -> None:
    """The figures over a gallery."""
    how: dict[str, Any] = {"people": people, "kind": asked.kind, "dim": asked.dim}
    figure = partial(report.figure, **how)
    only = set(asked.only or PARTS)
    faiss.omp_set_num_threads(1)
    figure("build_s", round(gallery.record["seconds"], 1), "s", with_exact_answers=True)
    held = np.load(gallery.place / "truth.npz")
    probes = Probes(**{name: held[name][:: 1 if asked.copies > 1 else asked.every] for name in held.files})
    by_one(figure, gallery, crowd, probes, people, asked, only)
    if only & {"speed", "beside"}:
        by_two(figure, gallery, probes.vectors, 4 if asked.quick else 15, only)
    if "replay" in only:
        replay(figure, gallery, 1_000 if asked.quick else 10_000)


def by_one(
    figure: Figure,
    gallery: Gallery,
    crowd: Crowd,
    probes: Probes,
    people: int,
    asked: argparse.Namespace,
    only: set[str],
) -> None:
    """What one thread serves."""
    before = used()
    for path in gallery.place.iterdir():
        drop_from_cache(path)
    for cold in (True, False):
        began = time.perf_counter()
        indexes, view = gallery.open(1)
        figure("ready_s", round(time.perf_counter() - began, 3), "s", page_cache="empty" if cold else "full")
        if cold:
            view.abandon()
            indexes.close()
    stride = gallery.record["stride"]
    if "recall" in only:
        recall(figure, view, probes)
    if "losses" in only:
        losses(figure, view, crowd, people // asked.copies, stride, 20 if asked.quick else asked.many)
    if "speed" in only:
        timed(searching(view, probes.vectors), 100)
        figure("resident_bytes_per_template", round((used() - before) / len(view), 1), "bytes")
        speed(figure, view, probes.vectors, people, asked.dim)
    if "scores" in only:
        scoring(figure, view, probes.vectors, people, stride)
    view.abandon()
    indexes.close()


def by_two(figure: Figure, gallery: Gallery, probes: NDArray[np.float32], seconds: float, only: set[str]) -> None:
    """What two threads serve, over one in turns, since what a machine's neighbours take changes by the minute."""
    indexes, view = gallery.open(2)
    if "speed" in only:
        with lent(gallery.place) as copy:
            alone, plain = Gallery(copy).open(1)
            turns = [(timed(searching(plain, probes), 30), timed(searching(view, probes), 30)) for _ in range(6)]
            plain.abandon()
            alone.close()
        one, two = (float(np.median(each)) for each in zip(*turns, strict=True))
        ratios = [round(first / second, 2) for first, second in turns]
        more = {"ms": round(1000 * two, 2), "one_ms": round(1000 * one, 2), "turns": ratios}
        figure("two_thread_speedup", float(np.median(ratios)), "x", **more)
    if "beside" in only:
        beside(figure, gallery, view, probes, seconds)
    view.abandon()
    indexes.close()


def recall(figure: Figure, view: GalleryView, probes: Probes) -> None:
    """Mates that come first, here and by an exact scan in float32."""
    found = answers(view, probes, 1)[0][:, 0]
    for kind, stratum, here in strata_of(probes):
        exact = probes.cosines[here] > probes.rivals[here]
        ours = found[here] == probes.mates[here]
        figure(
            "mate_recall",
            round(100 * ours.mean(), 2),
            "%",
            crowd=kind,
            stratum=stratum,
            exact=round(100 * exact.mean(), 2),
            lost=int((exact & ~ours).sum()),
            gained=int((ours & ~exact).sum()),
            probes=int(here.sum()),
        )


def losses(figure: Figure, view: GalleryView, crowd: Crowd, people: int, stride: int, each: int) -> None:
    """How many mates that an exact scan in float32 puts first do not come first here, and the other way round.

    No scan is needed for it: whoever is answered in a mate's place and is more similar in float32 would come before the
    mate in the scan as well; all others that are answered in the place of a mate are counted as lost. A mate is gained
    where whoever comes second is more similar in float32.
    """
    probes = probes_of(crowd, people, each, seed=12)
    began = time.perf_counter()
    rows, told = answers(view, probes, 2)
    took = time.perf_counter() - began
    ours = rows[:, 0] == probes.mates
    rivals, cosines = np.where(ours, rows[:, 1], rows[:, 0]), np.where(ours, told[:, 1], told[:, 0])
    layout = Layout.of(crowd.dim)
    for place in np.flatnonzero(np.abs(cosines - probes.cosines) < CLOSE).tolist():
        copy, row = divmod(int(rivals[place]), stride)
        cosines[place] = -1.0
        if row < people:
            block, member = divmod(row, BLOCK)
            probe = probes.vectors[[place]]
            met = turned_back(probe, layout, turn_of(layout, copy)) if copy else probe
            cosines[place] = float(met[0] @ crowd.block(block)[member])
    exact = cosines < probes.cosines
    worst = []
    for kind, stratum, here in strata_of(probes):
        worst.append(100 * float(exact[here].mean() - ours[here].mean()))
        figure(
            "mates_lost",
            int((exact & ~ours)[here].sum()),
            "mates",
            gained=int((ours & ~exact)[here].sum()),
            crowd=kind,
            stratum=stratum,
            found=round(100 * float(ours[here].mean()), 2),
            probes=int(here.sum()),
        )
    how = {"strata": len(worst), "lost": int((exact & ~ours).sum()), "gained": int((ours & ~exact).sum())}
    ms = round(1000 * took / len(rows), 2)
    figure("mate_recall_loss", round(max(worst), 3), "points", **how, probes=len(rows), ms_each=ms)


def answers(view: GalleryView, probes: Probes, best: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Who come first for each probe, counted from `BASE` on, and with what cosines, (m, best) each."""
    parts = [view.search(probes.vectors[low : low + TOGETHER], 21) for low in range(0, len(probes.mates), TOGETHER)]
    rows = np.concatenate([part.rows[:, :best] for part in parts]) - BASE
    return rows, np.concatenate([part.scores[:, :best] for part in parts])


def strata_of(probes: Probes) -> Iterator[tuple[str, float, NDArray[np.bool_]]]:
    """Every kind and stratum that there are probes of, and which they are."""
    strata = np.array([stratum_of(cosine) or 0.0 for cosine in probes.cosines])
    for kind in np.unique(probes.kinds).tolist():
        for stratum in np.unique(strata[strata > 0]).tolist():
            here = (probes.kinds == kind) & (strata == stratum)
            if here.any():
                yield kind, stratum, here


def searching(view: GalleryView, probes: NDArray[np.float32]) -> Callable[[], None]:
    turn = iter(range(1 << 60))

    def one() -> None:
        view.search(probes[next(turn) % len(probes)][None], 21)

    return one


def timed(work: Callable[[], None], times: int) -> float:
    """The median of some runs, in seconds, after one that does not count."""
    spent = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return float(np.median(spent[1:]))


def speed(figure: Figure, view: GalleryView, probes: NDArray[np.float32], people: int, dim: int) -> None:
    """One probe on one thread, in turns with FAISS' flat float32 and int8."""
    resident = min(people, RESIDENT)
    some = np.random.default_rng(1).standard_normal((10_000, dim), np.float32)
    some /= np.linalg.norm(some, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(dim)
    int8 = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT)
    for _ in range(resident // len(some)):
        flat.add(some)
        int8.add(np.rint(some * 127))
    probe = probes[:1]
    spent: dict[str, list[float]] = {"ours": [], "flat": [], "int8": []}
    for _ in range(3):
        spent["flat"].append(timed(lambda: flat.search(probe, 21), 3) * people / resident)
        spent["int8"].append(timed(lambda: int8.search(probe, 21), 3) * people / resident)
        spent["ours"].append(timed(searching(view, probes), 60))
    ours, plain, small = (float(np.median(spent[name])) for name in ("ours", "flat", "int8"))
    more = (
        {"ms": round(1000 * ours, 3), "scaled_from": resident} if resident < people else {"ms": round(1000 * ours, 3)}
    )
    figure("speedup_over_flat", round(plain / ours, 1), "x", flat_ms=round(1000 * plain, 1), **more)
    figure("speedup_over_int8", round(small / ours, 1), "x", int8_ms=round(1000 * small, 1), **more)


def scoring(figure: Figure, view: GalleryView, probes: NDArray[np.float32], people: int, stride: int) -> None:
    """Exact scores of given rows: scattered ones, and those of a region, which lie together."""
    random = np.random.default_rng(2)

    def drawn(rows: int) -> NDArray[np.int64]:
        return BASE + random.choice(people, rows, replace=False)

    def took(sets: list[NDArray[np.int64]]) -> float:
        turn = iter(enumerate(sets))

        def one() -> None:
            number, rows = next(turn)
            view.score(probes[[number]], rows)

        return timed(one, len(sets) - 1)

    for rows in (1_000, 10_000):
        figure(f"score_{rows}_ms", round(1000 * took([drawn(rows) for _ in range(61)]), 3), "ms")
    everybody = np.arange(people) + BASE
    homes = by_region(stride, 0, everybody)
    regions = [random.permutation(everybody[homes == region]) for region in range(61)]
    together, scattered = took(regions), took([drawn(len(region)) for region in regions])
    figure(
        "region_speedup",
        round(scattered / together, 2),
        "x",
        ms=round(1000 * together, 3),
        scattered_ms=round(1000 * scattered, 3),
        people_of_it=round(float(np.mean([len(region) for region in regions]))),
    )


def beside(figure: Figure, gallery: Gallery, view: GalleryView, probes: NDArray[np.float32], seconds: float) -> None:
    """Searches at half the load that one client could ask for, without and with a thousand enrolments a second."""
    pause = 2 * timed(searching(view, probes), 30)
    quiet = paced(searching(view, probes), pause, seconds)
    stop = threading.Event()
    done: list[int] = []
    enroller = threading.Thread(target=enrol, args=(gallery, view, stop, done))
    began = time.perf_counter()
    enroller.start()
    busy = paced(searching(view, probes), pause, seconds)
    stop.set()
    enroller.join()
    rate = sum(done) / (time.perf_counter() - began)
    figure("enrolments_per_second", round(rate), "1/s", durable=True)
    for share in (50, 99):
        figure(
            f"search_p{share}_ms_beside_enrolments",
            round(1000 * float(np.percentile(busy, share)), 2),
            "ms",
            quiet_ms=round(1000 * float(np.percentile(quiet, share)), 2),
            ratio=round(float(np.percentile(busy, share) / np.percentile(quiet, share)), 2),
            searches=len(busy),
        )


def paced(work: Callable[[], None], pause: float, seconds: float) -> list[float]:
    """Seconds of each run, one begun every `pause` seconds."""
    spent, due, end = [], time.perf_counter(), time.perf_counter() + seconds
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
        due = max(due + pause, began)
    return spent


def enrol(gallery: Gallery, view: GalleryView, stop: threading.Event, done: list[int]) -> None:
    """Fifty people every 50 ms: committed to disk, and found, before the next are looked at."""
    dim, due = gallery.record["dim"], time.perf_counter()
    random = np.random.default_rng(time.time_ns())
    with gallery.catalog.read() as reading:
        record = galleries.by_pk(reading, gallery.record["pk"])
    while not stop.is_set():
        due += 0.05
        vectors = random.standard_normal((50, dim), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        given = additions(vectors)
        with gallery.catalog.write() as tx:
            added = bulk.add(tx, record, owners_of(given), given)
        if added is not None:
            view.show(added.revision, added.rows, added.embeddings)
        done.append(len(given))
        time.sleep(max(0.0, due - time.perf_counter()))


def additions(vectors: NDArray[np.float32]) -> list[bulk.Addition]:
    """Somebody new for each vector."""
    names = [os.urandom(10).hex() for _ in vectors]
    return [
        bulk.Addition(name, f"f_{name}", NewTemplate(name.ljust(64, "0"), vector, 0.9, (0, 0, 1, 1)), PersonFields())
        for name, vector in zip(names, vectors, strict=True)
    ]


def replay(figure: Figure, gallery: Gallery, revisions: int) -> None:
    """Apply so many revisions, one person each, as a start does that has opened what is kept."""
    with gallery.catalog.read() as reading:
        record = galleries.by_pk(reading, gallery.record["pk"])
    indexes, view = gallery.open(1)
    vectors = np.random.default_rng(4).standard_normal((revisions, record.dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with gallery.catalog.write() as tx:
        given = additions(vectors)
        added = bulk.add(tx, record, owners_of(given), given)
        reached = added.revision if added is not None else 0
        run = tx.connection.exec_driver_sql
        run(
            "UPDATE people SET revision = ? + pk - (SELECT min(pk) FROM people WHERE revision = ?) WHERE revision = ?",
            (reached, reached, reached),
        )
        run("UPDATE galleries SET revision = ? WHERE pk = ?", (reached + revisions - 1, record.pk))
    began = time.perf_counter()
    view.catch_up()
    figure("replay_s", round(time.perf_counter() - began, 3), "s", revisions=revisions)
    view.close()
    indexes.close()


def drop_from_cache(path: Path) -> None:
    """Let the system forget what it read of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
