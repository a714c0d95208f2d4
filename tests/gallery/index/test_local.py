import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.errors import InvalidEmbeddingError
from service.gallery.index import building
from service.gallery.index.indexes import LocalIndexes
from service.gallery.index.local import Sizes
from service.gallery.index.protocol import NOBODY, Owner
from service.gallery.index.state import State

DIM = 16
OWNER = Owner(catalog="c", gallery_pk=1, model_digest="d", dim=DIM)
TINY = Sizes(flat=8, growing=6, fan=2, most=40, waiting=64)
"""Everything is sealed soon, and merged all the time."""
CLOSE = 1e-4
"""Above the error of sealed rows."""


def rows(*numbers):
    return np.array(numbers, dtype=np.int64)


@pytest.fixture(params=[None, TINY], ids=["growing", "sealed"])
def sizes(request):
    return request.param


@pytest.fixture
def indexes(tmp_path, sizes):
    indexes = LocalIndexes(tmp_path, threads=2, sizes=sizes)
    yield indexes
    indexes.close()


@pytest.fixture
def index(indexes):
    return indexes.of(OWNER, 0)


@pytest.fixture
def filled(index, unit):
    index.add(np.arange(20), unit(20))
    settle(index)
    return index


def settle(index):
    """Wait until nothing is left to be sealed or merged."""
    deadline = time.monotonic() + 10
    while index._due() is not None or index._drafts:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_has_grown_is_sealed(filled, sizes):
    assert (filled._state.growing.length == 20) == (sizes != TINY)
    assert sum(each.living for each in filled._state.sealed) + filled._state.growing.living == 20


