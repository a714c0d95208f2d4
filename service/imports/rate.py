"""How fast an import goes on, by what the catalog says is done: every process sees it, whoever does it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_SECONDS: Final = 10.0


class Rate:
    """Watches the count of an import's rows over a sliding window; used from several threads.

    Args:
        clock: seconds since whenever.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._marks: deque[tuple[float, int]] = deque()

    def see(self, done: int) -> None:
        """So many rows of the import are done by now; a count that is less than one seen before is out of date."""
        now = self._clock()
        with self._lock:
            if not self._marks or done > self._marks[-1][1]:
                self._marks.append((now, done))
            while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW_SECONDS:
                self._marks.popleft()

    def per_second(self) -> float | None:
        """Rows a second, None where they have not been watched for long enough to say so."""
        with self._lock:
            if not self._marks:
                return None
            (began, before), (_, after) = self._marks[0], self._marks[-1]
        watched = self._clock() - began
        if after == before and watched < WINDOW_SECONDS:
            return None
        return (after - before) / max(watched, 1e-3)
