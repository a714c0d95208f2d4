"""The gallery that `tests.bench.search` asks: built once, kept with the exact answers, and lent to each run.

It lies in a folder as a service would leave it, a catalog beside snapshot and segments, with `gallery.json` and
`truth.npz` for the bench: mates, and the best of everybody else by a scan in float32.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery import galleries
from service.gallery.catalog import Catalog
from service.gallery.index.indexes import LocalIndexes
from service.gallery.index.local import SEGMENT, Sizes
from service.gallery.index.protocol import Owner
from service.gallery.view import GalleryView
from service.identify.fusion import fuse
from tests.bench.crowd import BLOCK, Crowd, blocks, probes_of, with_faces
from tests.bench.report import note

BASE = 1_000_000_000
"""Row of the first member of a crowd: far from the keys that the catalog will give to those who enrol."""

REGIONS = 1_000
"""As many people live in a region of a million."""

FACES = -5_000
"""Where the rows of real faces begin, from `BASE` on."""

AS_BUILT = Sizes(flat=1 << 13, growing=1 << 12, fan=1 << 30)
"""What was built is settled; copies of it would be merged again. Who enrols is sealed as among 512 numbers."""

AT_ONCE = Sizes(flat=1 << 17, growing=1 << 17, fan=8, waiting=1 << 18)
"""Nobody searches while it is built, so larger pieces are sealed."""
ONE = Sizes(flat=1 << 20, growing=1 << 20, fan=2)
"""What was built becomes one segment, so that ten copies are as many as a gallery of ten million has."""

NEVER_KEPT = 1 << 40


@contextmanager
def lent(place: Path) -> Iterator[Path]:
    """What was built, to be changed: who enrols during one run must not lie unsealed in the way of the next."""
    copy = place.with_name(f"{place.name}.run")
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in place.iterdir():
        # Nobody is removed in a run, so segments stay as they are.
        (os.link if path.suffix == SEGMENT else shutil.copy)(path, copy / path.name)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


class Gallery:
    """What was built: a catalog whose gallery has an index, and the exact answers."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(exist_ok=True)
        self.catalog = Catalog.open(place / "catalog.sqlite", secret=b"s" * 32, fuse=fuse)
        told = place / "gallery.json"
        if not told.exists():
            raise SystemExit(f"{place} holds no gallery")
        self.record = json.loads(told.read_text())
        self.owner = Owner(self.catalog.id, self.record["pk"], "bench", self.record["dim"])

    def open(self, threads: int) -> tuple[LocalIndexes, GalleryView]:
        indexes = LocalIndexes(
            self.place, threads=threads, order=partial(by_region, self.record["stride"]), sizes=AS_BUILT
        )
        return indexes, GalleryView(self.catalog, self.record["pk"], indexes, snapshot_every=NEVER_KEPT)


def by_region(stride: int, _: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The region that each lives in, whatever the row; that of a copy is that of the original."""
    return ((rows - BASE) % stride * 2_654_435_761 >> 12) % REGIONS


def build(place: Path, crowd: Crowd, people: int, each: int, faces: dict[str, NDArray[np.float32]]) -> None:
    """Make the gallery's index and the exact answers."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    catalog = Catalog.open(place / "catalog.sqlite", secret=b"s" * 32, fuse=fuse)
    with catalog.write() as tx:
        gallery = galleries.create(tx, "bench", model="bench", model_digest="bench", dim=crowd.dim)
    stride = people + 10_000
    indexes = LocalIndexes(place, order=partial(by_region, stride), sizes=AT_ONCE)
    owner = Owner(catalog.id, gallery.pk, "bench", crowd.dim)
    index = indexes.of(owner, 0)
    probes = probes_of(crowd, people, each)
    real = None
    if crowd.kind in {"lfw", "mixed"}:
        probes, real = with_faces(crowd, probes, faces, FACES, 5 * each)
    began = time.monotonic()
    for first, block in blocks(crowd, people):
        index.add(BASE + first + np.arange(len(block)), block)
        probes.watch(first, block)
        if first % (50 * BLOCK) == 0:
            note(f"{first:,} added after {time.monotonic() - began:.0f} s")
    if real is not None:
        index.add(BASE + FACES + np.arange(len(real)), real)
        probes.watch(FACES, real)
    for sizes in (Sizes.of(crowd.dim), ONE, None):
        indexes.settle()
        index.keep(0)
        index.close()
        indexes.close()
        if sizes is not None:
            indexes = LocalIndexes(place, order=partial(by_region, stride), sizes=sizes)
            index = indexes.of(owner, 0)
    took = time.monotonic() - began
    catalog.close()
    told = {"pk": gallery.pk, "dim": crowd.dim, "seconds": took, "stride": stride}
    (place / "gallery.json").write_text(json.dumps(told))
    np.savez(place / "truth.npz", **vars(probes))
