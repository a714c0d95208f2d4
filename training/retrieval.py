"""Retrieval measures: Recall@K, R-precision, MAP@R, and NMI of k-means clusters.

Every photo is a query against all others; the query itself is left out. Similarities are computed a block of queries at
a time and only as many neighbours are kept as the largest class needs.

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
    vectors: NDArray[np.float32], labels: NDArray[np.integer], ks: Sequence[int] = (1, 2, 4, 8), *, block: int = 1024
) -> Retrieval:
    """Measure retrieval.

    Args:
        vectors: (n, dim) unit vectors.
        labels: (n,) whose they are.
        ks: the K of Recall@K.
        block: queries at a time.

    Raises:
        EvaluationError: nobody has two photos.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    others = counts[inverse] - 1
    queries = np.flatnonzero(others > 0)
    if not len(queries):
        raise EvaluationError("nobody has two photos")
    depth = min(len(vectors) - 1, max(int(others.max()), *ks))
    hits_at = dict.fromkeys(ks, 0)
    precision = mean_precision = 0.0
    places = np.arange(1, depth + 1)
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        scores = vectors[rows] @ vectors.T
        scores[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        order = np.argsort(-np.take_along_axis(scores, nearest, axis=1), axis=1, kind="stable")
        hits = inverse[np.take_along_axis(nearest, order, axis=1)] == inverse[rows, None]
        for k in ks:
            hits_at[k] += int(hits[:, :k].any(axis=1).sum())
        r = others[rows, None]
        within = hits & (places <= r)
        precision += float((within.sum(axis=1) / r[:, 0]).sum())
        mean_precision += float(((within * np.cumsum(hits, axis=1) / places).sum(axis=1) / r[:, 0]).sum())
    count = len(queries)
    return Retrieval({k: hits_at[k] / count for k in ks}, precision / count, mean_precision / count, count)


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
    vectors: NDArray[np.float32], k: int, *, rounds: int = 20, seed: int = 0, block: int = 65_536
) -> NDArray[np.int64]:
    """(n,) clusters of unit vectors by Lloyd's rounds, begun at k different vectors (k-means++).

    Raises:
        EvaluationError: there are fewer vectors than clusters.
    """
    if not 1 <= k <= len(vectors):
        raise EvaluationError(f"{len(vectors)} vectors cannot make {k} clusters")
    random = np.random.default_rng(seed)
    centres = np.empty((k, vectors.shape[1]), np.float32)
    centres[0] = vectors[random.integers(len(vectors))]
    distance = np.full(len(vectors), np.inf)
    for i in range(1, k):
        distance = np.minimum(distance, np.square(vectors - centres[i - 1]).sum(axis=1))
        total = distance.sum()
        chosen = random.choice(len(vectors), p=distance / total) if total > 0 else random.integers(len(vectors))
        centres[i] = vectors[chosen]
    nearest = np.full(len(vectors), -1, np.int64)
    for _ in range(rounds):
        before = nearest
        parts = [
            np.argmin(np.square(centres).sum(axis=1) - 2 * vectors[start : start + block] @ centres.T, axis=1)
            for start in range(0, len(vectors), block)
        ]
        nearest = np.concatenate(parts)
        if np.array_equal(nearest, before):
            break
        sums = np.zeros((k, vectors.shape[1]))
        np.add.at(sums, nearest, vectors)
        counts = np.bincount(nearest, minlength=k)[:, None]
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres).astype(np.float32)
    return nearest
