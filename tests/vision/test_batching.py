import asyncio
import contextlib
import random
import threading
from collections import Counter

import pytest

from service.errors import NotReadyError, OverloadedError
from service.vision.batching import Batcher, Priority, Workers


class Worker:
    """Doubles numbers; notes every batch; waits at a gate; fails on request."""

    def __init__(self, *, open_gate=True):
        self.batches = []
        self.gate = threading.Event()
        self.running = self.most_running = 0
        self.bad = set()
        self.bad_batches = 0
        self._lock = threading.Lock()
        if open_gate:
            self.gate.set()

    def __call__(self, items):
        with self._lock:
            self.batches.append(list(items))
            self.running += 1
            self.most_running = max(self.running, self.most_running)
        try:
            assert self.gate.wait(10)
            if len(items) > 1 and self.bad_batches:
                self.bad_batches -= 1
                raise OSError("the whole batch failed")
            if self.bad & set(items):
                raise ValueError(f"bad item among {len(items)}")
            return [2 * item for item in items]
        finally:
            with self._lock:
                self.running -= 1


@pytest.fixture
def batched():
    """Runs a scenario, a coroutine function of a running batcher, over a worker."""

    def run(worker, scenario, *, workers=1, **options):
        async def main():
            settings = {"name": "numbers", "max_batch": 4, "capacity": 16} | options
            async with (
                asyncio.timeout(20),
                Workers(workers, "test") as threads,
                Batcher(worker, threads, **settings) as batcher,
            ):
                return await scenario(batcher)

        return asyncio.run(main())

    return run


async def until(true):
    while not true():  # noqa: ASYNC110 - nothing there tells when it becomes true
        await asyncio.sleep(0.001)


async def first_busy(batcher, worker, item=0):
    """Put an item in that keeps the only worker busy, and give its task."""
    task = asyncio.create_task(batcher.submit(item))
    await until(lambda: worker.batches)
    return task


def submitted(batcher, items, priority=Priority.INTERACTIVE):
    return [asyncio.create_task(batcher.submit(item, priority)) for item in items]


def test_each_caller_gets_the_result_of_its_own_item(batched):
    async def scenario(batcher):
        return await asyncio.gather(*(batcher.submit(item) for item in range(10)))

    assert batched(Worker(), scenario) == [2 * item for item in range(10)]


def test_an_idle_worker_starts_at_once_and_what_waits_becomes_the_next_batches(batched):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        tasks = [await first_busy(batcher, worker), *submitted(batcher, range(1, 7))]
        await until(lambda: batcher.waiting == 6)
        worker.gate.set()
        await asyncio.gather(*tasks)

    batched(worker, scenario)
    assert worker.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_full_queue_refuses_and_forgets_nobody(batched):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        tasks = [await first_busy(batcher, worker), *submitted(batcher, [1, 2, 3])]
        await until(lambda: batcher.waiting == 3)
        with pytest.raises(OverloadedError) as refusal:
            await batcher.submit(4)
        assert (refusal.value.retry_after, "numbers" in refusal.value.detail) == (1, True)
        worker.gate.set()
        return await asyncio.gather(*tasks)

    assert batched(worker, scenario, capacity=3) == [0, 2, 4, 6]


def test_a_refused_caller_is_served_when_there_is_room_again(batched):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        tasks = [await first_busy(batcher, worker), *submitted(batcher, [1])]
        await until(lambda: batcher.waiting == 1)
        with pytest.raises(OverloadedError):
            await batcher.submit(2)
        worker.gate.set()
        await asyncio.gather(*tasks)
        return await batcher.submit(2)

    assert batched(worker, scenario, capacity=1) == 4


def test_items_of_callers_that_left_are_not_worked_on(batched):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        tasks = [await first_busy(batcher, worker), *submitted(batcher, [1, 2, 3])]
        await until(lambda: batcher.waiting == 3)
        tasks[2].cancel()
        await asyncio.sleep(0)
        worker.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, gone, last = batched(worker, scenario)
    assert (first, second, last) == (0, 2, 6)
    assert isinstance(gone, asyncio.CancelledError)
    assert worker.batches == [[0], [1, 3]]


