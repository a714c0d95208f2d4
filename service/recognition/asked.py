"""Visitors who were asked for digits: their probes, kept for a moment, and how often a device may guess."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import AnswerNotFoundError, DigitsLockedError
from service.recognition.expectations import Context
from service.vision.reader import SeenFace

WAIT_SECONDS: Final = 120.0
"""How long an answer can be come back to."""

KEPT: Final = 10_000

WRONG: Final = 5
"""Wrong digits in a row after which a device is locked,"""

LOCKED_SECONDS: Final = 300.0
"""and for how long."""


@dataclass(frozen=True, eq=False)
class Pending:
    """A probe whose visitor was asked for digits."""

    gallery: str
    seen: SeenFace | None
    probe: NDArray[np.float32]
    context: Context


class Asked:
    """The probes that wait for digits, and the wrong digits of late; in memory only. Safe to use from threads.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: OrderedDict[str, tuple[float, Pending]] = OrderedDict()
        self._wrong: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()

    def keep(self, pending: Pending) -> str:
        """Keep a probe; returns the id of the answer that asks."""
        answer = f"a_{secrets.token_hex(12)}"
        with self._lock:
            self._sweep()
            self._pending[answer] = (self._clock() + WAIT_SECONDS, pending)
            while len(self._pending) > KEPT:
                self._pending.popitem(last=False)
        return answer

    def take(self, gallery: str, answer: str) -> Pending:
        """Give a probe back; it stays until its time is over, for digits may be mistyped.

        Raises:
            AnswerNotFoundError: no such answer of this gallery waits for digits.
        """
        with self._lock:
            self._sweep()
            found = self._pending.get(answer)
        if found is None or found[1].gallery != gallery:
            raise AnswerNotFoundError("no such answer waits for digits; identify again")
        return found[1]

    def admit(self, gallery: str, device: str) -> None:
        """Let a device try digits.

        Raises:
            DigitsLockedError: it was wrong too often of late.
        """
        with self._lock:
            wrong = self._of_late(gallery, device)
            if len(wrong) >= WRONG:
                left = int(wrong[0] + LOCKED_SECONDS - self._clock()) + 1
                raise DigitsLockedError(f"digits were wrong {WRONG} times; try again later", retry_after=left)

    def tried(self, gallery: str, device: str, *, right: bool) -> None:
        """Note how a try ended."""
        with self._lock:
            if right:
                self._wrong.pop((gallery, device), None)
            else:
                self._of_late(gallery, device).append(self._clock())

    def _of_late(self, gallery: str, device: str) -> deque[float]:
        wrong = self._wrong.setdefault((gallery, device), deque(maxlen=WRONG))
        while wrong and wrong[0] + LOCKED_SECONDS <= self._clock():
            wrong.popleft()
        return wrong

    def _sweep(self) -> None:
        now = self._clock()
        while self._pending and next(iter(self._pending.values()))[0] <= now:
            self._pending.popitem(last=False)
