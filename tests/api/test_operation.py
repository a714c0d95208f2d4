import pytest
from fastapi import FastAPI

from service.api import problems
from service.api.metrics import Metrics
from service.api.middleware import Envelope
from tests.conftest import Gallery, assert_problem, driven
from tests.faces import orl_photo


def test_it_lives_and_is_ready(service):
    assert service.get("/health/live").json() == {"status": "live"}
    ready = service.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json().pop("version")
    assert ready.json() | {"version": ""} == {
        "status": "ready",
        "model": "sface",
        "engine": "onnxruntime",
        "version": "",
        "catalog": "sqlite",
        "shared": "alone",
        "behind_seconds": 0,
        "behind_revisions": 0,
    }


def test_models_are_listed_with_licence_engine_and_calibration(service):
    models = {model["name"]: model for model in service.get("/v1/models").json()["models"]}
    assert models.keys() >= {"sface", "yunet"}
    sface = models["sface"]
    assert sface.keys() == {
        "name",
        "version",
        "task",
        "digest",
        "loaded",
        "engine",
        "licence",
        "measured",
        "calibration",
    }
    assert (sface["task"], sface["loaded"], sface["digest"]) == ("recognition", True, service.product.model.digest)
    assert sface["licence"]["spdx"] == "Apache-2.0"
    assert sface["licence"]["commercial"] is True
    assert sface["calibration"]["impostor_pairs"] == service.product.calibration.impostor_pairs
    assert (sface["engine"]["name"], sface["engine"]["precision"], sface["engine"]["reason"]) == (
        "onnxruntime",
        "float32",
        "told",
    )
    assert sface["engine"]["parity"] > 0.9999
    assert models["yunet"]["engine"]["rates"].keys() <= {"onnxruntime", "openvino", "cuda"}


def test_an_engine_that_was_measured_says_why_it_was_taken_and_recognises(start):
    service = start(engine="auto")
    engine = next(model["engine"] for model in service.get("/v1/models").json()["models"] if model["name"] == "sface")
    assert engine["reason"] == "fastest"
    assert engine["rates"][engine["name"]] >= 0.89 * max(engine["rates"].values())
    assert service.get("/health/ready").json()["engine"] == engine["name"]
    service.post("/v1/galleries", json={"name": "staff"})
    gallery = Gallery(service, "staff")
    gallery.enrolled("anna", orl_photo(1, 1))
    assert (gallery.whose(orl_photo(1, 2)), gallery.whose(orl_photo(2, 1))) == ("anna", None)


def count(service, line):
    text = service.get("/metrics").text
    return next((float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line)), 0.0)


def test_metrics_count_requests_decisions_and_faces(service, gallery):
    enrolled = f'vultus_faces_enrolled_total{{gallery="{gallery.name}"}}'
    known = f'vultus_decisions_total{{decision="match",gallery="{gallery.name}"}}'
    unknown = f'vultus_decisions_total{{decision="unknown",gallery="{gallery.name}"}}'
    route = 'vultus_requests_total{method="GET",route="/v1/galleries/{gallery}",status="404"}'
    before = count(service, route)
    gallery.enrolled("anna", orl_photo(1, 1), orl_photo(1, 2))
    gallery.whose(orl_photo(1, 3))
    gallery.whose(orl_photo(2, 3))
    service.get("/v1/galleries/nobody-has-this-name")
    assert [count(service, line) for line in (enrolled, known, unknown)] == [2, 1, 1]
    assert count(service, route) == before + 1


def test_metrics_do_not_grow_with_the_paths_that_are_asked_for(service):
    service.get("/v1/a-path-of-nobody")
    assert "a-path-of-nobody" not in service.get("/metrics").text


def test_metrics_are_plain_text_of_prometheus(service):
    answer = service.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "vultus_waiting" in answer.text


@pytest.mark.parametrize("path", ["/health/live", "/v1/galleries", "/v1/nothing", "/metrics", "/openapi.json"])
def test_every_answer_has_a_request_id(service, path):
    first, second = service.get(path), service.get(path)
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_a_sane_request_id_of_the_caller_is_kept(service):
    answer = service.get("/v1/nothing", headers={"X-Request-Id": "trace-1.a_B"})
    assert assert_problem(answer, 404, "not_found")["request_id"] == "trace-1.a_B"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a;b", "<script>"])
def test_another_request_id_is_replaced(service, given):
    answer = service.get("/health/live", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] != given
    assert answer.headers["x-request-id"].isalnum()


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "LOCALHOST"]
)
def test_an_open_service_answers_to_this_machine(service, host):
    assert service.get("/health/live", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:8000", "192.0.2.1", "[::1", ""]
)
def test_an_open_service_answers_to_no_other_name(service, host):
    assert_problem(service.get("/v1/galleries", headers={"host": host}), 400, "host_not_allowed")


@pytest.fixture
def failing():
    """An application with a route that raises what nobody foresaw."""
    app = FastAPI()
    problems.install(app)

    @app.get("/fails", include_in_schema=False)
    async def fails():
        raise ZeroDivisionError("a secret of the inside")

    app.add_middleware(Envelope, metrics=Metrics(), max_body=1000)
    with driven(app) as service:
        yield service


def test_what_nobody_foresaw_is_answered_without_telling_the_inside(failing):
    answer = failing.get("/fails")
    assert_problem(answer, 500, "internal")
    assert "secret" not in answer.text


def test_too_much_at_once_is_refused_with_the_time_to_come_again(start):
    service = start(queue=1)
    answers = service.at_once(*[("POST", "/v1/faces/detect", {"files": {"photo": orl_photo(1, 1)}})] * 40)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 40
    for answer in refused:
        document = assert_problem(answer, 429, "overloaded")
        assert int(answer.headers["retry-after"]) == document["retry_after"] >= 1
    assert service.post("/v1/faces/detect", files={"photo": orl_photo(1, 1)}).status_code == 200


def test_docs_are_served(service):
    assert service.get("/docs").status_code == 200
