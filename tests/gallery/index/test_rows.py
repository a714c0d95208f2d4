import numpy as np
import pytest

from service.gallery.index.rows import BLOCK, MOST, Chosen, number_type, quantised, restored, scores


@pytest.mark.parametrize(("dim", "wanted"), [(128, 1e-5), (512, 6e-4)])
def test_scores_are_off_by_what_is_stated(unit, dim, wanted):
    vectors, probes = unit(2000, dim=dim), unit(3, seed=9, dim=dim)
    numbers, scales, _ = quantised(vectors, number_type(dim))
    off = scores([Chosen(numbers, scales, np.arange(2000))], probes) - probes @ vectors.T
    assert off.std() < wanted
    assert off.std() == pytest.approx(scales.mean() / np.sqrt(12), rel=0.2)


@pytest.mark.parametrize("positions", [[], [5], [3, 4, 5, 6], [2, 2, 9, 700], [3, 3, 6, 8, 9], [0, *range(600)]])
def test_neighbours_and_others_are_scored_alike(unit, positions):
    vectors, probes = unit(1000), unit(2, seed=9)
    numbers, scales, _ = quantised(vectors, np.dtype(np.uint16))
    some = np.array(positions, np.int64)
    np.testing.assert_allclose(scores([Chosen(numbers, scales, some)], probes), probes @ vectors[some].T, atol=1e-4)


def test_more_rows_than_are_compared_at_once_are_scored(unit):
    vectors, probes = unit(MOST + 5, dim=16), unit(1, seed=9, dim=16)
    numbers, scales, _ = quantised(vectors, number_type(16))
    every = np.arange(len(vectors))
    told = scores([Chosen(numbers, scales, every)], probes)
    np.testing.assert_allclose(told, probes @ vectors.T, atol=1e-4)


def test_rows_of_several_segments_are_scored_in_turn(unit):
    """Some of them lie together and some do not, and more are brought together than fit in at once."""
    random, probes = np.random.default_rng(0), unit(2, seed=9, dim=16)
    segments = [unit(8 * BLOCK, seed=seed, dim=16) for seed in range(6)]
    positions = [
        np.sort(random.choice(8 * BLOCK, BLOCK // 3, replace=False)),
        np.arange(40, 90),
        np.sort(random.choice(8 * BLOCK, 2 * BLOCK, replace=False)),
        np.empty(0, np.int64),
        np.arange(7, 300, 2),
        np.array([0, 8 * BLOCK - 1]),
    ]
    chosen = [
        Chosen(*quantised(vectors, number_type(16))[:2], here)
        for vectors, here in zip(segments, positions, strict=True)
    ]
    wanted = np.concatenate([vectors[here] for vectors, here in zip(segments, positions, strict=True)])
    np.testing.assert_allclose(scores(chosen, probes), probes @ wanted.T, atol=1e-4)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_quantising_again_changes_nothing(unit, kind):
    numbers, scales, rests = quantised(unit(500), np.dtype(kind))
    again = quantised(restored(numbers, scales), np.dtype(kind))
    np.testing.assert_array_equal(again[0], numbers)
    again = quantised(restored(numbers, scales, rests), np.dtype(kind))
    np.testing.assert_array_equal(again[0], numbers)
    np.testing.assert_array_equal(again[2], rests)


def test_numbers_in_8_bits_are_the_nearest(unit):
    vectors = unit(300, dim=512)
    numbers, scales, _ = quantised(vectors, number_type(512))
    assert np.abs(restored(numbers, scales) - vectors).max(axis=1) == pytest.approx(scales / 2, rel=0.02)


def test_rests_bring_the_error_to_what_is_stated(unit):
    vectors, probes = unit(2000, dim=512), unit(3, seed=9, dim=512)
    numbers, scales, rests = quantised(vectors, number_type(512))
    off = probes @ (restored(numbers, scales, rests) - vectors).T
    assert off.std() == pytest.approx(1.3e-6, rel=0.2)
    assert off.std() == pytest.approx(scales.mean() / 256 / np.sqrt(12), rel=0.2)


def test_shorter_vectors_have_no_rests(unit):
    assert quantised(unit(9, dim=256), number_type(256))[2].shape == (9, 0)