def test_callers_that_left_make_room_in_a_full_queue(batched):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        first = await first_busy(batcher, worker)
        gone = submitted(batcher, [1, 2])
        await until(lambda: batcher.waiting == 2)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        late = submitted(batcher, [3, 4])
        await until(lambda: batcher.waiting == 2)
        worker.gate.set()
        return await asyncio.gather(first, *late)

    assert batched(worker, scenario, capacity=2) == [0, 6, 8]


def test_a_caller_that_leaves_during_the_work_disturbs_nobody(batched):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        first = await first_busy(batcher, worker)
        first.cancel()
        worker.gate.set()
        return await batcher.submit(5)

    assert batched(worker, scenario) == 10


def test_a_bad_item_does_not_fail_its_neighbours(batched):
    worker = Worker(open_gate=False)
    worker.bad = {2}

    async def scenario(batcher):
        tasks = [await first_busy(batcher, worker), *submitted(batcher, [1, 2, 3])]
        await until(lambda: batcher.waiting == 3)
        worker.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, before, bad, after = batched(worker, scenario)
    assert (first, before, after) == (0, 2, 6)
    assert str(bad) == "bad item among 1"
    assert worker.batches == [[0], [1, 2, 3], [1], [2], [3]]


def test_a_batch_that_failed_as_a_whole_is_answered_item_by_item(batched):
    worker = Worker(open_gate=False)
    worker.bad_batches = 1

    async def scenario(batcher):
        tasks = [await first_busy(batcher, worker), *submitted(batcher, [1, 2])]
        await until(lambda: batcher.waiting == 2)
        worker.gate.set()
        return await asyncio.gather(*tasks)

    assert batched(worker, scenario) == [0, 2, 4]


def test_when_every_item_fails_everybody_hears_it_and_the_worker_lives_on(batched):
    worker = Worker()
    worker.bad = {1, 2, 3}

    async def scenario(batcher):
        failed = await asyncio.gather(*submitted(batcher, [1, 2, 3]), return_exceptions=True)
        return failed, await batcher.submit(4)

    failed, after = batched(worker, scenario)
    assert [type(error) for error in failed] == [ValueError] * 3
    assert after == 8


@pytest.mark.parametrize("given", [[], [1, 2, 3]], ids=["too few", "too many"])
def test_work_that_gives_another_number_of_results_leaves_nobody_waiting(batched, given):
    async def scenario(batcher):
        return await asyncio.gather(*submitted(batcher, [1, 2]), return_exceptions=True)

    for answer in batched(lambda _: given, scenario):
        assert isinstance(answer, Exception) or answer in given


def test_interactive_items_go_before_bulk_ones(batched):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        tasks = [await first_busy(batcher, worker)]
        tasks += submitted(batcher, [1, 2, 3], Priority.BULK)
        await until(lambda: batcher.waiting == 3)
        tasks += submitted(batcher, [4, 5])
        await until(lambda: batcher.waiting == 5)
        worker.gate.set()
        await asyncio.gather(*tasks)

    batched(worker, scenario, max_batch=2)
    assert worker.batches == [[0], [4, 5], [1, 2], [3]]


def test_shapes_are_never_mixed_and_keep_their_order(batched):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        tasks = [await first_busy(batcher, worker), *submitted(batcher, [1, 2, 3, 4, 5, 6, 7])]
        await until(lambda: batcher.waiting == 7)
        worker.gate.set()
        await asyncio.gather(*tasks)

    batched(worker, scenario, shape=lambda item: item % 2, max_batch=3)
    assert worker.batches == [[0], [1, 3, 5], [2, 4, 6], [7]]


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_batches_run_at_once_as_there_are_workers_and_no_more(batched, workers):
    worker = Worker(open_gate=False)

    async def scenario(batcher):
        tasks = submitted(batcher, range(8))
        await until(lambda: worker.running == workers)
        await asyncio.sleep(0.02)
        assert batcher.waiting == 8 - workers
        worker.gate.set()
        await asyncio.gather(*tasks)

    batched(worker, scenario, workers=workers, max_batch=1)
    assert worker.most_running == workers


