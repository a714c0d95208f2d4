"""A crowd ten times over, each copy turned another way: ten million people in minutes instead of an hour.

Pieces of the vectors, as codes cut them, change places; codes, centroids and rows change places with them, so that
nothing is learnt or encoded again. A copy is as much a sample of an isotropic or clustered crowd as the original, with
clusters of its own. Of `lfw` it is not quite: what is common to its members points elsewhere in each copy, so most
rivals of an `lfw` probe are in its own copy, and the others are isotropic to it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery.catalog import Catalog
from service.gallery.index import segment, snapshot
from service.gallery.index.codes import Book, Codes, Layout, rotation
from service.gallery.index.protocol import Owner
from service.gallery.index.segment import Segment, Taken
from service.identify.fusion import fuse
from tests.bench.crowd import Crowd, Probes, blocks
from tests.bench.report import note

Places = NDArray[np.int64]


def multiplied(place: Path, crowd: Crowd, people: int, copies: int, every: int) -> Path:
    """The gallery of `place` so many times over, in a folder beside it; copy c has rows c * stride higher.

    One probe of `every` is kept, for the exact answers of all take longer than the copies.
    """
    made = place.with_name(f"{place.name}x{copies}")
    if (made / "truth.npz").exists():
        return made
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(place, made, ignore=shutil.ignore_patterns("truth.npz"))
    catalog = Catalog.open(made / "catalog.sqlite", secret=b"s" * 32, fuse=fuse)
    told = json.loads((made / "gallery.json").read_text())
    owner = Owner(catalog.id, told["pk"], "bench", crowd.dim)
    catalog.close()
    turns = [turn_of(Layout.of(crowd.dim), copy) for copy in range(copies)]
    path = made / f"{told['pk']}.snapshot"
    found = snapshot.read(path, owner, newest=0)
    names, alive = list(found.header.segments), list(found.alive)
    for named, bits in zip(found.header.segments, found.alive, strict=True):
        base = Segment(made / named.name, owner)
        for copy in range(1, copies):
            name = f"{told['pk']}.{copy:03}{named.name.split('.')[1]}.segment"
            write_copy(base, made / name, owner, turns[copy], copy * told["stride"])
            names.append(snapshot.Named(name, named.count))
            alive.append(bits)
        note(f"{named.name} copied")
    snapshot.write(path, replace(found.header, segments=tuple(names)), found.rows, found.embeddings, alive)
    held = np.load(place / "truth.npz")
    np.savez(
        made / "truth.npz",
        **vars(with_copies(Probes(**{name: held[name][::every] for name in held.files}), crowd, people, turns)),
    )
    return made


def turn_of(layout: Layout, copy: int) -> Places:
    """How the pieces of a copy change places: long ones with long ones, and short ones with short ones."""
    random = np.random.default_rng(copy)
    return np.concatenate([random.permutation(layout.long), random.permutation(np.arange(layout.long, layout.pieces))])


def numbers_of(layout: Layout, turn: Places) -> Places:
    """The same of the numbers of a turned vector: number n of the copy is number numbers_of[n] of the original."""
    every = layout.cut(1 + np.arange(layout.width, dtype=np.float32)[None]).reshape(layout.pieces, layout.piece)
    return layout.joined(every[turn].reshape(1, -1))[0].astype(np.int64) - 1


def write_copy(base: Segment, path: Path, owner: Owner, turn: Places, higher: int) -> None:
    """A segment whose pieces have changed places: piece p of the copy is piece turn[p] of the original."""
    places = numbers_of(base.book.layout, turn)

    def take(some: slice) -> Taken:
        return (
            base.rows[some] + higher,
            turned_codes(base.codes[some], turn),
            base.scales[some],
            base.numbers[some][:, places],
            base.rests(np.arange(len(base))[some])[:, places],
        )

    book = Book(base.book.layout, base.book.centroids[turn])
    segment.write(path, owner, book, base.trust, len(base), take)


def turned_codes(codes: Codes, turn: Places) -> Codes:
    """The same of codes, two pieces a byte, the lower half first."""
    halves = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)[:, turn]
    return halves[:, 0::2] | halves[:, 1::2] << 4


def turned_back(vectors: NDArray[np.float32], layout: Layout, turn: Places) -> NDArray[np.float32]:
    """Probes (m, dim) as they meet the original where a copy met them."""
    across = rotation(layout)
    back: NDArray[np.float32] = (vectors @ across.T)[:, np.argsort(numbers_of(layout, turn))] @ across
    return back


def with_copies(probes: Probes, crowd: Crowd, people: int, turns: list[Places]) -> Probes:
    """The exact answers among all copies: members of a copy meet a probe as the original's meet it turned back."""
    layout = Layout.of(crowd.dim)
    back = np.concatenate([turned_back(probes.vectors, layout, turn) for turn in turns[1:]])
    best = np.full(len(back), -1, np.float32)
    for _, block in blocks(crowd, people):
        np.maximum(best, (back @ block.T).max(axis=1), out=best)
    rivals = np.maximum(probes.rivals, best.reshape(len(turns) - 1, -1).max(axis=0))
    return replace(probes, rivals=rivals)
