"""The thread that seals and merges, for all indexes of a process, one piece of work at a time."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final, Protocol

import faiss

from service.errors import SnapshotError, StorageError

NICE: Final = 10
"""Searches and enrolments go first where processors are scarce."""

AGAIN_SECONDS: Final = 30.0

log = logging.getLogger(__name__)


class Cancelled(Exception):  # noqa: N818 (nothing went wrong)
    """The index was closed while something was built for it."""


class Unfinished(Protocol):
    """What the builder works on."""

    def build(self) -> bool:
        """Do one piece of what is due, and say whether there was any; where it fails, it is asked again later."""


class Builder:
    """Works in the background on whatever asks for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asking: dict[Unfinished, float] = {}
        self._current: Unfinished | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def ask(self, index: Unfinished) -> None:
        """Have an index built on, soon; also where it is being built on now."""
        with self._changed:
            if self._closed:
                return
            self._asking[index] = min(self._asking.get(index, 0.0), 0.0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="index-builder", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, index: Unfinished) -> None:
        """Never touch an index again; waits until what is being built for it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._current is not index)
            self._asking.pop(index, None)

    def settle(self) -> None:
        """Wait until nothing is due any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._current is None and not self._asking)

    def close(self) -> None:
        """End, after what is being built; indexes that ask are no longer heard."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        faiss.omp_set_num_threads(1)
        while (index := self._next()) is not None:
            again: float | None = None
            try:
                again = 0.0 if index.build() else None
            except Cancelled:
                pass
            except (StorageError, SnapshotError) as error:
                log.warning("an index could not be built on: %s", error.detail)
                again = time.monotonic() + AGAIN_SECONDS
            except Exception:
                # Whatever it was, the other indexes need this thread, and whoever closes this one waits for it.
                log.exception("an index could not be built on")
                again = time.monotonic() + AGAIN_SECONDS
            with self._changed:
                self._current = None
                if again is not None:
                    self._asking.setdefault(index, again)
                self._changed.notify_all()
            # Else one that was closed would stay in memory until the next one is built.
            del index

    def _next(self) -> Unfinished | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                index = min(self._asking, key=lambda each: self._asking[each], default=None)
                if index is not None and self._asking[index] <= now:
                    del self._asking[index]
                    self._current = index
                    return index
                self._changed.wait(None if index is None else self._asking[index] - now)
            return None
