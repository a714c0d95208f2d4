"""What both kinds of shared state promise."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.shared import store
from service.shared.store import InProcess


def test_a_name_is_taken_once_and_says_with_what(shared):
    assert shared.claim("a", "one") is None
    assert shared.claim("a", "two") == "one"
    assert shared.claim("b", "two") is None


def test_a_name_is_let_go_by_whoever_took_it(shared):
    shared.claim("a", "one")
    shared.release("a", "two")
    assert shared.claim("a", "three") == "one"
    shared.release("a", "one")
    assert shared.claim("a", "three") is None


def test_of_many_at_once_one_takes_a_name(shared):
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda number: shared.claim("a", str(number)), range(40)))
    assert taken.count(None) == 1


def test_what_is_kept_is_found_until_its_time_is_over(shared):
    assert shared.get("a") is None
    shared.put("a", b"\x00\xff", 60)
    assert shared.get("a") == b"\x00\xff"
    shared.put("a", b"short", 0.05)
    time.sleep(0.1)
    assert shared.get("a") is None


def test_what_is_dropped_is_gone(shared):
    shared.put("a", b"x", 60)
    shared.drop("a")
    shared.drop("nothing")
    assert shared.get("a") is None


def test_a_limit_is_spent_and_says_when_there_is_more(shared):
    assert [shared.spend("a", 3, 60) for _ in range(3)] == [None] * 3
    assert 59 < shared.spend("a", 3, 60) <= 60
    assert shared.spend("b", 3, 60) is None


def test_a_limit_is_whole_again_after_its_time(shared):
    assert [shared.spend("a", 1, 0.05) is None for _ in range(2)] == [True, False]
    time.sleep(0.1)
    assert shared.spend("a", 1, 0.05) is None


def test_a_limit_that_renews_is_counted_from_the_last_that_was_spent(shared):
    assert shared.spend("a", 2, 0.4, renew=True) is None
    time.sleep(0.3)
    assert shared.spend("a", 2, 0.4, renew=True) is None
    time.sleep(0.2)
    assert 0 < shared.spend("a", 2, 0.4, renew=True) <= 0.2
    time.sleep(0.3)
    assert shared.spend("a", 2, 0.4, renew=True) is None


def test_a_dropped_limit_is_whole_again(shared):
    shared.spend("a", 1, 60)
    shared.drop("a")
    assert shared.spend("a", 1, 60) is None


def test_of_many_at_once_no_more_than_the_limit_are_let_through(shared):
    with ThreadPoolExecutor(8) as pool:
        assert sum(left is None for left in pool.map(lambda _: shared.spend("a", 7, 60), range(40))) == 7


def test_what_is_told_is_heard_by_all_who_listen(shared):
    heard, both = [], threading.Event()

    def hear(notice):
        heard.append(notice)
        if heard.count("news") >= 2:
            both.set()

    shared.listen(hear)
    shared.listen(hear)
    deadline = time.monotonic() + 10
    while not both.is_set() and time.monotonic() < deadline:
        shared.tell("news")
        both.wait(0.1)
    assert both.is_set()


class TestOfOneProcess:
    def test_it_is_alone(self):
        assert InProcess().state == "alone"

    def test_what_is_over_takes_no_memory(self):
        now = [0.0]
        kept = InProcess(lambda: now[0])
        for number in range(100):
            kept.put(str(number), b"x", 1)
            kept.spend(str(number), 1, 1)
        now[0] = 2
        kept.put("new", b"x", 1)
        kept.spend("new", 1, 1)
        assert (len(kept._kept), len(kept._spent)) == (1, 1)

    def test_the_oldest_leave_where_there_are_too_many(self, monkeypatch):
        monkeypatch.setattr(store, "MOST", 3)
        kept = InProcess()
        for number in range(5):
            kept.put(str(number), b"x", 60)
        assert [kept.get(str(number)) is not None for number in range(5)] == [False, False, True, True, True]


@pytest.mark.parametrize("name", ["", "with spaces and :", "ä🙂", "\x00", "x" * 500])
def test_any_name_is_a_name(shared, name):
    shared.put(name, b"x", 60)
    assert shared.claim(name + "c", "v") is None
    assert shared.get(name) == b"x"
