"""The indexes of galleries in Milvus, where one machine is outgrown: the same protocol over somebody else's engine.

One collection holds the people of all galleries of a catalog and model, with the gallery as partition key. An entry is
a person's vector under a number of its own (`id`), for a person who changes gets a new entry before the old one goes:
who is searched at that moment is found in either, never in none. (An upsert would do, were it not that Milvus 2.3 files
what it upserts under the partition of the primary key, where no search by gallery looks.)

Several processes fill one index. Each writes what the catalog says at that moment, one after the other, and what is
there already is not written again; so whoever lags behind cannot bring back what is gone. How far a gallery has been
followed is its mark in the catalog (`marks`), and an index without one is filled anew.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import select

from service.errors import IndexUnavailableError
from service.gallery import marks
from service.gallery.catalog import Catalog, WriteTransaction
from service.gallery.embeddings import Embeddings, Rows, checked, vector_from_bytes
from service.gallery.index.milvus_server import (
    ALL_WRITES_SEEN,
    NO_GALLERY,
    OWN_WRITES_SEEN,
    READ_SECONDS,
    WRITE_SECONDS,
    MilvusCollection,
    MilvusServer,
)
from service.gallery.index.planner import Costs, Way
from service.gallery.index.protocol import Matches, Owner
from service.gallery.schema import people

CHUNK: Final = 2048
"""Vectors in one call: 4 MB of 512 numbers each, where servers take 64 MB."""

MOST_MATCHES: Final = 16_384
"""Milvus returns no more for a probe."""

GUESSED: Final[dict[Way, float]] = {"direct": 4e-5, "full": 1e-5}
"""Seconds a row that is fetched, and a row that is looked through, before anything was measured."""

SPARE: Final = 8
"""Further matches asked for, since somebody who is just changing has two entries."""

Wanted = dict[int, Embeddings | None]
"""Row -> its vector, shape (dim,); None for a row that shall not be there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    id: int
    person: int
    vector: Embeddings


