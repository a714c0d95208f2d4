"""The processes that look at photos: started when there is work, fed without gaps, replaced when one dies.

A helper that dies took its task with it, and nobody knows which of its photos was to blame. Each is then looked at
alone, and one that brings a helper down again is refused as damaged.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final

from service.errors import NotReadyError, PhotoDamagedError, VultusError
from service.imports.sight import Answer, Photo, Setup, Sight, Task
from service.vision.process import Process

AHEAD: Final = 2
"""Tasks that a helper has at once: one that it works on, and one whose photos it reads meanwhile."""

_READ, _LOOK, _END = range(3)
"""What goes first, of all that waits."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Waiting:
    task: Task
    answer: Future[list[Sight]] = field(default_factory=Future)


class _GoneError(Exception):
    """The helper's process has ended."""


class Helpers:
    """Helper processes, one thread beside each; safe to use from threads.

    Args:
        setup: what they need to know.
        count: how many.
    """

    def __init__(self, setup: Setup, count: int) -> None:
        self._setup = setup
        self._closing = threading.Event()
        self._tasks: queue.PriorityQueue[tuple[int, int, _Waiting | None]] = queue.PriorityQueue()
        self._count = itertools.count()
        self._threads = [threading.Thread(target=self._drive, name=f"helper {place}") for place in range(count)]
        for thread in self._threads:
            thread.start()

    def read(self, photos: Sequence[Photo]) -> Future[list[Sight]]:
        """Read photos, before any are looked at: what is not known yet is what helpers get to do next.

        Returns:
            The digest of each, or why it cannot be read; or why no helper could be started, as an error.
        """
        return self._put(_READ, Task(photos, look=False))

    def look(self, photos: Sequence[Photo]) -> Future[list[Sight]]:
        """Look at photos, in the order of the calls.

        Returns:
            What each shows; or why no helper could be started, as an error.
        """
        return self._put(_LOOK, Task(photos, look=True))

    def _put(self, priority: int, task: Task) -> Future[list[Sight]]:
        waiting = _Waiting(task)
        self._tasks.put((priority, next(self._count), waiting))
        return waiting.answer

    def close(self) -> None:
        """End the helpers; tasks that wait are answered with `NotReadyError`."""
        self._closing.set()
        for _ in self._threads:
            self._tasks.put((_END, next(self._count), None))
        for thread in self._threads:
            thread.join()

    def _drive(self) -> None:
        """The life of one helper: never idle while there is a task, and ended when there will be none."""
        helper: _Helper | None = None
        at_work: deque[_Waiting] = deque()
        while True:
            while len(at_work) < AHEAD and (task := self._next(wait=not at_work)) is not None:
                at_work.append(task)
            if not at_work:
                break
            helper = self._work(helper, at_work)
        if helper is not None:
            helper.end()

    def _next(self, *, wait: bool) -> _Waiting | None:
        while True:
            try:
                _, number, task = self._tasks.get(block=wait)
            except queue.Empty:
                return None
            if task is None:
                if not wait:
                    self._tasks.put((_END, number, None))  # the end is for when nothing is left to do
                return None
            if not task.answer.set_running_or_notify_cancel():
                continue
            if not self._closing.is_set():
                return task
            task.answer.set_exception(NotReadyError("the service is stopping"))

    def _work(self, helper: _Helper | None, at_work: deque[_Waiting]) -> _Helper | None:
        """Bring the first task to its end; returns the helper if it lives."""
        try:
            helper = helper or _Helper(self._setup)
            for task in list(at_work)[helper.outstanding :]:
                helper.send(task.task)
            answer = helper.receive()
        except _GoneError:
            log.warning("a helper died; its photos are looked at one by one")
            self._settle(at_work.popleft(), self._one_by_one)
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            while at_work:
                at_work.popleft().answer.set_exception(error)
            return None
        done = at_work.popleft()
        if isinstance(answer, VultusError):
            done.answer.set_exception(answer)
        else:
            done.answer.set_result(answer)
        return helper

    def _one_by_one(self, task: Task) -> list[Sight]:
        found: list[Sight] = []
        for photo in task.photos:
            helper = _Helper(self._setup)
            try:
                helper.send(replace(task, photos=[photo]))
                answer = helper.receive()
                if isinstance(answer, VultusError):
                    raise answer
                found += answer
                helper.end()
            except _GoneError:
                found.append(Sight("", error=PhotoDamagedError("the photo brings the decoder down")))
        return found

    def _settle(self, waiting: _Waiting, work: Callable[[Task], list[Sight]]) -> None:
        try:
            waiting.answer.set_result(work(waiting.task))
        except VultusError as error:
            waiting.answer.set_exception(error)


class _Helper:
    """One process, told what it needs.

    Raises:
        VultusError: it could not begin its work.
    """

    def __init__(self, setup: Setup) -> None:
        self._process = Process("service.imports.sight")
        self._process.begin(setup)
        self.outstanding = 0

    def send(self, task: Task) -> None:
        """Give it a task."""
        try:
            self._process.channel.send(task)
        except OSError as error:
            self.end()
            raise _GoneError from error
        self.outstanding += 1

    def receive(self) -> Answer:
        """Its answer to the oldest task."""
        try:
            answer: Answer = self._process.channel.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise _GoneError from error
        self.outstanding -= 1
        return answer

    def end(self) -> None:
        """Let it end, or end it."""
        self._process.end()
