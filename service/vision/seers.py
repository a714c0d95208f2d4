"""Processes that see photos, fed by the event loop: each photo is answered, whatever becomes of its process.

A process answers in the order in which it is given photos. When one dies, the first photo that it had is the one it
died over, or the machine had other reasons: that photo is given to the next process once more, and refused as damaged
if that dies as well. The others only wait a little longer.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Final, Self, cast

from service.errors import EngineError, NotReadyError, OverloadedError, PhotoDamagedError, VultusError
from service.vision.batching import Priority
from service.vision.process import SEEING, Process
from service.vision.see import SeenPhoto
from service.vision.seeing import Answer, Setup

AHEAD: Final = 2
"""Photos that a process has at once: one that it works on, and one that it finds waiting when that is done."""

TRIES: Final = 2
"""Processes that a photo may bring down."""

ON_A_GPU: Final = 4
"""Most processes that share a GPU: each holds some hundred megabytes of its memory."""

RETRY_SECONDS: Final = 5.0

HEAD: Final = struct.Struct("!i")
"""What comes before each message, as `multiprocessing.connection` has it: its length."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Waiting:
    photo: bytes
    answer: asyncio.Future[SeenPhoto]
    priority: Priority
    deaths: int = 0


class Seers:
    """Processes that see photos; for one event loop.

    Args:
        setup: what they need to know.
        count: how many.
        capacity: most photos waiting; more are refused.
        retry: seconds after which a process that could not be started is tried again.
        started: processes of `SEEING` that are used first; ended here, also those that are too many.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        count: int,
        capacity: int,
        retry: float = RETRY_SECONDS,
        started: Sequence[Process] = (),
    ) -> None:
        self._setup = setup
        self._started = [*started]
        self._retry = retry
        self._count = min(count, ON_A_GPU) if setup.detector[0] == "cuda" else count
        self._capacity = capacity
        self._queues: tuple[deque[_Waiting], ...] = tuple(deque() for _ in Priority)
        self._seers: list[_Seer] = []
        self._replacing: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._fault: VultusError | None = NotReadyError("the service is stopping")

    async def __aenter__(self) -> Self:
        faults = await asyncio.gather(*(self._start() for _ in range(self._count)), return_exceptions=True)
        for process in self._started:
            await asyncio.to_thread(process.end)
        for fault in faults:
            if fault is not None:
                await self._end()
                raise fault
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    @property
    def waiting(self) -> int:
        """Photos that no process has yet."""
        return sum(len(line) for line in self._queues)

    async def see(self, photo: bytes, priority: Priority = Priority.INTERACTIVE) -> SeenPhoto:
        """Have a photo seen.

        Raises:
            PhotoError: the photo cannot be used, or shows more faces than are looked at.
            OverloadedError: too many photos are waiting.
            EngineError: no process could be started.
            NotReadyError: they are not running.
        """
        if self._fault is not None:
            raise self._fault.with_traceback(None)  # raised for many, and none keeps the frames of those before
        if self.waiting >= self._capacity:
            self._drop_the_gone()
            if self.waiting >= self._capacity:
                raise OverloadedError(f"{self._capacity} photos are waiting already")
        waiting = _Waiting(photo, asyncio.get_running_loop().create_future(), priority)
        self._queues[priority].append(waiting)
        self._feed()
        return await waiting.answer

    def _feed(self) -> None:
        """Give photos to processes, to the least busy first, as far as they take any."""
        for line in self._queues:
            while line:
                seer = min(self._seers, key=lambda each: len(each.under_way), default=None)
                if seer is None or len(seer.under_way) >= AHEAD:
                    return
                waiting = line.popleft()
                if not waiting.answer.done():
                    seer.give(waiting)

    def answered(self, waiting: _Waiting, answer: Answer) -> None:
        """A process has answered."""
        _tell(waiting, answer)
        self._feed()

    def lost(self, seer: _Seer) -> None:
        """A process has ended: what it had goes to others, and another one takes its place."""
        self._seers.remove(seer)
        if self._closing.is_set():
            return
        log.warning("process %d that sees photos ended", seer.process.pid)
        if seer.under_way:
            first = seer.under_way[0]
            first.deaths += 1
            if first.deaths >= TRIES:
                _tell(seer.under_way.popleft(), PhotoDamagedError("the photo brings the decoder down"))
        for waiting in reversed(seer.under_way):
            self._queues[waiting.priority].appendleft(waiting)
        task = asyncio.get_running_loop().create_task(self._replace(seer))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)
        self._feed()

    async def _replace(self, gone: _Seer) -> None:
        await asyncio.to_thread(gone.process.end)
        while not self._closing.is_set():
            try:
                await self._start()
            except VultusError as error:
                fault = EngineError(f"no process can be started that sees photos: {error.detail}")
                log.warning("%s", fault.detail)
                if not self._seers:
                    self._fail(fault)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._retry):
                        await self._closing.wait()
            else:
                return

    async def _start(self) -> None:
        process = self._started.pop() if self._started else Process(SEEING)
        await asyncio.to_thread(process.begin, self._setup)
        if self._closing.is_set():
            await asyncio.to_thread(process.end)
            return
        seer = _Seer(self, process)
        await asyncio.get_running_loop().create_unix_connection(lambda: seer, sock=process.take_socket())
        self._seers.append(seer)
        self._fault = None
        self._feed()

    async def _end(self) -> None:
        self._closing.set()
        self._fail(NotReadyError("the service is stopping"))
        await asyncio.gather(*self._replacing)
        seers = [*self._seers]
        for seer in seers:
            seer.close()
        await asyncio.gather(*(asyncio.to_thread(seer.process.end) for seer in seers))

    def _fail(self, error: VultusError) -> None:
        """Answer everybody, now and from now on, with an error."""
        self._fault = error
        for line in (*self._queues, *(seer.under_way for seer in self._seers)):
            for waiting in line:
                _tell(waiting, error)
        for line in self._queues:
            line.clear()

    def _drop_the_gone(self) -> None:
        for line in self._queues:
            alive = [waiting for waiting in line if not waiting.answer.done()]
            line.clear()
            line.extend(alive)


class _Seer(asyncio.Protocol):
    """One process, and the photos that it has, in their order."""

    def __init__(self, seers: Seers, process: Process) -> None:
        self.process = process
        self.under_way: deque[_Waiting] = deque()
        self._seers = seers
        self._received = bytearray()
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Overrides."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own are no subclasses

    def give(self, waiting: _Waiting) -> None:
        """Give it a photo."""
        self.under_way.append(waiting)
        self._transport.writelines([HEAD.pack(len(waiting.photo)), waiting.photo])

    def data_received(self, data: bytes) -> None:
        """Overrides."""
        self._received += data
        while len(self._received) >= HEAD.size:
            (length,) = HEAD.unpack_from(self._received)
            end = HEAD.size + length
            if len(self._received) < end:
                return
            answer: Answer = ForkingPickler.loads(bytes(self._received[HEAD.size : end]))
            del self._received[:end]
            self._seers.answered(self.under_way.popleft(), answer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - named by the protocol
        """Overrides."""
        self._seers.lost(self)

    def close(self) -> None:
        """Let it end."""
        self._transport.close()


def _tell(waiting: _Waiting, answer: Answer) -> None:
    if waiting.answer.done():
        return
    if isinstance(answer, VultusError):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
