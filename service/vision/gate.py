"""How many photos are open at once, and how many may wait for their turn.

A photo that waits is its bytes; one that is open is its pixels and canvases, up to a hundred times more. So few are
open at once, whoever is more urgent goes first, and when too many wait the next one is refused.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from service.errors import OverloadedError
from service.vision.batching import Priority


class Gate:
    """Lets some in and keeps the others in line.

    Args:
        inside: most who are inside at once.
        waiting: most who wait; more are refused.
        name: of what passes, for messages.
    """

    def __init__(self, *, inside: int, waiting: int, name: str) -> None:
        self._free = inside
        self._most_waiting = waiting
        self._name = name
        self._line: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._number = count()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not turn.done() for _, _, turn in self._line)

    @asynccontextmanager
    async def passing(self, priority: Priority) -> AsyncIterator[None]:
        """Be inside.

        Raises:
            OverloadedError: too many wait already.
        """
        await self._enter(priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, priority: Priority) -> None:
        if self._free and not self.waiting:
            self._free -= 1
            return
        if self.waiting >= self._most_waiting:
            raise OverloadedError(f"{self._most_waiting} {self._name} are waiting already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (priority, next(self._number), turn))
        try:
            await turn
        except asyncio.CancelledError:
            # A turn that was given at the very moment its owner left goes to the next in line.
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        while self._line:
            _, _, turn = heapq.heappop(self._line)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
