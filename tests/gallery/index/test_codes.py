import faiss
import numpy as np
import pytest

from service.gallery.index.codes import Book, FastScan, Layout, Trust, rotation, turned
from service.gallery.index.segment import packed


@pytest.mark.parametrize("dim", [1, 16, 100, 128, 320, 512, 1000])
def test_a_layout_has_room_and_even_bytes(dim):
    layout = Layout.of(dim)
    assert layout.width >= dim
    assert layout.pieces * (layout.piece - 1) <= layout.width <= layout.spread
    assert layout.code_bytes % 8 == 0
    assert layout.code_bytes <= 64
    assert rotation(layout).shape == (layout.width, dim)


@pytest.mark.parametrize("dim", [6, 100, 128, 512])
def test_pieces_hold_every_number_once(unit, dim):
    layout = Layout.of(dim)
    vectors = turned(unit(5, dim=dim), layout)
    cut = layout.cut(vectors)
    assert cut.shape == (5, layout.pieces * layout.piece)
    np.testing.assert_array_equal(np.sort(cut[cut != 0]), np.sort(vectors[vectors != 0]))
    np.testing.assert_array_equal(layout.joined(cut), vectors)


@pytest.mark.parametrize("count", [3, 2000])
def test_turning_keeps_cosines(unit, count):
    vectors = unit(count, dim=100)
    across = turned(vectors, Layout.of(100))
    np.testing.assert_allclose(across[:50] @ across[:50].T, vectors[:50] @ vectors[:50].T, atol=1e-5)


@pytest.fixture
def sample(unit):
    return turned(unit(3000, dim=64), Layout.of(64))


@pytest.fixture
def book(sample):
    return Book.trained(Layout.of(64), sample)


def test_a_code_is_the_nearest_centroid_of_each_piece(book, sample):
    pieces = sample[:20].reshape(20, book.layout.pieces, -1)
    away = np.linalg.norm(pieces[:, :, None] - book.centroids, axis=3)
    chosen = away.argmin(axis=2)
    slow = np.stack([book.centroids[np.arange(book.layout.pieces), each].ravel() for each in chosen])
    np.testing.assert_array_equal(book.decoded(book.encoded(sample[:20])), slow)


def test_learning_comes_as_close_as_faiss_does(book, sample):
    theirs = faiss.ProductQuantizer(book.layout.width, book.layout.pieces, 4)
    theirs.train(sample)
    left = np.square(sample - theirs.decode(theirs.compute_codes(sample))).sum(axis=1).mean()
    assert np.square(sample - book.decoded(book.encoded(sample))).sum(axis=1).mean() < 1.05 * left


@pytest.mark.parametrize("count", [1, 31, 1000])
def test_a_scan_gives_the_products_of_probes_and_decoded_codes(book, sample, count):
    part = FastScan(book, book.encoded(sample[:count]), 64, Trust(1, 0))
    probes = sample[-3:]
    scores, places = part.nearest(probes, 10, None)
    slow = probes @ book.decoded(book.encoded(sample[:count])).T
    found = min(10, count)
    np.testing.assert_allclose(scores[:, :found], -np.sort(-slow, axis=1)[:, :found], atol=0.02)
    np.testing.assert_allclose(np.take_along_axis(slow, places[:, :found] - 64, axis=1), scores[:, :found], atol=0.02)


def test_a_scan_shows_only_what_is_wanted(book, sample):
    flags = np.zeros(1000, np.bool_)
    flags[[3, 500]] = True
    _, places = FastScan(book, book.encoded(sample[:1000]), 0, Trust(1, 0)).nearest(sample[:2], 5, packed(flags))
    assert {frozenset(line.tolist()) for line in places} == {frozenset({3, 500, -1})}


@pytest.mark.parametrize("alive", [None, 3])
def test_a_second_look_shows_everybody_above_a_score(book, sample, alive):
    part = FastScan(book, book.encoded(sample[:1000]), 64, Trust(1, 0))
    flags = np.ones(1000, np.bool_) if alive is None else np.arange(1000) % alive == 0
    wanted = None if alive is None else packed(flags)
    for probe in sample[-3:]:
        scores, places = (each[0] for each in part.nearest(probe[None], 1000, wanted))
        for few in (0, 1, 40, 200):
            least = float((scores[few - 1] + scores[few]) / 2) if few else float(scores[0]) + 1
            counts = (places >= 0) & (scores > least)
            told, found = part.above(probe[None], least, wanted)
            assert set(found.tolist()) == set(places[counts].tolist())
            assert len(found) == counts.sum()
            np.testing.assert_allclose(np.sort(told), np.sort(scores[counts]), atol=1e-6)
            assert flags[found - 64].all()


def test_trust_tells_how_far_coarse_scores_of_mates_are_off(book, sample, unit):
    trust = book.trust(sample)
    others = turned(unit(3000, seed=5, dim=64), book.layout)
    others -= np.einsum("nd,nd->n", others, sample)[:, None] * sample
    probes = 0.5 * sample + np.sqrt(0.75) * others / np.linalg.norm(others, axis=1, keepdims=True)
    coarse = np.einsum("nd,nd->n", probes, book.decoded(book.encoded(sample))) / trust.slope
    assert coarse.mean() == pytest.approx(0.5, abs=0.01)
    assert coarse.std() == pytest.approx(trust.spread, rel=0.1)


def test_one_person_many_times_can_be_learnt_from(layout):
    same = np.tile(np.eye(layout.width, dtype=np.float32)[:1], (5, 1))
    book = Book.trained(layout, same)
    assert book.trust(same) == Trust(1.0, 0.0)
    np.testing.assert_allclose(book.decoded(book.encoded(same)), same, atol=1e-6)
