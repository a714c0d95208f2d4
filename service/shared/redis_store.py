"""Shared state in Redis, or anything that speaks its protocol; see `service.shared.store`.

Redis may go at any time and come back empty. While it is away every call is answered by this process' own memory, at
once: it is asked again once a second, and only one line is logged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.errors import SharedStateError, StorageError
from service.shared.store import InProcess, Notice

Result = TypeVar("Result")

ANSWER_SECONDS: Final = 0.5
AWAY_SECONDS: Final = 1.0
"""How long Redis is left alone after it did not answer."""

LEASE_SECONDS: Final = 10.0
"""A claim of a process that died is free after this long,"""

RENEW_SECONDS: Final = 3.0
"""since a living one renews its claims this often."""

RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"
RENEW: Final = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) else return 0 end"
)
SPEND: Final = (
    "local spent = tonumber(redis.call('GET', KEYS[1]) or '0') "
    "if spent >= tonumber(ARGV[1]) then return redis.call('PTTL', KEYS[1]) end "
    "redis.call('INCR', KEYS[1]) "
    "if spent == 0 or ARGV[3] == '1' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end "
    "return -1"
)

REFUSALS: Final = (redis.AuthenticationError, redis.exceptions.NoPermissionError)

log = logging.getLogger(__name__)


class _AwayError(Exception):
    """Redis does not answer."""


class InRedis:
    """Shared state of all replicas that name the same Redis and space.

    Args:
        url: `redis://:password@host:port/number`, or `rediss://` for TLS.
        space: sets the names of this service apart from those of others.

    Raises:
        SharedStateError: the URL cannot be used, or Redis lets this service not in. One that does not answer is waited
            for in the background instead.
    """

    def __init__(self, url: str, space: str) -> None:
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                protocol=2,
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
                health_check_interval=30,
                retry=Retry(NoBackoff(), 1),  # a connection that rested over a restart is replaced unseen
            )
        except ValueError as error:
            raise SharedStateError("the URL is not like redis://:password@host:port/0") from error
        self._where = urlsplit(url).hostname or "Redis"
        self._space = f"vultus:{space}:"
        self._alone = InProcess()
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()
        self._away_until: float | None = None
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        try:
            self._client.ping()
        except REFUSALS as error:
            raise SharedStateError(f"Redis at {self._where} refuses the user or the password") from error
        except redis.RedisError as error:
            self._missed(error)
        self._start(self._renew, "renewing")

    @property
    def state(self) -> Literal["up", "away"]:
        """See `Shared.state`."""
        return "up" if self._away_until is None else "away"

    @property
    def space(self) -> str:
        """Before each name of this service."""
        return self._space

    def must(self, work: Callable[[Any], Result]) -> Result:
        """Do something that no memory of this process can stand in for.

        Args:
            work: gets the client.

        Raises:
            StorageError: Redis does not answer.
        """
        try:
            return self._ask(work)
        except _AwayError as error:
            raise StorageError(f"Redis at {self._where} does not answer", retry_after=1) from error

    def claim(self, name: str, value: str) -> str | None:
        """See `Shared.claim`."""
        lease = int(LEASE_SECONDS * 1000)
        try:
            taken = self._ask(lambda client: client.set(self._space + name, value, nx=True, get=True, px=lease))
        except _AwayError:
            return self._alone.claim(name, value)
        if taken is not None:
            return str(taken.decode())
        with self._lock:
            self._held[name] = value
        return None

    def release(self, name: str, value: str) -> None:
        """See `Shared.release`."""
        self._alone.release(name, value)
        with self._lock:
            ours = self._held.get(name) == value
            if ours:
                del self._held[name]
        if ours:
            self._attempt(lambda client: client.eval(RELEASE, 1, self._space + name, value))

    def put(self, name: str, value: bytes, seconds: float) -> None:
        """See `Shared.put`."""
        try:
            self._ask(lambda client: client.set(self._space + name, value, px=int(seconds * 1000)))
        except _AwayError:
            self._alone.put(name, value, seconds)

    def get(self, name: str) -> bytes | None:
        """See `Shared.get`."""
        try:
            found = self._ask(lambda client: client.get(self._space + name))
        except _AwayError:
            found = None
        return found if isinstance(found, bytes) else self._alone.get(name)

    def spend(self, name: str, limit: int, seconds: float, *, renew: bool = False) -> float | None:
        """See `Shared.spend`."""
        told = (limit, int(seconds * 1000), int(renew))
        try:
            left = self._ask(lambda client: client.eval(SPEND, 1, self._space + name, *told))
        except _AwayError:
            return self._alone.spend(name, limit, seconds, renew=renew)
        return None if int(left) < 0 else int(left) / 1000

    def drop(self, name: str) -> None:
        """See `Shared.drop`."""
        self._alone.drop(name)
        self._attempt(lambda client: client.delete(self._space + name))

    def tell(self, notice: str) -> None:
        """See `Shared.tell`; who does not hear it, because Redis is away, has to look for itself."""
        self._attempt(lambda client: client.publish(self._space + "notices", notice))

    def listen(self, notice: Notice) -> None:
        """See `Shared.listen`."""
        self._start(lambda: self._listen(notice), "listening")

    def close(self) -> None:
        """See `Shared.close`."""
        self._closing.set()
        for name, value in list(self._held.items()):
            self.release(name, value)
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _ask(self, work: Callable[[Any], Result]) -> Result:
        if self._away_until is not None and time.monotonic() < self._away_until:
            raise _AwayError
        try:
            found = work(self._client)
        except redis.RedisError as error:
            self._missed(error)
            raise _AwayError from error
        if self._away_until is not None:
            self._away_until = None
            log.warning("Redis at %s is back", self._where)
        return found

    def _attempt(self, work: Callable[[Any], object]) -> None:
        try:
            self._ask(work)
        except _AwayError:
            return

    def _missed(self, error: redis.RedisError) -> None:
        if self._away_until is None:
            log.warning("Redis at %s does not answer (%s); going on alone", self._where, type(error).__name__)
        self._away_until = time.monotonic() + AWAY_SECONDS

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=f"redis-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _renew(self) -> None:
        lease = int(LEASE_SECONDS * 1000)
        while not self._closing.wait(RENEW_SECONDS):
            with self._lock:
                held = list(self._held.items())
            self._attempt(lambda client: client.ping())
            for name, value in held:
                self._attempt(partial(self._renewed, name=name, value=value, lease=lease))

    def _renewed(self, client: Any, *, name: str, value: str, lease: int) -> None:
        if not client.eval(RENEW, 1, self._space + name, value, lease):
            # Redis came back empty: taken again, unless somebody else was faster.
            client.set(self._space + name, value, nx=True, px=lease)

    def _listen(self, notice: Notice) -> None:
        while not self._closing.is_set():
            try:
                with self._client.pubsub(ignore_subscribe_messages=True) as heard:
                    heard.subscribe(self._space + "notices")
                    notice("")
                    while not self._closing.is_set():
                        message = heard.get_message(timeout=ANSWER_SECONDS / 2)
                        if message is not None:
                            notice(message["data"].decode())
            except redis.RedisError:
                self._closing.wait(AWAY_SECONDS)