class MilvusIndex:
    """One gallery's vectors in a collection; see `VectorIndex`.

    Whatever is wrong with the server is an `IndexUnavailableError`, from every method.

    Args:
        owner: whose index.
        collection: where it is kept.
        catalog: the truth, and where the mark is.
    """

    def __init__(self, owner: Owner, collection: MilvusCollection, catalog: Catalog) -> None:
        self._owner = owner
        self._collection = collection
        self._catalog = catalog
        self._turn = threading.Lock()
        self._costs = Costs(dict(GUESSED))
        self._its = f"gallery == {owner.gallery_pk}"
        with catalog.write() as tx:
            if marks.begin(tx, owner.gallery_pk, collection.place):
                self._clear()
            self._kept = marks.of(tx, owner.gallery_pk, collection.place)
        self._count = self._counted()

    @property
    def dim(self) -> int:
        """See `VectorIndex.dim`."""
        return self._owner.dim

    @property
    def kept(self) -> int:
        """See `VectorIndex.kept`."""
        return self._kept

    def __len__(self) -> int:
        """How many rows could be found when this process changed something last."""
        return self._count

    def require_room(self, count: int) -> None:
        """See `VectorIndex.require_room`; the server has its own memory, and says itself when that is full."""

    def add(self, rows: Rows, embeddings: ArrayLike) -> None:
        """See `VectorIndex.add`."""
        vectors = checked(embeddings, self.dim)
        keys = np.asarray(rows, dtype=np.int64)
        if keys.shape != vectors.shape[:1] or (keys < 0).any():
            raise ValueError(f"{len(vectors)} embeddings need as many rows, none negative")
        self._bring_about(dict(zip(keys.tolist(), vectors, strict=True)))

    def remove(self, rows: Rows) -> int:
        """See `VectorIndex.remove`."""
        return self._bring_about(dict.fromkeys(np.asarray(rows, dtype=np.int64).tolist()))

    @property
    def scan_share(self) -> float:
        """See `VectorIndex.scan_share`."""
        return self._costs.scan_share

    def search(self, probes: ArrayLike, k: int, without: Rows | None = None) -> Matches:
        """See `VectorIndex.search`; its index compares everybody, so a filter loses nobody.

        Raises:
            ValueError: more matches are wanted, and there, than `MOST_MATCHES`.
        """
        vectors = checked(probes, self.dim)
        rows = [] if without is None else np.unique(np.asarray(without, dtype=np.int64)).tolist()
        matches = Matches.none(len(vectors), k)
        wanted = min(k, self._count)
        if wanted > MOST_MATCHES:
            raise ValueError(f"Milvus returns at most {MOST_MATCHES} matches; {wanted} are wanted")
        if not wanted or not len(vectors):
            return matches
        began = time.perf_counter()
        found = self._collection.ask(
            lambda client: client.search(
                self._collection.name,
                data=list(vectors),
                filter=f"{self._its} and person not in {rows}" if rows else self._its,
                limit=min(wanted + SPARE, MOST_MATCHES),
                output_fields=["person"],
                search_params={"metric_type": "IP"},
                consistency_level=OWN_WRITES_SEEN,
                timeout=READ_SECONDS,
            )
        )
        self._costs.learn("full", (time.perf_counter() - began) / len(vectors), self._count)
        for line, hits in enumerate(found):
            best = _newest(hits)[:wanted]
            matches.rows[line, : len(best)] = [row for row, _ in best]
            matches.scores[line, : len(best)] = [score for _, score in best]
        return matches

    def score(self, probes: ArrayLike, rows: Rows) -> NDArray[np.float32]:
        """See `VectorIndex.score`; the vectors are fetched and compared here, so no filter can lose anybody."""
        vectors = checked(probes, self.dim)
        keys = np.asarray(rows, dtype=np.int64)
        began = time.perf_counter()
        scores = np.full((len(vectors), len(keys)), np.nan, dtype=np.float32)
        for part in _parts(np.unique(keys).tolist()):
            newest = {entry.person: entry.vector for entry in self._entries(part, OWN_WRITES_SEEN)}
            places = [place for place, key in enumerate(keys.tolist()) if key in newest]
            if places:
                scores[:, places] = vectors @ np.stack([newest[int(keys[place])] for place in places]).T
        if len(vectors):
            self._costs.learn("direct", (time.perf_counter() - began) / len(vectors), len(keys))
        return scores

    def keep(self, revision: int) -> None:
        """See `VectorIndex.keep`: what Milvus has acknowledged it keeps, so only the mark moves on."""
        with self._catalog.write() as tx:
            marks.reach(tx, self._owner.gallery_pk, self._collection.place, revision)
        self._kept = revision

    def close(self) -> None:
        """See `VectorIndex.close`; the collection goes on for other galleries."""

    def _bring_about(self, wanted: Wanted) -> int:
        """Let the index hold these vectors and nothing else of these rows; returns how many rows went."""
        gone = 0
        with self._alone() as tx:
            for part in _parts(list(wanted)):
                gone += self._write(self._true(tx, {row: wanted[row] for row in part}))
            # Deletions show late, and this read waits for all that was written: later ones see it without waiting.
            self._count = self._counted()
        return gone

    @contextmanager
    def _alone(self) -> Iterator[WriteTransaction | None]:
        with self._turn:
            if not self._catalog.shared:
                yield None
                return
            with self._catalog.write() as tx:
                marks.take(tx, self._owner.gallery_pk, self._collection.place)
                yield tx

    def _true(self, tx: WriteTransaction | None, wanted: Wanted) -> Wanted:
        """What the catalog says of these rows now, where another process may have been further than the caller."""
        if tx is None:
            return wanted
        query = select(people.c.pk, people.c.fused).where(
            people.c.gallery_pk == self._owner.gallery_pk, people.c.pk.in_(wanted), people.c.fused.is_not(None)
        )
        found = {int(row.pk): vector_from_bytes(row.fused) for row in tx.connection.execute(query)}
        return {row: found.get(row) for row in wanted}

    def _write(self, wanted: Wanted) -> int:
        right: set[int] = set()
        had: set[int] = set()
        stale: list[int] = []
        for entry in self._entries(list(wanted), ALL_WRITES_SEEN if self._catalog.shared else OWN_WRITES_SEEN):
            had.add(entry.person)
            vector = wanted[entry.person]
            if vector is not None and entry.person not in right and np.array_equal(entry.vector, vector):
                right.add(entry.person)
            else:
                stale.append(entry.id)
        fresh = [
            {"gallery": self._owner.gallery_pk, "person": row, "embedding": vector}
            for row, vector in wanted.items()
            if vector is not None and row not in right
        ]
        name = self._collection.name
        if fresh:
            self._collection.ask(lambda client: client.insert(name, fresh, timeout=WRITE_SECONDS))
        if stale:
            self._collection.ask(lambda client: client.delete(name, ids=stale, timeout=WRITE_SECONDS))
        return sum(1 for row in had if wanted[row] is None)

    def _entries(self, rows: Sequence[int], level: str) -> list[_Entry]:
        """The entries of some rows, the oldest first."""
        found = self._collection.ask(
            lambda client: client.query(
                self._collection.name,
                filter=f"{self._its} and person in {list(rows)}",
                output_fields=["id", "person", "embedding"],
                consistency_level=level,
                timeout=READ_SECONDS,
            )
        )
        entries = [
            _Entry(int(each["id"]), int(each["person"]), np.asarray(each["embedding"], np.float32)) for each in found
        ]
        return sorted(entries, key=lambda entry: entry.id)

    def _counted(self) -> int:
        found = self._collection.ask(
            lambda client: client.query(
                self._collection.name,
                filter=self._its,
                output_fields=["count(*)"],
                consistency_level=ALL_WRITES_SEEN,
                timeout=READ_SECONDS,
            )
        )
        return int(found[0]["count(*)"])

    def _clear(self) -> None:
        """Take out what an index without a mark cannot vouch for."""
        self._collection.delete(self._its)


