import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.gallery.locks import SharedLock


def test_readers_hold_it_together():
    lock, together = SharedLock(), threading.Barrier(3, timeout=5)

    def read(_):
        with lock.shared():
            return together.wait() >= 0

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(read, range(3)))


def test_a_writer_is_alone():
    lock, inside, seen = SharedLock(), [0], []

    def work(number):
        for _ in range(50):
            if number % 2:
                with lock.alone():
                    inside[0] += 1
                    time.sleep(0)
                    seen.append(inside[0])
                    inside[0] -= 1
            else:
                with lock.shared():
                    seen.append(inside[0] + 1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert set(seen) == {1}


def test_a_writer_that_waits_goes_before_later_readers():
    lock, order, writer_waits = SharedLock(), [], threading.Event()

    def write():
        writer_waits.set()
        with lock.alone():
            order.append("writer")

    def read():
        with lock.shared():
            order.append("reader")

    with lock.shared():
        writer = threading.Thread(target=write)
        writer.start()
        writer_waits.wait(5)
        while not lock._writers_waiting:
            time.sleep(0.001)
        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.05)
        assert order == []
    writer.join(5)
    reader.join(5)
    assert order == ["writer", "reader"]


def test_an_error_inside_frees_it():
    lock = SharedLock()
    for hold in (lock.alone, lock.shared):
        with pytest.raises(ZeroDivisionError), hold():
            _ = 1 / 0
    with lock.alone():
        assert lock._writing
    assert not lock._writing
