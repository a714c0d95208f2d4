"""How fast rows are done, as of the last seconds."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 10.0


class Rate:
    """Counts rows over a sliding window; read from other threads while one adds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def add(self, rows: int) -> None:
        """So many more are done."""
        now = time.monotonic()
        self._marks.append((now, self._marks[-1][1] + rows))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW_SECONDS:
            self._marks.popleft()

    def per_second(self) -> float:
        """Rows a second, 0 before the first are done."""
        (began, before), (_, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(time.monotonic() - began, 1e-3)
