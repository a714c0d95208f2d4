import numpy as np
import pytest

from service.errors import InvalidEmbeddingError
from service.gallery.embeddings import checked, from_bytes, to_bytes


def test_unit_vectors_pass_as_contiguous_float32(unit):
    given = np.asfortranarray(unit(5).astype(np.float64))
    passed = checked(given, 16)
    assert passed.dtype == np.float32
    assert passed.flags.c_contiguous
    np.testing.assert_allclose(passed, given, atol=1e-7)


def test_no_vectors_pass(unit):
    assert checked(np.empty((0, 16)), 16).shape == (0, 16)


@pytest.mark.parametrize(
    "given",
    [
        np.eye(16)[0],
        np.eye(15),
        np.full((1, 16), np.nan),
        np.full((1, 16), np.inf),
        np.full((1, 16), 1e38),
        np.zeros((1, 16)),
        1.01 * np.eye(16),
        "text",
        [["a"] * 16],
        [[1.0], [1.0, 2.0]],
    ],
    ids=["flat", "dimension", "nan", "infinity", "overflow", "zero", "length", "text", "texts", "ragged"],
)
def test_anything_else_is_refused(given):
    with pytest.raises(InvalidEmbeddingError):
        checked(given, 16)


def test_one_bad_vector_among_good_ones_is_refused(unit):
    given = unit(50)
    given[37, 3] = np.nan
    with pytest.raises(InvalidEmbeddingError):
        checked(given, 16)


def test_the_rounding_of_bfloat16_passes(unit):
    given = unit(100, dim=512).view(np.uint32) & np.uint32(0xFFFF0000)
    assert len(checked(given.view(np.float32) / np.linalg.norm(given.view(np.float32), axis=1, keepdims=True), 512))


def test_bytes_are_little_endian_float32_and_come_back(unit):
    given = unit(3)
    assert to_bytes(np.array([1.0, -2.0], dtype=">f4")) == b"\x00\x00\x80?\x00\x00\x00\xc0"
    back = from_bytes([to_bytes(each) for each in given], 16)
    np.testing.assert_array_equal(back, given)
    assert back.flags.writeable
