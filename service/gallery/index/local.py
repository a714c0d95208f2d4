"""An index of this process, kept in a folder.

A gallery's index is one snapshot, and segments once it has outgrown exact search:

    7.snapshot            what is growing, which segments there are and which of their rows are alive
    7.<number>.segment    vectors that no longer change; written once, and only erased from afterwards

A small gallery is growing only, and searched exactly. What has grown enough is sealed into a segment in the background,
and small segments are merged into larger ones (`Sizes`). Searches look at one moment (`state.State`) and wait for
nobody; those who write take turns and put the next moment in its place.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import SnapshotError, StorageError
from service.gallery.embeddings import Rows, checked
from service.gallery.index import building, memory, snapshot
from service.gallery.index.builder import Builder, Cancelled
from service.gallery.index.codes import Bits, Layout, Part
from service.gallery.index.directory import Directory
from service.gallery.index.files import read_ahead
from service.gallery.index.flat import Flat
from service.gallery.index.planner import ENOUGH, Costs, Way
from service.gallery.index.protocol import NEVER, Matches, Owner
from service.gallery.index.sealed import MANY, Sealed
from service.gallery.index.segment import Segment, left_for_later, packed, unpacked
from service.gallery.index.state import State
from service.gallery.index.threads import Threads
from service.memory import give_back

SUFFIX: Final = ".snapshot"
SEGMENT: Final = ".segment"

TRIED: Final = 2_000
"""Rows scored to learn what that costs,"""
TURNS: Final = 4
"""so many times, the least of which counts."""

PASSED: Final = 128
"""Rows passed over to learn what each takes."""

DEAD: Final = 0.25
"""Share of dead places from which the living move elsewhere."""

EXACT: Final = 1 << 22
"""Numbers, 16 MB of them, that are searched exactly in about the time that a sealed segment takes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sizes:
    """When what is sealed and merged.

    Attributes:
        flat: a gallery up to this size is searched exactly.
        growing: vectors sealed at a time once it has outgrown that.
        fan: as many segments of about one size are merged into one.
        most: vectors in a segment.
        waiting: growing vectors at which those who add wait for the builder.
    """

    flat: int
    growing: int
    fan: int = 4
    most: int = 1 << 22
    waiting: int = 1 << 17

    @classmethod
    def of(cls, dim: int) -> Sizes:
        """Those for vectors of a dimension: an exact search takes as long as there are numbers to read."""
        return cls(flat=max(1, EXACT // dim), growing=max(1, EXACT // 2 // dim))


@dataclass(frozen=True, slots=True)
class Means:
    """What all indexes of a process share.

    Attributes:
        threads: serve searches.
        builder: seals and merges.
        parts: a segment's codes, ready to be looked through.
        order: see `building.Order`; None keeps rows as they came.
        sizes: when what is sealed and merged; None goes by the dimension.
        memory: bytes that the process may have.
    """

    threads: Threads
    builder: Builder
    parts: Callable[[Segment], Sequence[Part]]
    order: building.Order | None
    sizes: Sizes | None
    memory: int


class LocalIndex:
    """See `VectorIndex`.

    Args:
        owner: whose index.
        folder: where it is kept.
        newest: the gallery's revision.
        means: what it works with.

    Raises:
        IndexMemoryError: what is kept does not fit into the memory that is allowed.
    """

    def __init__(self, owner: Owner, folder: Path, newest: int, means: Means) -> None:
        self._owner = owner
        self._folder = folder
        self._means = means
        self._path = folder / f"{owner.gallery_pk}{SUFFIX}"
        self._layout = Layout.of(owner.dim)
        self._sizes = means.sizes or Sizes.of(owner.dim)
        self._changing = threading.Condition()
        self._keeping = threading.Lock()
        self._drafts: set[Path] = set()
        self._number = time.time_ns()
        self._sealing = False
        self._stuck = False
        self._owed = False
        self._closed = False
        self._costs = Costs()
        self._measured = False
        self._built = False
        self._kept, self._state = self._found(newest)
        self._named = {each.segment.path.name for each in self._state.sealed}
        means.builder.ask(self)

    @property
    def dim(self) -> int:
        """See `VectorIndex.dim`."""
        return self._owner.dim

    @property
    def kept(self) -> int:
        """See `VectorIndex.kept`."""
        return self._kept

    def __len__(self) -> int:
        """See `VectorIndex`."""
        return self._state.living

    def require_room(self, count: int) -> None:
        """See `VectorIndex.require_room`: for them, and for sealing all that has grown, without which it only grows."""
        waiting = 0 if self._sealing else self._state.growing.length
        more = memory.needed(self.dim, 0, count) + memory.to_seal(self.dim, waiting + count)
        memory.require(more, self._means.memory)

    def add(self, rows: Rows, embeddings: ArrayLike) -> None:
        """See `VectorIndex.add`; waits where the builder has fallen far behind."""
        vectors = checked(embeddings, self.dim)
        keys = np.asarray(rows, dtype=np.int64)
        if keys.shape != vectors.shape[:1] or (keys < 0).any():
            raise ValueError(f"{len(vectors)} embeddings need as many rows, none negative")
        last = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
        with self._changing:
            self._changing.wait_for(self._has_room)
            self._state = self._dense(self._state.with_added(keys[last], vectors[last]))
        if self._due() is not None:
            self._means.builder.ask(self)

    def remove(self, rows: Rows) -> int:
        """See `VectorIndex.remove`."""
        with self._changing:
            state, removed = self._state.without(np.unique(np.asarray(rows, dtype=np.int64)))
            self._state = self._dense(state)
            self._owed = self._owed or removed > 0
        if removed and self._due() is not None:
            self._means.builder.ask(self)
        return removed

    @property
    def scan_share(self) -> float:
        """See `VectorIndex.scan_share`."""
        self._measure()
        return self._costs.scan_share

    def search(self, probes: ArrayLike, k: int, without: Rows | None = None) -> Matches:
        """See `VectorIndex.search`."""
        vectors, state, threads = checked(probes, self.dim), self._state, self._means.threads
        rows = np.unique(np.asarray(() if without is None else without, dtype=np.int64))
        way: Way = "full"
        if len(rows):
            # For more than `MANY` every row is scored.
            way = self._costs.past(len(rows), state.living) if k + len(rows) <= MANY else "filtered"
        began = time.perf_counter()
        if way == "filtered":
            matches = state.search_without(vectors, k, rows, threads)
        elif way == "passed":
            return state.search(vectors, k + len(rows), threads).past(rows, k)
        else:
            matches = state.search(vectors, k, threads)
        if len(vectors):
            self._costs.learn(way, (time.perf_counter() - began) / len(vectors), state.living)
        return matches

    def score(self, probes: ArrayLike, rows: Rows) -> NDArray[np.float32]:
        """See `VectorIndex.score`."""
        vectors, keys = checked(probes, self.dim), np.asarray(rows, dtype=np.int64)
        began = time.perf_counter()
        scores = self._state.score(vectors, keys, self._means.threads)
        if len(vectors):
            self._costs.learn("direct", (time.perf_counter() - began) / len(vectors), len(keys))
        return scores

    def keep(self, revision: int) -> None:
        """See `VectorIndex.keep`."""
        with self._keeping:
            files = set(self._folder.glob(f"{self._owner.gallery_pk}.*{SEGMENT}"))
            with self._changing:
                state, owed, self._owed = self._state, self._owed, False
                drafts = set(self._drafts)
            rows, embeddings = state.growing.since()
            named = tuple(snapshot.Named(each.segment.path.name, len(each.segment)) for each in state.sealed)
            header = snapshot.Header(self._owner, revision, len(rows), named)
            try:
                # What was removed goes first: that needs no space, and no snapshot that is written must fail for it.
                for each in state.sealed:
                    each.erase_dead()
                snapshot.write(self._path, header, rows, embeddings, [each.bits for each in state.sealed])
            except StorageError:
                if owed:
                    self._path.unlink(missing_ok=True)
                    self._kept = NEVER
                raise
            self._kept, self._named = revision, {each.name for each in named}
            for path in files - {each.segment.path for each in state.sealed} - drafts:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """See `VectorIndex.close`."""
        with self._changing:
            self._closed = True
            self._changing.notify_all()
        self._means.builder.forget(self)

    def build(self) -> bool:
        """Do one piece of what is due, and say whether there was any; called by the builder alone.

        Raises:
            StorageError: the disk or memory does not suffice; it is tried again later.
            Cancelled: the index was closed.
        """
        try:
            self._state.directory.prepare()
            self._measure()
            due = self._due()
            if due is None:
                if self._built:
                    self._built = False
                    give_back()
                return False
            self._built = True
            if due:
                self._merge(due)
            else:
                self._seal()
        except Exception:
            # Who waits to add something must not wait for what may never come about.
            with self._changing:
                self._stuck = True
                self._changing.notify_all()
            raise
        return True

    def _found(self, newest: int) -> tuple[int, State]:
        """The revision that is kept, and what is."""
        try:
            found = snapshot.read(self._path, self._owner, newest=newest)
            counts = sum(named.count for named in found.header.segments)
            memory.require(memory.needed(self.dim, counts, found.header.count), self._means.memory)
            # The disk goes on while rows are checked.
            files = [
                (self._folder / named.name, left_for_later(self.dim, named.count)) for named in found.header.segments
            ]
            threading.Thread(target=read_ahead, args=(files,), name="read-ahead", daemon=True).start()
            sealed = tuple(
                self._opened(named, bits) for named, bits in zip(found.header.segments, found.alive, strict=True)
            )
        except FileNotFoundError:
            pass
        except SnapshotError as error:
            log.warning("index of gallery %d is rebuilt from the catalog: %s", self._owner.gallery_pk, error.detail)
        else:
            growing = Flat.empty(self.dim).with_added(found.rows, found.embeddings)
            return found.header.revision, State.of(self._layout, sealed, growing)
        return NEVER, State.of(self._layout, (), Flat.empty(self.dim))

    def _opened(self, named: snapshot.Named, bits: Bits) -> Sealed:
        segment = Segment(self._folder / named.name, self._owner)
        if len(segment) != named.count:
            raise SnapshotError("a segment is not the one that the snapshot names")
        alive = segment.check(unpacked(bits, named.count), self._means.threads)
        sealed = _sealed(segment, self._means.parts(segment), alive)
        sealed.erase_dead()
        return sealed

    def _measure(self) -> None:
        """Learn what each way costs here, by going each way once."""
        if self._measured:
            return
        state, threads = self._state, self._means.threads
        rows = np.unique(state.sample(TRIED))
        if len(rows) < ENOUGH:
            return
        self._measured = True
        probe = np.eye(1, self.dim, dtype=np.float32)
        ways: dict[Way, tuple[Callable[[], object], int]] = {
            "direct": (lambda: state.score(probe, rows, threads), len(rows)),
            "filtered": (lambda: state.search_without(probe, 1, rows, threads), state.living),
            "full": (lambda: state.search(probe, 1, threads), state.living),
        }
        for way, (go, read) in ways.items():
            # Whatever takes longer was interrupted, as the builder's thread is where others have work.
            self._costs.seconds[way] = min(_seconds(go) for _ in range(TURNS)) / max(1, read)
        deeper = min(_seconds(lambda: state.search(probe, 1 + PASSED, threads)) for _ in range(TURNS))
        seconds = self._costs.seconds
        # Each of them is scored besides, which is all that it takes where the scan takes no longer for it.
        seconds["passed"] = max(seconds["direct"], (deeper - seconds["full"] * state.living) / PASSED)
        give_back()

    def _has_room(self) -> bool:
        return self._state.growing.length < self._sizes.waiting or self._stuck or self._closed

    def _due(self) -> tuple[Sealed, ...] | None:
        """Segments to be merged, none of them where the growing are to be sealed; None where nothing is due."""
        state, sizes = self._state, self._sizes
        if self._closed:
            return None
        if state.growing.length >= (sizes.growing if state.sealed else sizes.flat):
            return ()
        levels: dict[int, list[Sealed]] = {}
        for each in state.sealed:
            if len(each.segment) - each.living > DEAD * len(each.segment):
                return (each,)
            levels.setdefault(_level(each.living, sizes), []).append(each)
        for _, alike in sorted(levels.items()):
            if len(alike) >= sizes.fan and sum(each.living for each in alike[: sizes.fan]) <= sizes.most:
                return tuple(alike[: sizes.fan])
        return None

    def _seal(self) -> None:
        with self._changing:
            before, self._sealing = self._state, True
        try:
            memory.require(memory.to_seal(self.dim, before.growing.living), self._means.memory)
            rows, vectors = before.growing.since()
            source = building.growing(self._owner, rows, vectors, before.sealed[-1] if before.sealed else None)
            del vectors
            with self._draft() as path:
                segment, order = building.build(path, self._owner, source, self._places(rows), self._go_on)
                parts = self._means.parts(segment)
                directory = self._state.directory.with_last((*self._state.sealed, _whole(segment, parts)))
                with self._changing:
                    growing = self._state.growing
                    fresh = Flat.empty(self.dim).with_added(*growing.since(before.growing.length))
                    made = _sealed(segment, parts, growing.has(rows[order], before.growing.length))
                    self._state = State(self._layout, (*self._state.sealed, made), fresh, directory)
                    self._stuck = False
                    self._changing.notify_all()
                # Who left meanwhile was written nevertheless.
                made.erase_dead()
        finally:
            self._sealing = False

    def _merge(self, old: tuple[Sealed, ...]) -> None:
        if not any(each.living for each in old):
            with self._changing:
                rest = self._others(old)
                self._state = replace(self._state, sealed=rest, directory=Directory(rest))
            self._discard(old)
            return
        memory.require(memory.to_merge(self.dim, sum(each.living for each in old)), self._means.memory)
        source, segments, positions = building.living(old)
        with self._draft() as path:
            segment, order = building.build(path, self._owner, source, self._places(source.rows), self._go_on)
            parts = self._means.parts(segment)
            directory = Directory((*self._others(old), _whole(segment, parts)))
            directory.prepare()
            with self._changing:
                now = {each.segment.path: each.alive for each in self._state.sealed}
                alive = np.empty(len(order), np.bool_)
                for number, each in enumerate(old):
                    here = segments[order] == number
                    alive[here] = now[each.segment.path][positions[order[here]]]
                made = _sealed(segment, parts, alive)
                self._state = replace(self._state, sealed=(*self._others(old), made), directory=directory)
            made.erase_dead()
        self._discard(old)

    def _others(self, old: tuple[Sealed, ...]) -> tuple[Sealed, ...]:
        gone = {each.segment.path for each in old}
        return tuple(each for each in self._state.sealed if each.segment.path not in gone)

    def _discard(self, old: tuple[Sealed, ...]) -> None:
        """Delete files that no snapshot names; the others go with the next snapshot."""
        with self._keeping:
            for each in old:
                if each.segment.path.name not in self._named:
                    each.segment.path.unlink(missing_ok=True)

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A file name that nobody sweeps meanwhile."""
        with self._changing:
            self._number += 1
            path = self._folder / f"{self._owner.gallery_pk}.{self._number}{SEGMENT}"
            self._drafts.add(path)
        try:
            yield path
        finally:
            with self._changing:
                self._drafts.discard(path)

    def _go_on(self) -> None:
        if self._closed:
            raise Cancelled

    def _dense(self, state: State) -> State:
        """The same without the dead among the growing, once they are many; while those are sealed they stay."""
        growing = state.growing
        if self._sealing or growing.length - growing.living <= DEAD * growing.length:
            return state
        return replace(state, growing=Flat.empty(self.dim).with_added(*growing.since()))

    def _places(self, rows: Rows) -> NDArray[np.generic] | None:
        if self._means.order is None:
            return None
        try:
            return self._means.order(self._owner.gallery_pk, rows)
        except StorageError as error:
            log.warning("rows of gallery %d are kept as they came: %s", self._owner.gallery_pk, error.detail)
            return None


def _sealed(segment: Segment, parts: Sequence[Part], alive: NDArray[np.bool_]) -> Sealed:
    return Sealed(segment, parts, packed(alive), int(alive.sum()))


def _seconds(go: Callable[[], object]) -> float:
    began = time.perf_counter()
    go()
    return time.perf_counter() - began


def _whole(segment: Segment, parts: Sequence[Part]) -> Sealed:
    """A segment as if all of it were alive: a directory may know of the dead, who are told by their segment."""
    return _sealed(segment, parts, np.ones(len(segment), np.bool_))


def _level(living: int, sizes: Sizes) -> int:
    """Segments of a level are of about one size."""
    level = 0
    while living >= sizes.growing * sizes.fan ** (level + 1):
        level += 1
    return level
