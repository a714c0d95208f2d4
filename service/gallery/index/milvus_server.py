"""A Milvus server (or cluster), as far as galleries need it: collections that are there, loaded, and answer in time.

Every fault of the server becomes one error, `IndexUnavailableError`. A server that has just failed is not asked again
for a moment, so that requests fail at once instead of filling the threads. Before it is asked again its collection is
loaded: after a restart Milvus answers long before its collections do.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import grpc
from pymilvus import DataType, MilvusClient, MilvusException

from service.errors import IndexUnavailableError

READ_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 30.0
LOAD_SECONDS: Final = 120.0
"""How long a start waits for a collection to be loaded; a standalone server took up to 41 s after a restart."""

BREATH_SECONDS: Final = 1.0
"""For how long a server that failed is left alone."""

NO_GALLERY: Final = -1
"""Owns the entry that tells a collection from a later one of the same name."""

INDEX_TYPE: Final = "FLAT"
"""Exact. A graph index lost 11 of 60 mates of a low cosine among 100,000 people where this one lost none."""

ALL_WRITES_SEEN: Final = "Strong"
"""The consistency of a read that must show every write before it; it waits for the server's clock, some 0.2 s."""

OWN_WRITES_SEEN: Final = "Session"

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class MilvusServer:
    """A connection; safe to use from threads.

    Args:
        uri: `http://HOST:PORT` of a server or cluster, or the path of a Milvus Lite file.
        token: `user:password` or an API key; empty where the server asks for none.

    Attributes:
        failures: how often it has failed.

    Raises:
        IndexUnavailableError: it does not answer.
    """

    def __init__(self, uri: str, token: str) -> None:
        # Every fault is told to the caller; the library would print each with its stack besides.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.failures = 0
        self._failed = -BREATH_SECONDS
        with self._translated():
            self._client = MilvusClient(uri=uri, token=token, timeout=READ_SECONDS)

    def ask(self, work: Callable[[MilvusClient], Result]) -> Result:
        """Call the server.

        Raises:
            IndexUnavailableError: it does not answer, or has not a moment ago.
        """
        if time.monotonic() - self._failed < BREATH_SECONDS:
            raise IndexUnavailableError("the index server did not answer a moment ago", retry_after=1)
        with self._translated():
            return work(self._client)

    def collections(self, prefix: str) -> list[str]:
        """The names of the collections that begin so.

        Raises:
            IndexUnavailableError: as in `ask`.
        """
        names = self.ask(lambda client: client.list_collections(timeout=READ_SECONDS))
        return sorted(name for name in names if name.startswith(prefix))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (MilvusException, grpc.RpcError, OSError) as error:
            self._failed, self.failures = time.monotonic(), self.failures + 1
            log.warning("the index server failed: %s", getattr(error, "message", "") or type(error).__name__)
            raise IndexUnavailableError("the index server does not answer", retry_after=2) from error


class MilvusCollection:
    """The vectors of all galleries of one catalog and model; made where it is missing; safe to use from threads.

    Args:
        server: where it is.
        name: of the collection.
        dim: of the vectors.

    Attributes:
        place: names the collection, and none that is made again under its name: a mark of another place says nothing.

    Raises:
        IndexUnavailableError: it cannot be made or loaded.
    """

    def __init__(self, server: MilvusServer, name: str, dim: int) -> None:
        self.name = name
        self._server = server
        self._loading = threading.Lock()
        if name not in server.collections(name):
            server.ask(lambda client: _make(client, name, dim))
        self._loaded_after = server.failures
        server.ask(lambda client: _load(client, name, LOAD_SECONDS))
        self.place = server.ask(lambda client: _place(client, name, dim))

    def ask(self, work: Callable[[MilvusClient], Result]) -> Result:
        """Call the server about this collection.

        Raises:
            IndexUnavailableError: as in `MilvusServer.ask`.
        """
        if self._loaded_after != self._server.failures:
            with self._loading:
                failures = self._server.failures
                if self._loaded_after != failures:
                    self._server.ask(lambda client: _load(client, self.name, READ_SECONDS))
                    self._loaded_after = failures
        return self._server.ask(work)

    def delete(self, which: str) -> None:
        """Delete the entries that a filter names.

        Raises:
            IndexUnavailableError: as in `MilvusServer.ask`.
        """
        self.ask(lambda client: client.delete(self.name, filter=which, timeout=WRITE_SECONDS))


def _make(client: MilvusClient, name: str, dim: int) -> None:
    schema = MilvusClient.create_schema(auto_id=True, description="vectors of Vultus; can be made again")
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("gallery", DataType.INT64, is_partition_key=True)
    schema.add_field("person", DataType.INT64)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
    indexed = MilvusClient.prepare_index_params()
    indexed.add_index("embedding", index_type=INDEX_TYPE, metric_type="IP")
    try:
        client.create_collection(
            name, schema=schema, index_params=indexed, consistency_level=OWN_WRITES_SEEN, timeout=WRITE_SECONDS
        )
    except MilvusException:
        if not client.has_collection(name, timeout=READ_SECONDS):
            raise
        # Another process made it at the same moment.


def _load(client: MilvusClient, name: str, seconds: float) -> None:
    """Wait until the collection is in the server's memory; after a restart asking once is not enough."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.load_collection(name, timeout=READ_SECONDS)
        except MilvusException:
            if time.monotonic() >= deadline:
                raise
            time.sleep(BREATH_SECONDS)
        else:
            return


def _place(client: MilvusClient, name: str, dim: int) -> str:
    """What the collection's own entry says; the entry is made with the first use.

    Two processes that do so at once write two of them; then each may go by its own, and later ones by the lesser.
    """

    def nonces() -> list[int]:
        found = client.query(
            name,
            filter=f"gallery == {NO_GALLERY}",
            output_fields=["person"],
            consistency_level=ALL_WRITES_SEEN,
            timeout=READ_SECONDS,
        )
        return [int(entry["person"]) for entry in found]

    if not nonces():
        own = {"gallery": NO_GALLERY, "person": secrets.randbits(62), "embedding": [1.0] + [0.0] * (dim - 1)}
        client.insert(name, [own], timeout=WRITE_SECONDS)
    return f"{name}:{min(nonces()):x}"