def test_stopping_answers_everybody_who_waits_and_finishes_what_runs():
    worker = Worker(open_gate=False)

    async def main():
        async with asyncio.timeout(20), Workers(1, "test") as threads:
            async with Batcher(worker, threads, name="numbers", max_batch=4, capacity=16) as batcher:
                running = await first_busy(batcher, worker)
                waiting = [*submitted(batcher, [1, 2]), *submitted(batcher, [3], Priority.BULK)]
                await until(lambda: batcher.waiting == 3)
                asyncio.get_running_loop().call_later(0.02, worker.gate.set)
            with pytest.raises(NotReadyError):
                await batcher.submit(9)
            return await running, await asyncio.gather(*waiting, return_exceptions=True)

    running, waiting = asyncio.run(main())
    assert running == 0
    assert [type(error) for error in waiting] == [NotReadyError] * 3
    assert worker.batches == [[0]]


def test_before_it_runs_it_takes_nothing():
    async def main():
        await Batcher(Worker(), Workers(1, "test"), name="numbers", max_batch=4, capacity=16).submit(1)

    with pytest.raises(NotReadyError):
        asyncio.run(main())


def both(scenario):
    """Run a scenario over two batchers of one thread, which note their batches in one list: of letters, of numbers."""
    worker = Worker(open_gate=False)

    async def main():
        async with asyncio.timeout(20), Workers(1, "test") as threads:
            letters = Batcher(worker, threads, name="letters", max_batch=4, capacity=16)
            numbers = Batcher(worker, threads, name="numbers", max_batch=1, capacity=16)
            async with letters, numbers:
                tasks = [await first_busy(numbers, worker)]
                tasks += await scenario(letters, numbers)
                worker.gate.set()
                await asyncio.gather(*tasks)

    asyncio.run(main())
    return worker.batches[1:]


def test_what_is_urgent_goes_before_the_bulk_of_another_batcher():
    async def scenario(first, second):
        tasks = submitted(first, "abc", Priority.BULK) + submitted(second, [1])
        await until(lambda: (first.waiting, second.waiting) == (3, 1))
        return tasks

    assert both(scenario) == [[1], ["a", "b", "c"]]


@pytest.mark.parametrize("seed", range(3))
def test_of_2000_callers_that_come_leave_and_fail_none_is_lost(batched, seed):
    draw = random.Random(seed)
    worker = Worker()
    worker.bad = {item for item in range(2000) if draw.random() < 0.02}
    outcomes = Counter()

    async def caller(batcher, item):
        await asyncio.sleep(draw.random() * 0.4)
        task = asyncio.create_task(batcher.submit(item, draw.choice(list(Priority))))
        if draw.random() < 0.2:
            await asyncio.sleep(draw.random() * 0.005)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            try:
                assert await task == 2 * item
                outcomes["result"] += 1
            except ValueError:
                assert item in worker.bad
                outcomes["error"] += 1
            except OverloadedError:
                outcomes["refusal"] += 1
            return
        outcomes["left"] += 1

    async def scenario(batcher):
        await asyncio.gather(*(caller(batcher, item) for item in range(2000)))
        assert batcher.waiting == 0

    batched(worker, scenario, shape=lambda item: item % 3, capacity=200, workers=2)
    assert outcomes.total() == 2000
    assert min(outcomes["result"], outcomes["error"], outcomes["left"]) > 0
    assert max(len(batch) for batch in worker.batches) == 4
    assert all(len({item % 3 for item in batch}) == 1 for batch in worker.batches)
    assert worker.most_running <= 2
