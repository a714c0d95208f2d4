"""Retrieval measures, counted again query by query, and two public implementations of the same numbers."""

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from training.errors import EvaluationError
from training.retrieval import k_means, nmi, retrieval


def vectors_of(count=90, people=20, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(people, size=count)
    vectors = np.random.default_rng(7).normal(size=(people, 8))[labels] + random.normal(0, 1.2, (count, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("block", [1, 13, 1000])
def test_the_measures_equal_a_slow_count(block):
    vectors, labels = vectors_of()
    recall, precision, mean_precision, queries = {1: 0, 5: 0}, 0.0, 0.0, 0
    for i in range(len(labels)):
        ranked = sorted((j for j in range(len(labels)) if j != i), key=lambda j: -float(vectors[i] @ vectors[j]))
        hits = [labels[j] == labels[i] for j in ranked]
        r = sum(hits)
        if not r:
            continue
        queries += 1
        for k in recall:
            recall[k] += any(hits[:k])
        precision += sum(hits[:r]) / r
        mean_precision += sum(hits[j] * sum(hits[: j + 1]) / (j + 1) for j in range(r)) / r
    result = retrieval(vectors, labels, (1, 5), block=block)
    assert result.queries == queries
    assert result.recall == pytest.approx({k: v / queries for k, v in recall.items()})
    assert result.r_precision == pytest.approx(precision / queries)
    assert result.map_at_r == pytest.approx(mean_precision / queries)


def test_without_two_photos_of_anybody_there_is_nothing_to_measure():
    with pytest.raises(EvaluationError, match="nobody has two photos"):
        retrieval(np.eye(3, dtype=np.float32), np.arange(3))


@pytest.mark.parametrize("seed", range(4))
def test_nmi_is_that_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(6, size=200)
    clusters = np.where(random.random(200) < 0.6, labels, random.integers(9, size=200))
    assert nmi(labels, clusters) == pytest.approx(normalized_mutual_info_score(labels, clusters))


def test_nmi_is_one_for_the_same_parts_by_other_names_and_zero_for_one_part():
    assert nmi(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2])) == pytest.approx(1)
    assert nmi(np.array([0, 0, 1, 1]), np.zeros(4, int)) == 0


def test_k_means_finds_groups_that_lie_apart():
    centres = np.eye(8, dtype=np.float32)
    labels = np.repeat(np.arange(8), 20)
    vectors = centres[labels] + np.random.default_rng(0).normal(0, 0.05, (160, 8)).astype(np.float32)
    assert nmi(labels, k_means(vectors, 8)) == pytest.approx(1)


def test_k_means_ends_where_every_vector_is_nearest_to_its_own_mean():
    vectors, _ = vectors_of(300)
    clusters = k_means(vectors, 10, rounds=200)
    means = np.stack([vectors[clusters == c].mean(axis=0) for c in range(10)])
    distances = np.square(vectors[:, None] - means).sum(axis=2)
    assert np.array_equal(distances.argmin(axis=1), clusters)


def test_more_clusters_than_vectors_are_refused():
    with pytest.raises(EvaluationError):
        k_means(np.ones((2, 3), np.float32), 3)
