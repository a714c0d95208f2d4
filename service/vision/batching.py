"""Batches formed across requests, by one task that owns a bounded queue.

There is no timer: whenever a worker is free, whatever waits (up to `max_batch` of one shape) becomes the next batch,
so that an idle service answers at once and a busy one batches by itself. Whoever puts an item in gets a result, an
error or a refusal; items whose caller has left are dropped; interactive items go before bulk ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Generic, Self, TypeVar

from service.errors import NotReadyError, OverloadedError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Priority(IntEnum):
    """Which queue an item waits in; the lower number is served first."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(frozen=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    shape: Hashable
    answer: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Runs `work` over batches of items.

    Args:
        work: takes a list of items of one shape and returns as many results; called on the executor.
        executor: where batches run.
        name: of what is batched, for messages.
        max_batch: most items of a batch.
        capacity: most items waiting; more are refused.
        workers: batches that may run at once.
        shape: items with different values never share a batch.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], list[Result]],
        executor: Executor,
        *,
        name: str,
        max_batch: int,
        capacity: int,
        workers: int,
        shape: Callable[[Item], Hashable] = lambda _: None,
    ) -> None:
        self.name = name
        self._work = work
        self._executor = executor
        self._max_batch = max_batch
        self._capacity = capacity
        self._shape = shape
        self._queues: tuple[deque[_Waiting[Item, Result]], ...] = tuple(deque() for _ in Priority)
        self._arrived = asyncio.Event()
        self._workers = asyncio.Semaphore(workers)
        self._running: set[asyncio.Task[None]] = set()
        self._owner: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._owner = asyncio.create_task(self._own(), name=f"batches of {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.cancel()
            await asyncio.gather(owner, return_exceptions=True)
        for waiting in (item for line in self._queues for item in line):
            if not waiting.answer.done():
                waiting.answer.set_exception(NotReadyError("the service is stopping"))
        for line in self._queues:
            line.clear()
        await asyncio.gather(*self._running)

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
        if self._owner is None:
            raise NotReadyError("the service is stopping")
        if self.waiting >= self._capacity:
            self._drop_the_gone()
        if self.waiting >= self._capacity:
            raise OverloadedError(f"{self._capacity} {self.name} are waiting already")
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queues[priority].append(_Waiting(item, self._shape(item), answer))
        self._arrived.set()
        return await answer

    async def _own(self) -> None:
        while True:
            await self._arrived.wait()
            await self._workers.acquire()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                self._workers.release()
                continue
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        self._drop_the_gone()
        line = next((line for line in self._queues if line), None)
        if line is None:
            return []
        shape = line[0].shape
        batch: list[_Waiting[Item, Result]] = []
        left: deque[_Waiting[Item, Result]] = deque()
        while line and len(batch) < self._max_batch:
            waiting = line.popleft()
            (batch if waiting.shape == shape else left).append(waiting)
        line.extendleft(reversed(left))
        return batch

    def _drop_the_gone(self) -> None:
        for line in self._queues:
            if any(waiting.answer.done() for waiting in line):
                alive = [waiting for waiting in line if not waiting.answer.done()]
                line.clear()
                line.extend(alive)

    async def _run(self, batch: list[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._call([waiting.item for waiting in batch])
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(result)
        except Exception as error:  # noqa: BLE001 - every waiter is answered, whatever went wrong
            if len(batch) == 1:
                _fail(batch[0], error)
            else:
                await self._run_singly(batch)
        finally:
            self._workers.release()

    async def _run_singly(self, batch: list[_Waiting[Item, Result]]) -> None:
        """One bad item must not fail its neighbours: find it by running each alone."""
        for waiting in batch:
            try:
                result = (await self._call([waiting.item]))[0]
                if not waiting.answer.done():
                    waiting.answer.set_result(result)
            except Exception as error:  # noqa: BLE001 - as above
                _fail(waiting, error)

    async def _call(self, items: list[Item]) -> list[Result]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._work, items)


def _fail(waiting: _Waiting[Item, Result], error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
