import hashlib

import numpy as np

from service.artifact import sample
from service.artifact.store import decode_sample, encode_sample

PINNED = "b751f2b0f496c1277485eb6c05a0cb3caf31c040a190777aa69718375e0908ab"


def test_every_machine_draws_the_same_pixels():
    assert hashlib.sha256(sample.crops().tobytes()).hexdigest() == PINNED


def test_the_crops_have_the_shape_of_the_contract_and_differ():
    crops = sample.crops()
    assert (crops.shape, crops.dtype) == ((8, 112, 112, 3), np.uint8)
    assert len({crop.tobytes() for crop in crops}) == 8


def test_kept_embeddings_come_back_as_they_were():
    embeddings = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    np.testing.assert_array_equal(decode_sample(encode_sample(embeddings), 16), embeddings)
