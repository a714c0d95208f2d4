import http.client
import re
import signal
import socket
import time

import httpx
import pytest

from service.settings import CHECKOUT
from tests.cli.running import serving, vultus
from tests.conftest import assert_problem
from tests.faces import orl_photo
from tests.ports import free_port


def test_a_service_answers_at_the_address_that_it_announces(service):
    with service.client() as client:
        assert client.get("/health/ready").json()["status"] == "ready"


def test_a_service_announces_what_to_do_next(service):
    assert f"{service.url}/docs" in service.said
    assert f"demo --url {service.url}" in service.said


def test_the_log_shows_the_request_id_of_an_answer(service):
    with service.client() as client:
        assert_logged(service, client.get("/health/live").headers["X-Request-Id"])


def assert_logged(service, request_id):
    deadline = time.monotonic() + 5
    while f"id={request_id}" not in service.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "sent",
    [
        b"how are you?\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost localhost\r\n\r\n",
        b"POST /v1/galleries HTTP/1.1\r\nhost: localhost\r\ncontent-length: many\r\n\r\n",
        b"GET /health/live HTTP/9.9\r\nhost: localhost\r\n\r\n",
    ],
    ids=["no HTTP", "no header", "no length", "no version"],
)
def test_what_is_no_http_is_answered_in_the_one_shape_of_errors(service, sent):
    where = httpx.URL(service.url)
    with socket.create_connection((where.host, where.port), timeout=10) as connection:
        connection.sendall(sent)
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            given = httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
        assert connection.recv(1) == b""
    assert_problem(given, 400, "malformed_http")
    assert given.headers["connection"] == "close"
    assert_logged(service, given.headers["X-Request-Id"])
    with service.client() as client:
        assert client.get("/health/ready").status_code == 200


def test_a_port_that_was_asked_for_is_named_to_another_terminal_that_does_not_know_the_variable(data):
    with serving(data, port=free_port()) as running:
        assert f"demo --url {running.url}" in running.said


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_service_with_exit_code_0(data, how):
    with serving(data) as running:
        assert running.stop(how) == 0


def test_what_was_enrolled_is_found_after_a_kill(data):
    with serving(data) as running, running.client() as client:
        client.post("/v1/galleries", json={"name": "staff"}).raise_for_status()
        files = [("photo", orl_photo(10, number)) for number in (1, 2)]
        client.post("/v1/galleries/staff/people/anna/faces", files=files).raise_for_status()
        running.stop(signal.SIGKILL)
    with serving(data) as running, running.client() as client:
        answer = client.post("/v1/galleries/staff/identify", files={"photo": orl_photo(10, 4)})
        assert [face["person"] for face in answer.raise_for_status().json()["faces"]] == ["anna"]


def only_error(done) -> str:
    """The code of the error that a command ended with, once nothing but its line is on standard error."""
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    found = re.fullmatch(r"error \[(\w+)\]: .+", line)
    assert found, line
    return found[1]


def test_a_second_process_on_a_data_folder_is_refused_and_names_the_first(service):
    done = vultus("serve", data=service.data)
    assert only_error(done) == "data_folder_in_use"
    assert str(service.process.pid) in done.stderr


def test_a_port_that_is_taken_is_named(data):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = vultus("serve", data=data, port=port)
    assert only_error(done) == "address_unusable"
    assert f"port {port}" in done.stderr


def test_an_unknown_setting_is_named(data):
    done = vultus("serve", data=data, max_foto_bytes=1)
    assert only_error(done) == "settings_invalid"
    assert "VULTUS_MAX_FOTO_BYTES" in done.stderr


def test_a_value_that_is_not_allowed_is_named(data):
    done = vultus("serve", data=data, fpir=2)
    assert only_error(done) == "settings_invalid"
    assert "VULTUS_FPIR" in done.stderr


def test_an_open_network_without_a_key_is_refused(data):
    done = vultus("serve", data=data, host="0.0.0.0")
    assert only_error(done) == "settings_invalid"
    assert "vultus keys create" in done.stderr


def test_a_missing_model_says_how_to_get_it(data, checkout_manifests):
    done = vultus("serve", data=data, models=checkout_manifests)
    assert only_error(done) == "model_missing"
    assert "vultus models fetch" in done.stderr


def test_a_model_without_commercial_use_is_named_at_the_start(data, checkout_manifests):
    for name in ("sface", "yunet"):
        folder = checkout_manifests / name
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"commercial": true', '"commercial": false'))
        for file in (CHECKOUT / "models" / name).glob("*.onnx"):
            (folder / file.name).symlink_to(file)
    with serving(data, models=checkout_manifests) as running:
        assert running.log.read_text().count("NO COMMERCIAL USE") == 2