class MilvusIndexes:
    """The indexes of a catalog's galleries in a Milvus server or cluster; see `Indexes`.

    Args:
        server: the connection.
        catalog: the truth, and where the marks are.
    """

    def __init__(self, server: MilvusServer, catalog: Catalog) -> None:
        self._server = server
        self._catalog = catalog
        self._prefix = f"vultus_{catalog.id[:16]}_"
        self._collections: dict[str, MilvusCollection] = {}
        self._lock = threading.Lock()

    def of(self, owner: Owner, newest: int) -> MilvusIndex:  # noqa: ARG002 (the mark is part of the catalog, so never ahead of it)
        """See `Indexes.of`."""
        # Names of collections take letters, digits and underscores alone.
        model = hashlib.sha256(owner.model_digest.encode()).hexdigest()[:16]
        return MilvusIndex(owner, self._collection(f"{self._prefix}{model}_{owner.dim}"), self._catalog)

    def require_ready(self) -> None:
        """See `Indexes.require_ready`."""
        self._server.collections(self._prefix)

    def drop(self, gallery_pk: int) -> None:
        """See `Indexes.drop`; where the server does not answer, the next start's `sweep` does it."""
        try:
            self._delete(f"gallery == {gallery_pk}")
        except IndexUnavailableError as error:
            log.warning("the vectors of gallery %d stay until the next start: %s", gallery_pk, error.detail)

    def sweep(self, alive: Collection[int]) -> None:
        """See `Indexes.sweep`."""
        self._delete(f"gallery not in {sorted({NO_GALLERY, *alive})}")

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def _collection(self, name: str) -> MilvusCollection:
        with self._lock:
            if name not in self._collections:
                self._collections[name] = MilvusCollection(self._server, name, dim=int(name.rpartition("_")[2]))
            return self._collections[name]

    def _delete(self, which: str) -> None:
        for name in self._server.collections(self._prefix):
            self._collection(name).delete(which)


def _newest(hits: Any) -> list[tuple[int, float]]:
    """Rows and scores of one probe's hits, best first; of two entries of a person the newer one counts."""
    newest: dict[int, tuple[int, float]] = {}
    for hit in hits:
        person = int(hit["entity"]["person"])
        newest[person] = max(newest.get(person, (-1, 0.0)), (int(hit["id"]), float(hit["distance"])))
    return sorted(((row, score) for row, (_, score) in newest.items()), key=lambda match: (-match[1], match[0]))


def _parts(rows: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
