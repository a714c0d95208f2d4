"""The protocol of shared state, and its form for one process.

All names are texts of the caller's; two uses keep apart by a prefix (`claim:`, `digits:`).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, Protocol

MOST: Final = 100_000
"""Entries that one process keeps; the oldest leave first."""

Notice = Callable[[str], None]
"""Called with what somebody told all; it must return at once. "" says that something may have been missed."""


class Shared(Protocol):
    """State that replicas share; safe to use from threads. Calls block, at most about a second."""

    def claim(self, name: str, value: str) -> str | None:
        """Take a name until it is released or this process ends; None, or the value that it is taken with already."""

    def release(self, name: str, value: str) -> None:
        """Let go of a name, unless it is taken with another value."""

    def put(self, name: str, value: bytes, seconds: float) -> None:
        """Keep a value for some time."""

    def get(self, name: str) -> bytes | None:
        """The value that is kept under a name."""

    def spend(self, name: str, limit: int, seconds: float, *, renew: bool = False) -> float | None:
        """Spend one of `limit` within some seconds from the first; None, or in how many seconds there is more.

        With `renew` the seconds begin anew with each that is spent; one that is refused renews nothing.
        """

    def drop(self, name: str) -> None:
        """Forget what is kept or was spent under a name."""

    def tell(self, notice: str) -> None:
        """Tell everybody who listens, this process too."""

    def listen(self, notice: Notice) -> None:
        """Call `notice` with whatever is told from now on, from a thread of its own."""

    @property
    def state(self) -> Literal["alone", "up", "away"]:
        """Whether others are reached: nobody is to be reached, they are, or they should be."""

    def close(self) -> None:
        """Stop listening, and let go of every claim."""


class InProcess:
    """Shared state where nobody is there to share it with.

    Args:
        clock: seconds that only grow.
    """

    state: Literal["alone"] = "alone"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._claims: dict[str, str] = {}
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._spent: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._listeners: list[Notice] = []
        self._lock = threading.Lock()

    def claim(self, name: str, value: str) -> str | None:
        """See `Shared.claim`."""
        with self._lock:
            taken = self._claims.get(name)
            if taken is None:
                self._claims[name] = value
            return taken

    def release(self, name: str, value: str) -> None:
        """See `Shared.release`."""
        with self._lock:
            if self._claims.get(name) == value:
                del self._claims[name]

    def put(self, name: str, value: bytes, seconds: float) -> None:
        """See `Shared.put`."""
        with self._lock:
            self._kept.pop(name, None)
            self._kept[name] = (self._clock() + seconds, value)
            self._sweep(self._kept)

    def get(self, name: str) -> bytes | None:
        """See `Shared.get`."""
        with self._lock:
            until, value = self._kept.get(name, (0.0, b""))
            return value if until > self._clock() else None

    def spend(self, name: str, limit: int, seconds: float, *, renew: bool = False) -> float | None:
        """See `Shared.spend`."""
        with self._lock:
            now = self._clock()
            until, spent = self._spent.get(name, (0.0, 0))
            if until <= now:
                spent = 0
            if spent >= limit:
                return until - now
            if spent == 0 or renew:
                self._spent.pop(name, None)  # to the end, where those are that leave last
                until = now + seconds
            self._spent[name] = (until, spent + 1)
            self._sweep(self._spent)
            return None

    def drop(self, name: str) -> None:
        """See `Shared.drop`."""
        with self._lock:
            self._kept.pop(name, None)
            self._spent.pop(name, None)

    def tell(self, notice: str) -> None:
        """See `Shared.tell`."""
        for each in list(self._listeners):
            each(notice)

    def listen(self, notice: Notice) -> None:
        """See `Shared.listen`; here the teller's own thread calls it."""
        self._listeners.append(notice)

    def close(self) -> None:
        """See `Shared.close`."""
        self._listeners.clear()
        self._claims.clear()

    def _sweep(self, entries: OrderedDict[str, tuple[float, bytes]] | OrderedDict[str, tuple[float, int]]) -> None:
        while entries and (len(entries) > MOST or next(iter(entries.values()))[0] <= self._clock()):
            entries.popitem(last=False)
