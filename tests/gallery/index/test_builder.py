"""The thread that seals and merges outlives whatever it meets."""

import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest

from service.errors import IndexMemoryError
from service.gallery.index import building
from service.gallery.index.builder import Builder
from tests.gallery.index.conftest import OWNER, TINY


class Failing:
    """An index that cannot be built on `times` times."""

    def __init__(self, error, times=1):
        self.error, self.times, self.asked, self.done = error, times, 0, threading.Event()

    def build(self):
        self.asked += 1
        if self.asked <= self.times:
            raise self.error
        self.done.set()
        return False


@pytest.fixture
def builder():
    builder = Builder()
    yield builder
    builder.close()


FAULTS = [MemoryError(), RuntimeError("Error in faiss"), IndexMemoryError("too much")]


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_what_fails_is_told_and_tried_again_and_the_others_are_built(builder, caplog, monkeypatch, error):
    monkeypatch.setattr("service.gallery.index.builder.AGAIN_SECONDS", 0.05)
    bad, good = Failing(error), Failing(error, times=0)
    builder.ask(bad)
    builder.ask(good)
    assert good.done.wait(10)
    assert bad.done.wait(10)
    assert "could not be built on" in caplog.text
    assert isinstance(error, IndexMemoryError) or "Traceback" in caplog.text
    builder.forget(bad)


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_nobody_who_adds_or_closes_waits_for_a_segment_that_cannot_be_made(tiny, unit, monkeypatch, error):
    def fail(*_):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(building, "build", fail)
        index = tiny().of(OWNER, 0)
        for first in range(0, 3 * TINY.waiting, 16):
            index.add(first + np.arange(16), unit(16, seed=first))
        assert (len(index), index._stuck) == (3 * TINY.waiting, True)
    assert index.search(unit(1, seed=0), 1).rows[0, 0] == 0
    index._means.builder.ask(index)
    index._means.builder.settle()
    assert (index._state.growing.length, index._stuck) == (0, False)
    index.close()


def test_what_would_not_fit_into_memory_is_neither_sealed_nor_merged_until_it_fits(tiny, unit, caplog):
    index = tiny().of(OWNER, 0)
    roomy = index._means
    full = replace(roomy, memory=0)
    index._means = full
    index.add(np.arange(20), unit(20))
    deadline = time.monotonic() + 10
    while not index._stuck:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert index._state.growing.length == 20
    assert "the index needs" in caplog.text
    index._means = roomy
    index._means.builder.ask(index)
    index._means.builder.settle()
    assert [len(each.segment) for each in index._state.sealed] == [20]
    index._means = full
    index.remove(np.arange(15))
    with pytest.raises(IndexMemoryError):
        index.build()
    assert [len(each.segment) for each in index._state.sealed] == [20]
    index._means = roomy
    index.close()


def test_an_index_that_was_closed_leaves_memory(tiny, unit):
    index = tiny().of(OWNER, 0)
    index.add(np.arange(20), unit(20))
    index._means.builder.settle()
    builder, gone = index._means.builder, weakref.ref(index)
    index.close()
    del index
    deadline = time.monotonic() + 10
    while gone() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    builder.settle()
