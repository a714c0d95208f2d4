"""What evaluation holds beside the embeddings: blocks, however many photos there are."""

import tracemalloc

import numpy as np
import pytest

from training.embed import embed
from training.figures import retrieval_of
from training.identification import Rows, search
from training.retrieval import retrieval
from training.verification import pair_scores

COUNT, DIM = 40_000, 64
SIZE = COUNT * DIM * 4


@pytest.fixture(scope="module")
def many():
    random = np.random.default_rng(0)
    labels = random.integers(COUNT // 4, size=COUNT)
    vectors = random.standard_normal((COUNT, DIM), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


def held(work):
    """Most bytes of Python's and numpy's memory that some work held at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_search_gathers_its_probes_and_templates_in_blocks(many):
    vectors, labels = many
    numbers = np.arange(COUNT)
    gallery, probes = numbers[: COUNT // 2], numbers[COUNT // 2 : COUNT // 2 + 2560]
    full = len(probes) * len(gallery) * 4
    work = lambda: search(  # noqa: E731 - handed on
        Rows(vectors, probes), labels[probes], Rows(vectors, gallery), labels[gallery], block=2500
    )
    assert held(work) < full / 5


def test_neighbours_are_kept_and_not_all_similarities(many):
    vectors, labels = many
    work = lambda: retrieval(vectors, labels, most=1024, block=512, width=4096)  # noqa: E731 - handed on
    assert held(work) < 1024 * COUNT * 4 / 3


def test_pairs_are_scored_in_blocks(many):
    vectors, _ = many
    pairs = np.random.default_rng(1).integers(COUNT, size=(500_000, 2))
    assert held(lambda: pair_scores(vectors, pairs)) < 500_000 * DIM * 4 / 2


def test_embedding_holds_its_answer_and_one_batch():
    class Endless:
        def __len__(self):
            return 2048

        def __getitem__(self, index, /):
            return photo

    photo = b"P6 112 112 255\n" + bytes(112 * 112 * 3)
    work = lambda: embed(lambda crops: np.ones((len(crops), 1024), np.float32), Endless())  # noqa: E731 - handed on
    assert held(work) < 1.3 * 2048 * 1024 * 4 + 64 * 112 * 112 * 3 * 3


def test_clusters_are_looked_for_among_photos_of_drawn_people(many, monkeypatch):
    vectors, labels = many
    monkeypatch.setattr("training.figures.CLUSTERED", 300)
    (found,) = [each for each in retrieval_of(vectors, labels, queries=64) if each["figure"] == "nmi"]
    assert 200 < found["photos"] <= 300