def test_the_nearest_come_first_with_their_cosines(filled, unit):
    people, probes = unit(20), unit(3, seed=9)
    matches = filled.search(probes, 5)
    cosines = probes @ people.T
    np.testing.assert_array_equal(matches.rows, np.argsort(-cosines, axis=1)[:, :5])
    np.testing.assert_allclose(matches.scores, -np.sort(-cosines, axis=1)[:, :5], atol=CLOSE)
    assert (matches.rows.dtype, matches.scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("k", [1, 7, 30])
def test_of_equally_similar_people_the_lower_rows_come_first(tmp_path, unit, k):
    """Whoever enrolled one photo under several names is answered the same by every replica."""
    indexes = LocalIndexes(tmp_path)
    index, numbers = indexes.of(OWNER, 0), np.random.default_rng(0).permutation(600)
    index.add(numbers, np.tile(unit(20), (30, 1)))
    assert index.search(unit(20)[:1], k).rows[0].tolist() == np.sort(numbers[::20])[:k].tolist()
    indexes.close()


@pytest.mark.parametrize("probes", [0, 1, 40])
@pytest.mark.parametrize("k", [0, 1, 20, 25])
def test_any_number_of_probes_and_neighbours_has_its_shape(filled, unit, probes, k):
    matches = filled.search(unit(probes, seed=9), k)
    assert matches.rows.shape == matches.scores.shape == (probes, k)
    np.testing.assert_array_equal(matches.rows[:, 20:], NOBODY)
    np.testing.assert_array_equal(matches.scores[:, 20:], -np.inf)
    assert (matches.rows[:, :20] != NOBODY).all()


def test_many_probes_at_once_find_what_each_finds_alone(filled, unit):
    filled.remove(rows(3, 4))
    probes = unit(64, seed=9)
    together = filled.search(probes, 4)
    for number, probe in enumerate(probes):
        alone = filled.search(probe[np.newaxis], 4)
        np.testing.assert_array_equal(together.rows[number], alone.rows[0])


def test_who_does_not_count_is_passed_over(filled, unit):
    """A few or nearly everybody, and those who are not there."""
    probes = unit(3, seed=9)
    ranked = np.argsort(-(probes @ unit(20).T), axis=1)
    for gone in (rows(), ranked[0, :4], ranked[1, 1:], np.arange(20), rows(5, 5, 10**6)):
        found = filled.search(probes, 5, without=gone).rows
        for line, order in zip(found, ranked, strict=True):
            left = [row for row in order.tolist() if row not in gone][:5]
            assert [row for row in line.tolist() if row != NOBODY] == left


def test_what_everybody_costs_over_candidates_is_measured(tmp_path, unit):
    """Before anybody asks: the first who does shall not wait for it."""
    indexes = LocalIndexes(tmp_path, sizes=Sizes(flat=1000, growing=500))
    index = indexes.of(OWNER, 0)
    before = dict(index._costs.seconds)
    index.add(np.arange(1500), unit(1500))
    indexes.settle()
    assert all(index._costs.seconds[way] != before[way] for way in before)
    assert 0 < index.scan_share < 100
    index.close()
    indexes.close()


def test_the_cheaper_way_past_some_rows_is_gone_and_finds_the_same(filled, unit, monkeypatch):
    gone, masked = np.arange(5), []
    look = State.search_without

    def search_without(self, *arguments):
        masked.append(True)
        return look(self, *arguments)

    monkeypatch.setattr(State, "search_without", search_without)
    found = {}
    for passed in (0.0, 1.0):
        filled._costs.seconds.update(full=1e-7, filtered=2e-7, passed=passed)
        masked.clear()
        found[passed] = filled.search(unit(3, seed=9), 5, without=gone).rows.tolist()
        assert bool(masked) == (passed == 1.0)
        assert filled._costs.seconds["passed"] == passed
    assert found[0.0] == found[1.0]


@pytest.mark.parametrize(("dim", "most"), [(128, 32_768), (512, 8_192)])
def test_a_gallery_is_searched_exactly_up_to_16_mb_of_vectors(tmp_path, dim, most):
    drawn = np.random.default_rng(0).standard_normal((most, dim)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    indexes = LocalIndexes(tmp_path)
    index = indexes.of(replace(OWNER, dim=dim), 0)
    index.add(np.arange(1, most), drawn[1:])
    indexes.settle()
    assert not index._state.sealed
    index.add(rows(0), drawn[:1])
    indexes.settle()
    assert [len(each.segment) for each in index._state.sealed] == [most]
    index.add(most + np.arange(most // 2), drawn[: most // 2])
    indexes.settle()
    assert [len(each.segment) for each in index._state.sealed] == [most, most // 2]
    index.close()
    indexes.close()


def test_an_empty_index_finds_nobody(index, unit):
    matches = index.search(unit(2), 3)
    assert (matches.rows == NOBODY).all()
    assert len(index) == 0
    assert np.isnan(index.score(unit(2), rows(1))).all()


def test_an_index_whose_rows_are_all_removed_finds_nobody(filled, unit):
    assert filled.remove(np.arange(20)) == 20
    assert (filled.search(unit(2), 3).rows == NOBODY).all()
    assert len(filled) == 0
    filled.add(rows(5), unit(1))
    assert filled.search(unit(1), 2).rows.tolist() == [[5, NOBODY]]


def test_a_removed_row_is_not_found_by_the_next_search(filled, unit):
    people = unit(20)
    for row in range(20):
        assert filled.search(people[row : row + 1], 1).rows[0, 0] == row
        assert filled.remove(rows(row, row, 77)) == 1
        assert row not in filled.search(people[row : row + 1], 20).rows


def test_a_row_that_is_added_again_has_its_new_vector_only(filled, unit):
    new = unit(1, seed=99)
    filled.add(rows(7), new)
    assert len(filled) == 20
    everybody = filled.search(new, 30)
    assert (everybody.rows == 7).sum() == 1
    assert everybody.rows[0, 0] == 7
    np.testing.assert_allclose(filled.score(new, rows(7)), 1, atol=CLOSE)


def test_of_a_row_given_twice_the_last_counts(index, unit):
    index.add(rows(1, 2, 1), unit(3))
    assert len(index) == 2
    np.testing.assert_allclose(index.score(unit(3), rows(1, 2))[[2, 1], [0, 1]], 1, atol=CLOSE)


def test_the_caller_may_change_his_array_afterwards(index, unit):
    mine = unit(1)
    index.add(rows(1), mine)
    mine[:] = unit(1, seed=3)
    np.testing.assert_allclose(index.score(unit(1), rows(1)), 1, atol=CLOSE)


def test_scores_are_of_exactly_the_rows_given(filled, unit):
    filled.remove(rows(4))
    probes = unit(3, seed=9)
    scores = filled.score(probes, rows(8, 4, 8, 999, 0))
    expected = probes @ unit(20)[[8, 4, 8, 0, 0]].T
    np.testing.assert_allclose(scores[:, [0, 2, 4]], expected[:, [0, 2, 4]], atol=CLOSE)
    assert np.isnan(scores[:, [1, 3]]).all()


def test_scores_of_no_rows_and_no_probes_are_empty(filled, unit):
    assert filled.score(unit(3), rows()).shape == (3, 0)
    assert filled.score(unit(0), rows(1)).shape == (0, 1)


def test_large_rows_are_kept_exactly(index, unit):
    index.add(rows(2**62, 2**62 + 1), unit(2))
    assert index.search(unit(2), 1).rows.tolist() == [[2**62], [2**62 + 1]]


@pytest.mark.parametrize("bad", [np.eye(DIM + 1)[:1], 2 * np.eye(DIM)[:1], np.full((1, DIM), np.nan), np.eye(DIM)[0]])
def test_an_embedding_that_is_not_valid_is_refused_and_nothing_is_added(filled, bad):
    with pytest.raises(InvalidEmbeddingError):
        filled.add(rows(30), bad)
    with pytest.raises(InvalidEmbeddingError):
        filled.search(bad, 1)
    with pytest.raises(InvalidEmbeddingError):
        filled.score(bad, rows(1))
    assert len(filled) == 20


@pytest.mark.parametrize("bad", [rows(1, 2), rows(), rows(-1)])
def test_rows_that_do_not_fit_are_refused(filled, unit, bad):
    with pytest.raises(ValueError, match="rows"):
        filled.add(bad, unit(1))


def test_the_dead_move_out_when_more_than_a_quarter_is_dead(filled):
    filled.remove(np.arange(11))
    settle(filled)
    state = filled._state
    assert state.living == 9
    assert sum(len(each.segment) for each in state.sealed) + state.growing.length <= 12


def test_memory_and_files_do_not_grow_under_churn(index, unit, tmp_path, sizes):
    for turn in range(60):
        index.add(np.arange(30), unit(30, seed=turn))
        settle(index)
    index.keep(1)
    assert len(index) == 30
    assert sum(len(each.segment) for each in index._state.sealed) + index._state.growing.length <= 40
    assert len(list(tmp_path.iterdir())) == 1 + len(index._state.sealed)


class AgainstADict(RuleBasedStateMachine):
    """Does anything to an index and to a dict of vectors, and expects the same of both."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.indexes = LocalIndexes(Path(self.folder.name), sizes=TINY)
        self.index, self.known, self.drawn = self.indexes.of(OWNER, 0), {}, np.random.default_rng(1)
        self.revision = 0

    def teardown(self):
        self.index.close()
        self.indexes.close()
        self.folder.cleanup()

    @rule()
    def build_all(self):
        settle(self.index)

    @rule()
    def start_again(self):
        self.revision += 1
        self.index.keep(self.revision)
        self.index.close()
        self.index = self.indexes.of(OWNER, self.revision)
        assert self.index.kept == self.revision

    @rule(chosen=st.lists(st.integers(0, 35), max_size=20, unique=True), k=st.integers(0, 20))
    def search_without(self, chosen, k):
        probe = np.eye(DIM, dtype=np.float32)[3]
        left = [row for row in self.known if row not in chosen]
        ranked = sorted(left, key=lambda row: -float(probe @ self.known[row]))[:k]
        state, threads = self.index._state, self.index._means.threads
        for matches in (
            self.index.search(probe[None], k, without=rows(*chosen)),
            state.search_without(probe[None], k, np.unique(rows(*chosen)), threads),
        ):
            assert [row for row in matches.rows[0] if row != NOBODY] == ranked

    @rule(chosen=st.lists(st.integers(0, 30), max_size=12))
    def add(self, chosen):
        vectors = self.drawn.standard_normal((len(chosen), DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.index.add(rows(*chosen), vectors)
        self.known |= dict(zip(chosen, vectors, strict=True))

    @rule(chosen=st.lists(st.integers(0, 30), max_size=12))
    def remove(self, chosen):
        there = {row for row in chosen if row in self.known}
        assert self.index.remove(rows(*chosen)) == len(there)
        for row in there:
            del self.known[row]

    @rule(k=st.integers(0, 40))
    def search(self, k):
        probe = self.drawn.standard_normal(DIM).astype(np.float32)
        probe /= np.linalg.norm(probe)
        ranked = sorted(self.known, key=lambda row: -float(probe @ self.known[row]))[:k]
        matches = self.index.search(probe[np.newaxis], k)
        assert [row for row in matches.rows[0] if row != NOBODY] == ranked
        expected = [float(probe @ self.known[row]) for row in ranked]
        np.testing.assert_allclose(matches.scores[0, : len(ranked)], expected, atol=CLOSE)

    @invariant()
    def holds_as_many(self):
        assert len(self.index) == len(self.known)

    @invariant()
    def scores_the_same(self):
        probe = np.eye(DIM, dtype=np.float32)[:1]
        expected = [self.known[row][0] if row in self.known else np.nan for row in range(31)]
        np.testing.assert_allclose(self.index.score(probe, np.arange(31))[0], expected, atol=CLOSE)


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_searches_beside_changes_are_never_wrong(index, unit):
    """Each row has its own direction for ever, so whatever is found must have the score that belongs to it."""
    directions = unit(400)
    stop, faults = threading.Event(), []
    index.add(np.arange(100), directions[:100])

    def look(seed):
        draw = np.random.default_rng(seed)
        while not stop.is_set():
            probes = directions[draw.integers(0, 400, size=2)]
            matches = index.search(probes, 10)
            true = np.einsum("md,mkd->mk", probes, directions[matches.rows])
            found = matches.rows != NOBODY
            if not np.allclose(matches.scores[found], true[found], atol=CLOSE) or not found[:, 0].all():
                faults.append(matches)
            if any(len(set(each[each != NOBODY])) != (each != NOBODY).sum() for each in matches.rows):
                faults.append("twice")
            scores = index.score(probes, matches.rows[0])
            held = ~np.isnan(scores) & found[0]
            true = probes @ directions[matches.rows[0]].T
            if not np.allclose(scores[held], true[held], atol=CLOSE):
                faults.append(scores)

    lookers = [threading.Thread(target=look, args=(seed,)) for seed in range(3)]
    for looker in lookers:
        looker.start()
    draw = np.random.default_rng(77)
    for _ in range(300):
        some = draw.integers(1, 400, size=20)
        if draw.random() < 0.5:
            index.add(some, directions[some])
        else:
            index.remove(some)
    stop.set()
    for looker in lookers:
        looker.join()
    assert faults == []


class Held:
    """Stops whoever calls it until it is let go, and then does what it stands for."""

    def __init__(self, inner):
        self._inner, self.reached, self.go = inner, threading.Event(), threading.Event()

    def __call__(self, *arguments):
        self.reached.set()
        assert self.go.wait(60)
        return self._inner(*arguments)


def looks(index, unit):
    """Search and score, which must be answered soon."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(index.search, unit(20)[[7]], 1).result(20).rows.tolist() == [[7]]
        assert pool.submit(index.search, unit(20)[[7]], 3, rows(7)).result(20).rows.shape == (1, 3)
        assert pool.submit(index.score, unit(20)[[7]], rows(7)).result(20)[0, 0] == pytest.approx(1, abs=CLOSE)


@pytest.mark.parametrize("change", ["with_added", "without"])
def test_a_search_waits_for_no_change(filled, unit, monkeypatch, change):
    held = Held(getattr(State, change))

    def stopped(self, *arguments):
        return held(self, *arguments)

    monkeypatch.setattr(State, change, stopped)
    with ThreadPoolExecutor(1) as pool:
        changes = {"without": lambda: filled.remove(rows(3)), "with_added": lambda: filled.add(rows(30), unit(1))}
        work = pool.submit(changes[change])
        try:
            assert held.reached.wait(20)
            looks(filled, unit)
            assert len(filled) == 20
        finally:
            held.go.set()
        work.result(20)
    assert len(filled) == (19 if change == "without" else 21)


@pytest.mark.parametrize("due", ["seal", "merge"])
def test_a_search_waits_for_nothing_that_is_built(tmp_path, unit, monkeypatch, due):
    indexes = LocalIndexes(tmp_path, sizes=Sizes(flat=8, growing=20, fan=2))
    index = indexes.of(OWNER, 0)
    if due == "merge":
        index.add(100 + np.arange(20), unit(20, seed=5))
        indexes.settle()
    # Merges alone ask who is living; and do before they build.
    what = "build" if due == "seal" else "living"
    held = Held(getattr(building, what))
    monkeypatch.setattr(building, what, held)
    index.add(np.arange(20), unit(20))
    try:
        assert held.reached.wait(20)
        looks(index, unit)
        index.add(rows(500), unit(1, seed=8))
        index.remove(rows(3))
        looks(index, unit)
    finally:
        held.go.set()
    indexes.settle()
    assert not index._drafts
    assert np.isnan(index.score(unit(1), rows(3))).all()
    index.close()
    indexes.close()
