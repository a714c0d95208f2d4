"""Batches formed across requests, by threads that take whatever waits.

There is no timer: whenever a thread is free, whatever waits (up to `max_batch` of one shape) becomes the next batch,
so that an idle service answers at once and a busy one batches by itself. Whoever puts an item in gets a result, an
error or a refusal; items whose caller has left are dropped; interactive items go before bulk ones.

A thread takes its next batch itself: were it handed one by the event loop, each batch would cost two changes of thread
and, on a busy machine, a wait for both.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from service.errors import NotReadyError, OverloadedError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Priority(IntEnum):
    """Which queue an item waits in; the lower number is served first."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    shape: Hashable
    answer: asyncio.Future[Result]


class Workers:
    """Threads that run the batches of one or several batchers.

    Within a priority they are served in the order in which they were opened.

    Args:
        count: batches that may run at once.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._batchers: list[Batcher[Any, Any]] = []
        self.turn = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True) for number in range(count)
        ]

    async def __aenter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.turn:
            self._closing = True
            self.turn.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def serve(self, batcher: Batcher[Any, Any]) -> None:
        """Take batches from a batcher from now on."""
        with self.turn:
            self._batchers.append(batcher)

    def leave(self, batcher: Batcher[Any, Any]) -> None:
        """Take no more from it."""
        with self.turn:
            self._batchers.remove(batcher)

    def _work(self) -> None:
        while True:
            with self.turn:
                while (found := self._next()) is None:
                    if self._closing:
                        return
                    self.turn.wait()
            batcher, batch = found
            batcher.run(batch)

    def _next(self) -> tuple[Batcher[Any, Any], list[_Waiting[Any, Any]]] | None:
        for priority in Priority:
            for batcher in self._batchers:
                batch = batcher.take(priority)
                if batch:
                    return batcher, batch
        return None


class Batcher(Generic[Item, Result]):
    """Runs `work` over batches of items.

    Args:
        work: takes a list of items of one shape and returns as many results; called on one of the workers.
        workers: run the batches; they must be running as long as this is open.
        name: of what is batched, for messages.
        max_batch: most items of a batch.
        capacity: most items waiting; more are refused.
        shape: items with different values never share a batch.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Iterable[Result]],
        workers: Workers,
        *,
        name: str,
        max_batch: int,
        capacity: int,
        shape: Callable[[Item], Hashable] = lambda _: None,
    ) -> None:
        self.name = name
        self._work = work
        self._workers = workers
        self._max_batch = max_batch
        self._capacity = capacity
        self._shape = shape
        self._queues: tuple[deque[_Waiting[Item, Result]], ...] = tuple(deque() for _ in Priority)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = 0
        self._finished = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._workers.serve(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.leave(self)
        self._loop = None
        for waiting in (item for line in self._queues for item in line):
            if not waiting.answer.done():
                waiting.answer.set_exception(NotReadyError("the service is stopping"))
        for line in self._queues:
            line.clear()
        while self._running:
            self._finished.clear()
            await self._finished.wait()

    @property
    def waiting(self) -> int:
        """Items that wait for a worker."""
        return sum(len(line) for line in self._queues)

    async def submit(self, item: Item, priority: Priority = Priority.INTERACTIVE) -> Result:
        """Put an item in and wait for its result.

        Raises:
            OverloadedError: the queue is full.
            NotReadyError: the batcher is not running.
            Exception: whatever `work` raised for this item.
        """
        if self._loop is None:
            raise NotReadyError("the service is stopping")
        waiting: _Waiting[Item, Result] = _Waiting(item, self._shape(item), self._loop.create_future())
        with self._workers.turn:
            if self.waiting >= self._capacity:
                self._drop_the_gone()
            if self.waiting >= self._capacity:
                raise OverloadedError(f"{self._capacity} {self.name} are waiting already")
            self._queues[priority].append(waiting)
            self._workers.turn.notify()
        return await waiting.answer

    def take(self, priority: Priority) -> list[_Waiting[Item, Result]]:
        """Give the next batch of a priority to the worker that calls, in its turn."""
        line = self._queues[priority]
        self._drop_the_gone()
        if not line:
            return []
        shape = line[0].shape
        batch: list[_Waiting[Item, Result]] = []
        left: deque[_Waiting[Item, Result]] = deque()
        while line and len(batch) < self._max_batch:
            waiting = line.popleft()
            (batch if waiting.shape == shape else left).append(waiting)
        line.extendleft(reversed(left))
        self._running += 1
        return batch

    def _drop_the_gone(self) -> None:
        for line in self._queues:
            if any(waiting.answer.done() for waiting in line):
                alive = [waiting for waiting in line if not waiting.answer.done()]
                line.clear()
                line.extend(alive)

    def run(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Work on a batch, on the worker's thread, and have every caller answered."""
        outcomes: list[Result | Exception]
        try:
            outcomes = [*self._results([waiting.item for waiting in batch])]
        except Exception as error:  # noqa: BLE001 - every waiter is answered, whatever went wrong
            # One bad item must not fail its neighbours: it is found by running each alone.
            outcomes = [error] if len(batch) == 1 else [self._alone(waiting.item) for waiting in batch]
        batch[0].answer.get_loop().call_soon_threadsafe(self._answer, batch, outcomes)

    def _alone(self, item: Item) -> Result | Exception:
        try:
            return self._results([item])[0]
        except Exception as error:  # noqa: BLE001 - as above
            return error

    def _results(self, items: list[Item]) -> list[Result]:
        results = list(self._work(items))
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} {self.name}")
        return results

    def _answer(self, batch: list[_Waiting[Item, Result]], outcomes: list[Result | Exception]) -> None:
        self._running -= 1
        self._finished.set()
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(outcome, Exception):
                waiting.answer.set_exception(outcome)
            else:
                waiting.answer.set_result(outcome)
