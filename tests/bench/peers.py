"""Other indexes over the same crowd, as far as they are installed: recall of mates, speed, memory, time to build."""

from __future__ import annotations

import atexit
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from service.gallery.index.indexes import LocalIndexes
from service.gallery.index.memory import used
from service.gallery.index.protocol import Owner
from tests.bench.crowd import STRATA, Crowd, Probes, blocks, probes_of
from tests.bench.report import Report, note
from tests.milvus_server import Milvus

Vectors = NDArray[np.float32]
Search = Callable[[Vectors], int]
"""One probe (1, dim) -> the row that comes first."""

NEIGHBOURS = 21


@dataclass(frozen=True)
class Peer:
    """An index that was built."""

    name: str
    search: Search
    build_s: float
    bytes_each: float


def peers(
    report: Report, crowd: Crowd, people: int, folder: Path, out: Path | None, *, each: int, only: Sequence[str]
) -> None:
    """Measure indexes that are installed over the same people and probes, on one thread.

    What each was measured to do is kept in the folder, so that they may be measured in several runs and plotted
    together.

    Args:
        report: where figures go.
        crowd: whose members are looked for.
        people: how many.
        folder: where an index that lies on disk may lie.
        out: where the plot goes.
        each: probes a stratum and kind.
        only: words, one of which the name of an index must hold; any will do where there is none.
    """
    faiss.omp_set_num_threads(2)
    probes = probes_of(crowd, people, each)
    vectors = np.concatenate([block for _, block in blocks(crowd, people)])
    probes.watch(0, vectors)
    kept = folder / f"peers-{crowd.kind}-{crowd.dim}-{people}.json"
    shown: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name, make in {**FAISS, **OTHERS, "this index": _ours}.items():
        if only and not any(word in name for word in only):
            continue
        before, began = used(), time.perf_counter()
        faiss.omp_set_num_threads(2)
        search = make(vectors, folder)
        if search is None:
            note(f"{name} is not installed")
            continue
        peer = Peer(name, search, time.perf_counter() - began, (used() - before) / people)
        faiss.omp_set_num_threads(1)
        spent, recalls = _measured(peer, probes)
        shown[name] = (1000 * spent, min(recalls.values()))
        kept.write_text(json.dumps(shown))
        report.figure(
            "peer_ms",
            round(1000 * spent, 3),
            "ms",
            index=peer.name,
            recall={str(stratum): round(recall, 2) for stratum, recall in recalls.items()},
            build_s=round(peer.build_s, 1),
            bytes=round(peer.bytes_each),
            people=people,
            kind=crowd.kind,
            probes=len(probes.mates),
        )
        del search, peer
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        _plot(shown, out / "search_peers.png")


def _measured(peer: Peer, probes: Probes) -> tuple[float, dict[float, float]]:
    spent, found = [], []
    for probe in probes.vectors:
        began = time.perf_counter()
        found.append(peer.search(probe[None]))
        spent.append(time.perf_counter() - began)
    hit = np.array(found) == probes.mates
    # Of the mates that an exact scan puts first, the share that comes first here.
    first = probes.cosines > probes.rivals
    here = {stratum: first & np.isclose(probes.cosines, stratum) for stratum in STRATA}
    return float(np.median(spent)), {
        stratum: 100 * float(hit[each].mean()) if each.any() else 100.0 for stratum, each in here.items()
    }


def _first_of(index: Any, scale: float = 1.0) -> Search:
    return lambda probe: int(index.search(scale * probe, NEIGHBOURS)[1][0, 0])


def _flat(vectors: Vectors, _: Path) -> Search:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return _first_of(index)


