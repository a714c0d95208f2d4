"""How far down a search looks for the mate."""

import dataclasses

import numpy as np
import pytest

from service.gallery.index import building
from service.gallery.index.codes import Layout, Trust, turned
from service.gallery.index.devices import in_main_memory
from service.gallery.index.rows import restored
from service.gallery.index.sealed import DEEPEST, DEPTH, LEAST, MANY, SURE, Scan, Sealed
from service.gallery.index.segment import packed
from service.gallery.index.threads import Threads
from tests.gallery.index.conftest import OWNER


@pytest.fixture
def threads():
    threads = Threads(2)
    yield threads
    threads.close()


@pytest.fixture
def probes(unit):
    return turned(unit(2, seed=9), Layout.of(16))


class Bad:
    """A part whose coarse scores are the worse the better a row is, and tell so: nothing but a second look helps."""

    def __init__(self, segment, probe, claim):
        self.first, self.count, self.trust, self.asked, self.again = 0, len(segment), Trust(1.0, 0.05), [], []
        self.claim = claim
        self.exact = restored(segment.numbers, segment.scales) @ probe

    def nearest(self, probes, depth, wanted):
        self.asked.append(depth)
        depth = min(depth, self.count)
        places = np.argsort(self.exact)[:depth]
        return np.full((1, depth), self.claim, np.float32), places[None].astype(np.int64)

    def above(self, probe, least, wanted):
        self.again.append(least)
        places = np.arange(self.count) if self.claim > least else np.empty(0, np.int64)
        return np.full(len(places), self.claim, np.float32), places


def whole(segment, parts):
    return Sealed(segment, parts, packed(np.ones(len(segment), np.bool_)), len(segment))


def test_a_part_whose_last_candidate_hopes_for_more_is_looked_through_for_all_who_do(sealed, probes, threads):
    segment = sealed(5000)
    bad = Bad(segment, probes[0], claim=0.9)
    found = Scan([whole(segment, [bad])], threads).search(probes[:1], 1)
    assert found.rows[0, 0] == segment.rows[bad.exact.argmax()]
    assert bad.asked == [DEPTH]
    # The first few were the worst, so that everybody who could be a mate at all is asked for.
    assert bad.again == [pytest.approx(LEAST - SURE * 0.05)]


def test_a_part_whose_last_candidate_has_no_hope_is_left_alone(sealed, probes, threads):
    segment = sealed(5000)
    bad = Bad(segment, probes[0], claim=0.05)
    Scan([whole(segment, [bad])], threads).search(probes[:1], 1)
    assert bad.again == []


def test_the_second_look_is_for_whoever_hopes_for_more_than_the_best_so_far(sealed, probes, threads):
    """One part has the best and says so, the other claims that its worst few are as good."""
    segment = sealed(5000)
    good, bad = (Bad(segment, probes[0], claim=0.9) for _ in range(2))
    good.exact = -good.exact
    Scan([whole(segment, [good, bad])], threads).search(probes[:1], 1)
    best = -good.exact.min()
    assert bad.again == [pytest.approx(best - SURE * 0.05, abs=1e-4)]


def test_as_many_as_a_part_may_give_are_scored_the_most_hopeful_first(sealed, probes, threads):
    segment = sealed(DEEPEST + 3000)

    class Wide(Bad):
        def above(self, probe, least, wanted):
            scores = np.linspace(0.5, 0.9, self.count, dtype=np.float32)
            return scores, np.argsort(self.exact)

    wide = Wide(segment, probes[0], claim=0.9)
    found = Scan([whole(segment, [wide])], threads).search(probes[:1], 1)
    assert found.rows[0, 0] == segment.rows[wide.exact.argmax()]


@pytest.mark.parametrize("k", [1, DEPTH + 1, MANY, MANY + 1, 2990])
def test_as_many_as_are_wanted_are_found_in_order(sealed, unit, probes, threads, k):
    segment = sealed(3000)
    alive = np.ones(3000, np.bool_)
    alive[:5] = False
    one = Sealed(segment, in_main_memory(segment), packed(alive), 2995)
    found = Scan([one], threads).search(probes, k)
    exact = restored(segment.numbers, segment.scales) @ probes.T
    exact[:5] = -np.inf
    np.testing.assert_allclose(found.scores[:, 0], exact.max(axis=0), atol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert all(len(set(line.tolist())) == k for line in found.rows)
    if k > MANY:
        np.testing.assert_allclose(found.scores, -np.sort(-exact.T, axis=1)[:, :k], atol=1e-5)


def test_the_mate_of_every_probe_is_found_among_many(sealed, unit, threads):
    """In 16 dimensions impostors come close, so this fails if hopes were a little too low."""
    segment = sealed(20_000)
    own = restored(segment.numbers[::200], segment.scales[::200])
    rest = turned(unit(len(own), seed=3), Layout.of(16))
    rest -= np.einsum("nd,nd->n", rest, own)[:, None] * own
    asked = 0.93 * own + np.sqrt(1 - 0.93**2) * rest / np.linalg.norm(rest, axis=1, keepdims=True)
    found = Scan([whole(segment, in_main_memory(segment))], threads).search(asked.astype(np.float32), 1)
    exact = asked @ restored(segment.numbers, segment.scales).T
    np.testing.assert_array_equal(found.rows[:, 0], segment.rows[exact.argmax(axis=1)])


@pytest.mark.parametrize("k", [1, 5])
def test_long_vectors_come_in_the_order_of_their_cosines_where_8_bits_would_turn_them_over(tmp_path, unit, threads, k):
    """Pairs of twins that differ by less than 8 bits tell, each pair asked for by a probe near to both."""
    owner = dataclasses.replace(OWNER, dim=512)
    first, aside, probes = unit(400, dim=512), unit(400, seed=1, dim=512), unit(400, seed=2, dim=512)
    probes = as_units(0.6 * first + 0.8 * probes)
    vectors = np.concatenate([first, as_units(first + 3e-3 * aside)])
    source = building.growing(owner, np.arange(800), vectors, None)
    segment, _ = building.build(tmp_path / "1.7.segment", owner, source, None, lambda: None)
    across = turned(probes, Layout.of(512))
    exact = (probes @ vectors.T).astype(np.float64)
    by_8_bits = across @ restored(segment.numbers, segment.scales).T
    assert (by_8_bits.argmax(axis=1) != exact.argmax(axis=1)).sum() > 20
    found = Scan([whole(segment, in_main_memory(segment))], threads).search(across, k)
    # Two that differ by less than a hundred thousandth may come either way.
    best = np.take_along_axis(exact, found.rows[:, :1], axis=1)[:, 0]
    np.testing.assert_allclose(best, exact.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(found.scores[:, 0], exact.max(axis=1), atol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("dim", [16, 512])
def test_of_equally_similar_people_the_lower_rows_come_first(tmp_path, unit, threads, dim):
    owner = dataclasses.replace(OWNER, dim=dim)
    vectors = np.tile(unit(20, dim=dim), (30, 1))
    rows = np.random.default_rng(0).permutation(600)
    source = building.growing(owner, rows, vectors, None)
    segment, _ = building.build(tmp_path / "1.7.segment", owner, source, None, lambda: None)
    probe = turned(vectors[:1], Layout.of(dim))
    found = Scan([whole(segment, in_main_memory(segment))], threads).search(probe, 7)
    assert found.rows[0].tolist() == np.sort(rows[::20])[:7].tolist()


def as_units(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
