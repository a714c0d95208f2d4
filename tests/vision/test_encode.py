import numpy as np
import pytest

from service.artifact.sample import crops
from service.errors import EngineError
from service.vision.encode import Encoder


class Table:
    """An engine that gives the rows it was made with."""

    name = "table"

    def __init__(self, rows):
        self.rows = np.array(rows, np.float32)
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        return {"embeddings": self.rows[: len(batch)]}


def test_crops_go_in_as_one_batch_in_their_order():
    engine, sample = Table(np.eye(4)), crops()
    given = Encoder(engine)(list(sample[:4]))
    np.testing.assert_array_equal(engine.batches[0], sample[:4])
    np.testing.assert_array_equal(given, np.eye(4))


def test_rows_are_brought_to_unit_length_exactly():
    draw = np.random.default_rng(1).normal(size=(8, 128))
    rows = draw / np.linalg.norm(draw, axis=1, keepdims=True) * 1.0005
    given = Encoder(Table(rows))(list(crops()))
    assert given.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(given.astype(np.float64), axis=1), 1, atol=1e-6)


def test_no_crops_give_no_embeddings():
    assert len(Encoder(Table(np.eye(4)))([])) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1.01, 0.99])
def test_vectors_that_are_no_embeddings_are_refused(value):
    rows = np.eye(4)
    rows[2, 2] = value
    encoder = Encoder(Table(rows))
    with pytest.raises(EngineError, match="table"):
        encoder(list(crops()[:4]))
    assert len(encoder(list(crops()[:2]))) == 2
