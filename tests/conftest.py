"""The real application in process, with the real models, driven over ASGI; shared by the tests of every folder.

service   one application for the whole session, open (no API keys), on one thread
gallery   an empty gallery of it, a new one for each test
start     starts further applications, with other settings or on other data
"""

import base64
import itertools
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from service.app import create_app
from service.artifact.store import ModelStore
from service.errors import FetchError
from service.recognition.product import Product
from service.settings import CHECKOUT, Settings
from service.shared.redis_store import InRedis
from service.shared.store import InProcess, Shared
from tests.milvus_server import Milvus
from tests.servers import Postgres, Redis, postgres, redis_server

PROBLEM = "application/problem+json"
MEMBERS = {"type", "title", "status", "code", "detail", "request_id"}


@dataclass(frozen=True)
class Service:
    """A running application; calls block until they are answered."""

    app: FastAPI
    portal: BlockingPortal
    client: httpx.AsyncClient

    @property
    def product(self) -> Product:
        """What the application works with."""
        return self.app.state.product

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request; its answer's status must be one that the documentation names."""
        answer = self.portal.call(lambda: self.client.request(method, path, **options))
        assert_documented(self.app, answer)
        return answer

    def at_once(self, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        """Send requests (method, path, options) at the same time."""

        async def send() -> list[httpx.Response]:
            answers: list[Any] = [None] * len(requests)

            async def one(place: int) -> None:
                method, path, options = requests[place]
                answers[place] = await self.client.request(method, path, **options)

            async with anyio.create_task_group() as group:
                for place in range(len(requests)):
                    group.start_soon(one, place)
            return answers

        return self.portal.call(send)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


@dataclass(frozen=True)
class Gallery:
    """A gallery of a running application."""

    service: Service
    name: str

    @property
    def path(self) -> str:
        return f"/v1/galleries/{self.name}"

    @property
    def people(self) -> str:
        return f"{self.path}/people"

    def state(self) -> tuple[int, int, int]:
        """Revision, people, faces."""
        shown = self.service.get(self.path).json()
        return shown["revision"], shown["people"], shown["faces"]

    def enroll(self, person: str, *photos: bytes, **options: Any) -> httpx.Response:
        return self.service.post(f"{self.people}/{person}/faces", files=as_files(*photos), **options)

    def enrolled(self, person: str, *photos: bytes) -> dict[str, Any]:
        """Enrol photos of which each is taken."""
        answer = self.enroll(person, *photos)
        assert answer.status_code == 201, answer.text
        assert answer.json()["refused"] == []
        return answer.json()

    def identify(self, photo: bytes, **fields: Any) -> httpx.Response:
        return self.service.post(f"{self.path}/identify", files=as_files(photo), data=fields)

    @contextmanager
    def without_memory(self) -> Iterator[None]:
        """No memory is left for its index."""
        _, view = self.service.portal.call(self.service.product.gallery, self.name)
        index = view._index
        before = index._means
        index._means = replace(before, memory=0)
        try:
            yield
        finally:
            index._means = before

    def whose(self, photo: bytes) -> str | None:
        """The person whose face a photo of one face shows, None for an unknown one."""
        (face,) = self.identify(photo).json()["faces"]
        return face["person"]


def assert_documented(app: FastAPI, answer: httpx.Response) -> None:
    """Hold an answer to what the OpenAPI document says about its route; paths without a route are left alone."""
    asked = answer.request.url.raw_path.decode().partition("?")[0]
    for path, operations in app.openapi()["paths"].items():
        told = operations.get(answer.request.method.lower())
        if told and re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), asked):
            assert str(answer.status_code) in told["responses"], f"{answer.request.method} {path} {answer.status_code}"


def as_files(*photos: bytes, field: str = "photo") -> list[tuple[str, tuple[str, bytes, str]]]:
    """Photos as files of a form."""
    return [(field, (f"{place}.jpg", photo, "image/jpeg")) for place, photo in enumerate(photos)]


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check the one shape of errors, and give the document."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    document = answer.json()
    assert document.keys() >= MEMBERS
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:vultus:error:{code}"
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == answer.headers["x-request-id"]
    return document


@contextmanager
def running(data: Path, **settings: Any) -> Iterator[Service]:
    """The product's application, started and, at the end, stopped."""
    with driven(create_app(Settings(**{"data": data, "engine": "onnxruntime", "threads": 1} | settings))) as service:
        yield service


@contextmanager
def driven(app: FastAPI) -> Iterator[Service]:
    """Any application, with its lifespan, on an event loop in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(app.router.lifespan_context(app)):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)
        with portal.wrap_async_context_manager(client):
            yield Service(app, portal, client)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL for the whole session."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus]:
    """A Milvus server for the whole session."""
    try:
        server = Milvus.laid_out(tmp_path_factory.mktemp("milvus") / "server")
    except FetchError as error:
        pytest.skip(f"NO MILVUS TO TEST WITH: {error}")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_session() -> Iterator[Redis]:
    """A Redis for the whole session."""
    with redis_server() as server:
        yield server


@pytest.fixture(params=["in this process", "in Redis"])
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    """An empty shared state of either kind."""
    if request.param == "in this process":
        store: Shared = InProcess()
    else:
        store = InRedis(request.getfixturevalue("redis_session").url, f"test-{next(_NUMBERS)}")
        assert store.state == "up"
    yield store
    store.close()


@pytest.fixture(scope="session")
def models() -> ModelStore:
    """The models of the checkout."""
    return ModelStore(CHECKOUT / "models")


@pytest.fixture(scope="session")
def engines_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which the first application remembers its engines; the others are spared the measuring."""
    return tmp_path_factory.mktemp("service") / "data" / "engines.json"


@pytest.fixture(scope="session")
def service(engines_memory: Path) -> Iterator[Service]:
    """The application that the tests share."""
    with running(engines_memory.parent) as service:
        yield service


@pytest.fixture
def gallery(service: Service) -> Iterator[Gallery]:
    """An empty gallery."""
    name = f"g{next(_NUMBERS)}"
    made = service.post("/v1/galleries", json={"name": name})
    assert made.status_code == 201, made.text
    yield Gallery(service, name)
    service.delete(f"/v1/galleries/{name}")


_NUMBERS = itertools.count()


class Starter:
    """Starts further applications: `start()`, or `start(folder, **settings)`; `stop()` stops them again."""

    def __init__(self, data: Path, engines_memory: Path) -> None:
        self._data = data
        self._engines_memory = engines_memory
        self._stack = ExitStack()

    def __call__(self, data: Path | None = None, **settings: Any) -> Service:
        data = data or self._data
        data.mkdir(exist_ok=True)
        shutil.copy(self._engines_memory, data)
        return self._stack.enter_context(running(data, **settings))

    def stop(self) -> None:
        """Stop what was started, the last one first."""
        self._stack.close()


@pytest.fixture
def start(service: Service, engines_memory: Path, tmp_path: Path) -> Iterator[Starter]:
    """Starts further applications, on the folder `data` of the test unless told otherwise."""
    starter = Starter(tmp_path / "data", engines_memory)
    yield starter
    starter.stop()


@pytest.fixture(scope="module")
def start_module(service: Service, engines_memory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """As `start`, for the tests of a file together."""
    starter = Starter(tmp_path_factory.mktemp("module") / "data", engines_memory)
    yield starter
    starter.stop()
