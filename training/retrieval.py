"""Retrieval measures: Recall@K, R-precision, MAP@R, and NMI of k-means clusters.

Every photo is a query against all others; the query itself is left out. Similarities are computed a block of queries by
a block of photos at a time, and only as many neighbours are kept as the largest class needs.

Source of R-precision and MAP@R: Musgrave, Belongie, Lim 2020, section 3.2. NMI: mutual information over the arithmetic
mean of the two entropies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import EvaluationError


@dataclass(frozen=True)
class Retrieval:
    """Measures over the queries that have at least one other photo of their person.

    Attributes:
        recall: share of queries with a photo of their person among the K nearest, by K.
        r_precision: mean share of a query's person among its R nearest, R being that person's other photos.
        map_at_r: the same, weighted towards the first places.
        queries: how many queries were measured.
    """

    recall: dict[int, float]
    r_precision: float
    map_at_r: float
    queries: int


def retrieval(
    vectors: NDArray[np.float32],
    labels: NDArray[np.integer],
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    most: int | None = None,
    block: int = 512,
    width: int = 65_536,
    seed: int = 0,
) -> Retrieval:
    """Measure retrieval.

    Args:
        vectors: (n, dim) unit vectors.
        labels: (n,) whose they are.
        ks: the K of Recall@K.
        most: queries at most, drawn from all; None takes all.
        block: queries at a time.
        width: photos that they are compared with at a time.
        seed: start of the drawing.

    Raises:
        EvaluationError: nobody has two photos.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    others = counts[inverse] - 1
    queries = np.flatnonzero(others > 0)
    if not len(queries):
        raise EvaluationError("nobody has two photos")
    if most is not None and most < len(queries):
        queries = np.sort(np.random.default_rng(seed).choice(queries, most, replace=False))
    hits_at = dict.fromkeys(ks, 0)
    precision = mean_precision = 0.0
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        depth = min(len(vectors) - 1, max(int(others[rows].max()), *ks))
        hits = inverse[_nearest(vectors, rows, depth, width)] == inverse[rows, None]
        for k in ks:
            hits_at[k] += int(hits[:, :k].any(axis=1).sum())
        r, places = others[rows, None], np.arange(1, depth + 1)
        within = hits & (places <= r)
        precision += float((within.sum(axis=1) / r[:, 0]).sum())
        mean_precision += float(((within * np.cumsum(hits, axis=1) / places).sum(axis=1) / r[:, 0]).sum())
    count = len(queries)
    return Retrieval({k: hits_at[k] / count for k in ks}, precision / count, mean_precision / count, count)


def _nearest(vectors: NDArray[np.float32], rows: NDArray[np.intp], depth: int, width: int) -> NDArray[np.intp]:
    """(queries, depth) numbers of the nearest other vectors, the nearest first."""
    scores = np.empty((len(rows), 0), np.float32)
    numbers = np.empty((len(rows), 0), np.intp)
    queries = vectors[rows]
    for start in range(0, len(vectors), width):
        found = queries @ vectors[start : start + width].T
        here = np.flatnonzero((rows >= start) & (rows < start + width))
        found[here, rows[here] - start] = -np.inf
        if found.shape[1] > depth:
            kept = np.argpartition(found, -depth, axis=1)[:, -depth:]
            found = np.take_along_axis(found, kept, axis=1)
        else:
            kept = np.broadcast_to(np.arange(found.shape[1]), found.shape)
        scores, numbers = np.concatenate([scores, found], axis=1), np.concatenate([numbers, kept + start], axis=1)
        if scores.shape[1] > depth:
            kept = np.argpartition(scores, -depth, axis=1)[:, -depth:]
            scores, numbers = np.take_along_axis(scores, kept, axis=1), np.take_along_axis(numbers, kept, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(numbers, order, axis=1)


def nmi(labels: NDArray[np.integer], clusters: NDArray[np.integer]) -> float:
    """Normalised mutual information of two labellings, 0 to 1; 1 where both put everything into one class."""
    _, a = np.unique(labels, return_inverse=True)
    _, b = np.unique(clusters, return_inverse=True)
    pairs, counts = np.unique(a.astype(np.int64) * (b.max() + 1) + b, return_counts=True)
    joint = counts / len(a)
    of_a, of_b = np.bincount(a) / len(a), np.bincount(b) / len(b)
    mutual = float(np.sum(joint * np.log(joint / (of_a[pairs // (b.max() + 1)] * of_b[pairs % (b.max() + 1)]))))
    mean_entropy = -float(np.sum(of_a * np.log(of_a)) + np.sum(of_b * np.log(of_b))) / 2
    return 1.0 if mean_entropy == 0 else max(0.0, mutual / mean_entropy)


def k_means(
    vectors: NDArray[np.float32], k: int, *, rounds: int = 20, seed: int = 0, numbers: int = 1 << 24
) -> NDArray[np.int64]:
    """(n,) clusters of unit vectors by Lloyd's rounds, begun at k different vectors (k-means++).

    Args:
        vectors: (n, dim).
        k: clusters.
        rounds: at most; fewer where nothing changes any more.
        seed: start of the drawing.
        numbers: similarities held at a time.

    Raises:
        EvaluationError: there are fewer vectors than clusters.
    """
    if not 1 <= k <= len(vectors):
        raise EvaluationError(f"{len(vectors)} vectors cannot make {k} clusters")
    random = np.random.default_rng(seed)
    chosen = [int(random.integers(len(vectors)))]
    lengths = np.einsum("ij,ij->i", vectors, vectors)
    distance = np.full(len(vectors), np.inf)
    for _ in range(1, k):
        last = chosen[-1]
        away = lengths + lengths[last] - 2 * (vectors @ vectors[last])
        away[last] = 0.0  # rounding would let it be drawn again
        distance = np.minimum(distance, away.clip(0.0))
        total = distance.sum()
        draw = random.choice(len(vectors), p=distance / total) if total > 0 else random.integers(len(vectors))
        chosen.append(int(draw))
    centres = vectors[chosen]
    nearest = np.full(len(vectors), -1, np.int64)
    block = max(1, numbers // k)
    for _ in range(rounds):
        before, nearest = nearest, np.empty(len(vectors), np.int64)
        squares = np.square(centres).sum(axis=1)
        for start in range(0, len(vectors), block):
            part = slice(start, start + block)
            nearest[part] = np.argmin(squares - 2 * vectors[part] @ centres.T, axis=1)
        if np.array_equal(nearest, before):
            break
        sums = np.zeros((k, vectors.shape[1]))
        np.add.at(sums, nearest, vectors)
        counts = np.bincount(nearest, minlength=k)[:, None]
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres).astype(np.float32)
    return nearest
