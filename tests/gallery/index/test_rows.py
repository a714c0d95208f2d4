import numpy as np
import pytest

from service.gallery.index.rows import MOST, number_type, quantised, restored, scores


@pytest.mark.parametrize(("dim", "wanted"), [(128, 1e-5), (512, 6e-4)])
def test_scores_are_off_by_what_is_stated(unit, dim, wanted):
    vectors, probes = unit(2000, dim=dim), unit(3, seed=9, dim=dim)
    numbers, scales = quantised(vectors, number_type(dim))
    off = scores(numbers, scales, np.arange(2000), probes) - probes @ vectors.T
    assert off.std() < wanted
    assert off.std() == pytest.approx(scales.mean() / np.sqrt(12), rel=0.2)


@pytest.mark.parametrize("positions", [[], [5], [3, 4, 5, 6], [9, 2, 700, 2], [8, 3, 6, 3, 9], [*range(600), 3]])
def test_neighbours_and_others_are_scored_alike(unit, positions):
    vectors, probes = unit(1000), unit(2, seed=9)
    numbers, scales = quantised(vectors, np.dtype(np.uint16))
    some = np.array(positions, np.int64)
    np.testing.assert_allclose(scores(numbers, scales, some, probes), probes @ vectors[some].T, atol=1e-4)


def test_more_rows_than_are_compared_at_once_are_scored(unit):
    vectors, probes = unit(MOST + 5, dim=16), unit(1, seed=9, dim=16)
    numbers, scales = quantised(vectors, number_type(16))
    order = np.random.default_rng(0).permutation(len(vectors))
    np.testing.assert_allclose(scores(numbers, scales, order, probes), probes @ vectors[order].T, atol=1e-4)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_quantising_again_changes_nothing(unit, kind):
    numbers, scales = quantised(unit(500), np.dtype(kind))
    np.testing.assert_array_equal(quantised(restored(numbers, scales), np.dtype(kind))[0], numbers)
