import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.identify.fusion import fuse

QUALITY = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def unit(n, dim=8, seed=0):
    drawn = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def slowly(embeddings, quality):
    total = [0.0] * len(embeddings[0])
    for vector, given_quality in zip(embeddings.tolist(), quality, strict=True):
        q = min(max(given_quality, 0.05), 0.95)
        for place, value in enumerate(vector):
            total[place] += q / (1 - q * q) * value
    length = math.sqrt(sum(value * value for value in total))
    return [value / length for value in total]


@given(QUALITY, st.integers(0, 1000))
def test_it_is_the_weighted_mean_brought_to_unit_length(quality, seed):
    embeddings = unit(len(quality), seed=seed)
    fused = fuse(embeddings, np.array(quality))
    np.testing.assert_allclose(fused, slowly(embeddings, quality), atol=1e-4)
    assert fused.dtype == np.float32
    assert abs(np.linalg.norm(fused.astype(np.float64)) - 1) < 1e-6


def test_one_template_stands_for_itself():
    np.testing.assert_allclose(fuse(unit(1), np.array([0.3])), unit(1)[0], atol=1e-7)


@pytest.mark.parametrize("templates", [1, 3])
def test_many_people_at_once_come_out_as_one_by_one(templates):
    embeddings = unit(20 * templates, dim=129).reshape(20, templates, 129)
    quality = np.random.default_rng(1).random((20, templates))
    alone = [fuse(theirs, weights) for theirs, weights in zip(embeddings, quality, strict=True)]
    np.testing.assert_array_equal(fuse(embeddings, quality), alone)


@given(QUALITY)
def test_the_order_of_templates_does_not_matter(quality):
    embeddings, quality = unit(len(quality), seed=3), np.array(quality)
    np.testing.assert_allclose(fuse(embeddings[::-1], quality[::-1]), fuse(embeddings, quality), atol=1e-6)


def test_a_better_template_counts_for_more():
    embeddings = np.eye(2, dtype=np.float32)
    first, second = fuse(embeddings, np.array([0.9, 0.5]))
    assert first / second == pytest.approx((0.9 / (1 - 0.81)) / (0.5 / (1 - 0.25)))


def test_no_quality_is_worth_nothing_or_everything():
    embeddings = np.eye(2, dtype=np.float32)
    first, second = fuse(embeddings, np.array([1.0, 0.0]))
    assert first / second == pytest.approx((0.95 / (1 - 0.95**2)) / (0.05 / (1 - 0.05**2)))


def test_where_templates_cancel_each_other_the_best_stands():
    one = unit(1)
    embeddings = np.concatenate([one, -one])
    np.testing.assert_allclose(fuse(embeddings, np.array([0.5, 0.5])), one[0], atol=1e-6)
    quality = np.array([0.95, 1.0])
    np.testing.assert_allclose(fuse(embeddings, quality), one[0], atol=1e-6)


def test_a_fused_vector_is_nearer_to_the_truth_than_a_template():
    draw = np.random.default_rng(4)
    truth, gained = unit(1, dim=64)[0], []
    for _ in range(200):
        quality = draw.uniform(0.3, 0.8, size=5)
        noise = unit(5, dim=64, seed=int(draw.integers(1 << 30)))
        seen = quality[:, None] * truth + np.sqrt(1 - quality[:, None] ** 2) * noise
        seen = (seen / np.linalg.norm(seen, axis=1, keepdims=True)).astype(np.float32)
        gained.append(fuse(seen, quality) @ truth - (seen @ truth).max())
    assert np.mean(gained) > 0.05


@pytest.mark.parametrize(("shape", "count"), [((0, 8), 0), ((2, 8), 3), ((8,), 8)])
def test_shapes_that_do_not_belong_together_are_refused(shape, count):
    with pytest.raises(ValueError, match="belong together"):
        fuse(np.ones(shape, dtype=np.float32), np.ones(count))


def test_a_single_template_is_fused_digit_for_digit_as_the_formula_says():
    rng = np.random.default_rng(5)
    for quality in (0.0, 0.3, 0.7, 1.0):
        vector = rng.standard_normal(128).astype(np.float32)
        vector /= np.linalg.norm(vector)
        q = np.clip(np.array([quality], np.float32).astype(np.float64), 0.05, 0.95)
        weights = q / (1 - q**2)
        mean = (weights / weights.sum()) @ vector[None].astype(np.float64)
        expected = (mean / np.linalg.norm(mean)).astype(np.float32)
        np.testing.assert_array_equal(fuse(vector[None], np.array([quality], np.float32)), expected)
