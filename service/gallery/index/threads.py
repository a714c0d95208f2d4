"""Threads that serve one search together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import faiss

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads:
    """Shares work between the caller and helpers; safe to use from threads.

    Args:
        count: how many threads serve one caller, himself included.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(max(1, count - 1), thread_name_prefix="index")

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Do the same work on every item, and return the results in order; items should be alike in size."""
        shares = [items[first :: self.count] for first in range(min(self.count, len(items)))]
        waiting = [self.pool.submit(_alone, work, share) for share in shares[1:]]
        done = [_alone(work, shares[0])] if shares else []
        done += [each.result() for each in waiting]
        return [done[place % self.count][place // self.count] for place in range(len(items))]

    def close(self) -> None:
        """End the helpers."""
        self.pool.shutdown()


def _alone(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    # FAISS would share each small piece of work between threads of its own; the number is kept by thread.
    faiss.omp_set_num_threads(1)
    return [work(item) for item in items]
