"""Bodies that are too large, against a real server on a socket: refused early, read no further, served on."""

import asyncio
import contextlib
import resource
import threading

import httpx
import pytest
import uvicorn

from service.app import create_app
from service.settings import Settings
from tests.conftest import assert_problem
from tests.faces import orl_photo

MEBI = 1 << 20
LARGEST = 4 * MEBI


@pytest.fixture(scope="module")
def server(service, engines_memory, tmp_path_factory):
    """The address of a service on a free port."""
    data = tmp_path_factory.mktemp("server")
    (data / "engines.json").write_bytes(engines_memory.read_bytes())
    settings = Settings(data=data, engine="onnxruntime", threads=1, max_request_bytes=LARGEST)
    config = uvicorn.Config(create_app(settings), port=0, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.02)
        (listening,) = server.servers
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Counted:
    """A body of a number of bytes that is sent in pieces and counts what was taken."""

    def __init__(self, length, *, head=b""):
        self.length, self.head, self.sent = length, head, 0

    def __iter__(self):
        yield self.head
        while self.sent < self.length:
            self.sent += MEBI
            yield bytes(MEBI)


def refused(url, content, headers):
    """The answer; a server that hung up while the body was still on its way may not have been heard."""
    with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return httpx.post(url, content=content, headers=headers, timeout=30)
    return None


FORM = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
KINDS = {
    "a form": ("/v1/faces/detect", FORM, "multipart/form-data; boundary=b"),
    "json with a photo": ("/v1/faces/detect", b'{"photo": "', "application/json"),
    "plain json": ("/v1/galleries", b'{"name": "', "application/json"),
}


@pytest.mark.parametrize(("path", "head", "kind"), KINDS.values(), ids=KINDS)
def test_100_mb_of_stated_length_are_refused_before_they_are_read(server, path, head, kind):
    body = Counted(100 * MEBI, head=head)
    headers = {"content-type": kind, "content-length": str(100 * MEBI + len(head))}
    answer = refused(server + path, body, headers)
    assert body.sent < 20 * MEBI
    if answer is not None:
        assert_problem(answer, 413, "request_too_large")
    assert httpx.get(f"{server}/health/ready").status_code == 200


@pytest.mark.parametrize(("path", "head", "kind"), KINDS.values(), ids=KINDS)
def test_100_mb_of_unstated_length_are_refused_on_the_way(server, path, head, kind):
    body = Counted(100 * MEBI, head=head)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = refused(server + path, body, {"content-type": kind})
    assert body.sent < 20 * MEBI
    if answer is not None:
        assert_problem(answer, 413, "request_too_large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024
    assert httpx.get(f"{server}/health/ready").status_code == 200


@pytest.mark.parametrize(("path", "head", "kind"), KINDS.values(), ids=KINDS)
def test_a_client_that_waits_hears_the_reason(server, path, head, kind):
    body = head + bytes(LARGEST)
    answer = httpx.post(server + path, content=body, headers={"content-type": kind})
    document = assert_problem(answer, 413, "request_too_large")
    assert document["limit"] == LARGEST
    assert answer.headers["connection"] == "close"


def test_a_body_within_the_limit_is_taken(server):
    answer = httpx.post(f"{server}/v1/faces/detect", files={"photo": orl_photo(1, 1)})
    assert len(answer.json()["faces"]) == 1


def test_a_client_that_hangs_up_half_way_leaves_the_service_well(server):
    def broken():
        yield FORM
        yield bytes(MEBI)
        raise ConnectionAbortedError

    for _ in range(3):
        with pytest.raises(ConnectionAbortedError):
            httpx.post(f"{server}/v1/faces/detect", content=broken(), headers={"content-type": KINDS["a form"][2]})
    answer = httpx.post(f"{server}/v1/faces/detect", files={"photo": orl_photo(1, 1)})
    assert len(answer.json()["faces"]) == 1