def _int8(vectors: Vectors, _: Path) -> Search:
    kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
    index = faiss.IndexScalarQuantizer(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    scale = 127 / float(np.abs(vectors).max())
    for first in range(0, len(vectors), 50_000):
        index.add(np.rint(scale * vectors[first : first + 50_000]))
    return _first_of(index, scale)


def _factory(description: str, **parameters: int) -> Callable[[Vectors, Path], Search]:
    def make(vectors: Vectors, _: Path) -> Search:
        index = faiss.index_factory(vectors.shape[1], description, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, len(vectors) // 100_000)])
        index.add(vectors)
        space = faiss.ParameterSpace()
        for name, value in parameters.items():
            space.set_index_parameter(index, name, value)
        return _first_of(index)

    return make


FAISS: dict[str, Callable[[Vectors, Path], Search | None]] = {
    "faiss flat": _flat,
    "faiss 8bit_direct_signed": _int8,
    "faiss SQ8": _factory("SQ8"),
    "faiss HNSW32, ef 64": _factory("HNSW32,SQ8", efSearch=64),
    "faiss IVF1024, nprobe 64": _factory("IVF1024,SQ8", nprobe=64),
    "faiss RaBitQ": _factory("RaBitQ"),
}


def _usearch(vectors: Vectors, _: Path) -> Search | None:
    if importlib.util.find_spec("usearch") is None:
        return None
    index = importlib.import_module("usearch.index").Index(ndim=vectors.shape[1], metric="ip", dtype="i8")
    index.add(np.arange(len(vectors)), vectors, threads=2)
    return lambda probe: int(index.search(probe[0], NEIGHBOURS, threads=1).keys[0])


def _hnswlib(vectors: Vectors, _: Path) -> Search | None:
    if importlib.util.find_spec("hnswlib") is None:
        return None
    index = importlib.import_module("hnswlib").Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=200, M=16)
    index.set_num_threads(2)
    index.add_items(vectors)
    index.set_num_threads(1)
    index.set_ef(128)
    return lambda probe: int(index.knn_query(probe, k=NEIGHBOURS)[0][0, 0])


def _milvus(vectors: Vectors, folder: Path) -> Search | None:
    """A standalone server on this machine, asked as the service asks it; its memory is not this process's."""
    from service.gallery.index.milvus_server import MilvusCollection, MilvusServer

    milvus = Milvus.laid_out(folder / "milvus")
    milvus.start()
    atexit.register(milvus.kill)
    collection = MilvusCollection(MilvusServer(milvus.uri, ""), "bench", vectors.shape[1])
    for first in range(0, len(vectors), 2_000):
        part = vectors[first : first + 2_000]
        entries = [{"gallery": 1, "person": first + row, "embedding": vector} for row, vector in enumerate(part)]
        collection.ask(lambda client, entries=entries: client.insert("bench", entries))

    def search(probe: Vectors) -> int:
        options = {"filter": "gallery == 1", "output_fields": ["person"], "consistency_level": "Session"}
        hits = collection.ask(lambda client: client.search("bench", list(probe), limit=NEIGHBOURS, **options))
        return int(hits[0][0]["entity"]["person"])

    return search


OTHERS: dict[str, Callable[[Vectors, Path], Search | None]] = {
    "usearch i8": _usearch,
    "hnswlib, ef 128": _hnswlib,
    "Milvus FLAT": _milvus,
}


def _ours(vectors: Vectors, folder: Path) -> Search:
    place = folder / "ours"
    place.mkdir(exist_ok=True)
    indexes = LocalIndexes(place)
    index = indexes.of(Owner("bench", 1, "bench", vectors.shape[1]), 0)
    for first in range(0, len(vectors), 10_000):
        index.add(np.arange(first, first + len(vectors[first : first + 10_000])), vectors[first : first + 10_000])
    indexes.settle()
    return lambda probe: int(index.search(probe, NEIGHBOURS).rows[0, 0])


def _plot(shown: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for name, (spent, recall) in shown.items():
        axes.scatter(spent, recall)
        axes.annotate(name, (spent, recall), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("ms a search, one thread")
    axes.set_ylabel("mates found of those that an exact scan finds, worst stratum, %")
    figure.savefig(path, dpi=120, bbox_inches="tight")
