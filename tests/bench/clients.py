"""Clients that load a service and cost it little: they share its cores.

One thread, one socket a client; requests are bytes prepared beforehand. Of every answer the status is checked and the
body is read to its end.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.bench.server import BOUNDARY

PIECE = 1 << 16
HEAD_END, LENGTH = b"\r\n\r\n", b"\r\ncontent-length:"
KEPT, REFUSED = {200, 201}, {422, 429}


@dataclass(frozen=True)
class Turn:
    """What some clients saw in some seconds."""

    faces_per_second: float
    milliseconds: np.ndarray
    refused: int


@dataclass
class Asked:
    """A request on its way, and what has come back so far."""

    since: float
    answer: bytearray = field(default_factory=bytearray)


def request(path: str, form: bytes) -> bytes:
    """A POST of a form made by `form_of`, as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(form)}\r\n\r\n"
    )
    return head.encode() + form


def drive(port: int, requests: Iterator[bytes], clients: int, seconds: float) -> Turn:
    """Let clients ask for some seconds, each its next question as soon as it has an answer.

    Raises:
        RuntimeError: an answer is neither a success nor a refusal.
    """
    spent: list[float] = []
    refused = 0
    with selectors.DefaultSelector() as waiting:
        for _ in range(clients):
            client = socket.create_connection(("127.0.0.1", port), timeout=60)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting.register(client, selectors.EVENT_READ)
        begun = time.perf_counter()
        under_way: dict[int, Asked] = {}
        for key in list(waiting.get_map().values()):
            under_way[key.fd] = ask(key.fileobj, requests)
        while under_way:
            for key, _ in waiting.select(60):
                asked = under_way[key.fd]
                status = more(key.fileobj, asked.answer)
                if status is None:
                    continue
                now = time.perf_counter()
                if status in KEPT:
                    spent.append(now - asked.since)
                elif status in REFUSED:
                    refused += 1
                else:
                    raise RuntimeError(f"answered with {status}: {bytes(asked.answer[-500:])!r}")
                if now - begun < seconds:
                    under_way[key.fd] = ask(key.fileobj, requests)
                else:
                    del under_way[key.fd]
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()
        wall = time.perf_counter() - begun
    return Turn(len(spent) / wall, 1000 * np.array(spent), refused)


def ask(client: socket.socket, requests: Iterator[bytes]) -> Asked:
    """Send the next request."""
    asked = Asked(time.perf_counter())
    client.sendall(next(requests))
    return asked


def more(client: socket.socket, answer: bytearray) -> int | None:
    """Read what has come; the status once the answer is whole."""
    piece = client.recv(PIECE)
    if not piece:
        raise RuntimeError("the service closed the connection")
    answer += piece
    end = answer.find(HEAD_END)
    if end < 0:
        return None
    head = bytes(answer[:end]).lower()
    place = head.index(LENGTH) + len(LENGTH)
    length = int(head[place:].split(b"\r\n", 1)[0])
    return int(head[9:12]) if len(answer) >= end + len(HEAD_END) + length else None
