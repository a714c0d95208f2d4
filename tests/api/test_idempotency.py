import concurrent.futures

import pytest

from tests.conftest import as_files, assert_problem, base64_of
from tests.faces import orl_photo

KEY = {"Idempotency-Key": "a-key"}


def test_the_same_enrolment_again_is_done_once_and_answered_with_the_same_bytes(gallery):
    first = gallery.enroll("anna", orl_photo(1, 1), headers=KEY)
    again = gallery.enroll("anna", orl_photo(1, 1), headers=KEY)
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert gallery.state() == (1, 1, 1)


def test_the_form_may_be_cut_otherwise_and_is_the_same(service, gallery):
    path = f"{gallery.people}/anna/faces"
    first = service.post(path, files={"photo": ("a.pgm", orl_photo(1, 1))}, headers=KEY)
    by_json = service.post(path, json={"photo": base64_of(orl_photo(1, 1))}, headers=KEY)
    assert first.content == by_json.content


def test_another_body_under_the_same_key_is_a_conflict(gallery):
    gallery.enroll("anna", orl_photo(1, 1), headers=KEY)
    assert_problem(gallery.enroll("anna", orl_photo(1, 2), headers=KEY), 422, "idempotency_conflict")
    assert gallery.state() == (1, 1, 1)


def test_another_path_under_the_same_key_is_a_conflict(gallery):
    gallery.enroll("anna", orl_photo(1, 1), headers=KEY)
    assert_problem(gallery.enroll("bert", orl_photo(1, 1), headers=KEY), 422, "idempotency_conflict")
    assert gallery.state() == (1, 1, 1)


def test_every_write_takes_a_key(service, gallery):
    anna = f"{gallery.people}/anna"
    face = gallery.enrolled("anna", orl_photo(1, 1))["enrolled"][0]["face"]
    writes = [
        ("POST", "/v1/galleries", {"json": {"name": f"{gallery.name}-b"}}),
        ("PATCH", gallery.path, {"json": {"fpir": 0.01}}),
        ("PUT", anna, {"json": {"name": "Anna"}}),
        ("PATCH", anna, {"json": {"name": "Anne"}}),
        ("POST", f"{anna}/faces", {"files": as_files(orl_photo(1, 2))}),
        ("DELETE", f"{anna}/faces/{face}", {}),
        ("DELETE", anna, {}),
        ("DELETE", f"/v1/galleries/{gallery.name}-b", {}),
    ]
    for number, (method, path, options) in enumerate(writes):
        headers = {"Idempotency-Key": f"{gallery.name}-{number}"}
        first = service.request(method, path, headers=headers, **options)
        assert first.is_success, first.text
        before = gallery.state()
        again = service.request(method, path, headers=headers, **options)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert gallery.state() == before


def test_a_request_that_failed_may_be_sent_again_under_its_key(service, gallery):
    path = f"{gallery.people}/anna"
    assert_problem(service.patch(path, json={"name": "Anna"}, headers=KEY), 404, "person_not_found")
    service.put(path, json={})
    assert service.patch(path, json={"name": "Anna"}, headers=KEY).status_code == 200


def test_while_the_first_request_runs_the_second_is_told_so(service, gallery):
    path, body = f"{gallery.people}/anna", {"name": "Anna"}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # The first request waits for its turn to write as long as this transaction is open.
        with service.product.catalog.write():
            first = pool.submit(service.put, path, json=body, headers=KEY)
            while not service.product.shared._claims:
                pass
            assert_problem(service.put(path, json=body, headers=KEY), 409, "idempotency_in_progress")
            assert_problem(service.put(path, json={}, headers=KEY), 422, "idempotency_conflict")
        answer = first.result()
    assert answer.status_code == 201
    assert service.put(path, json=body, headers=KEY).content == answer.content


def test_of_many_at_once_one_enrols(service, gallery):
    request = ("POST", f"{gallery.people}/anna/faces", {"files": as_files(orl_photo(1, 1)), "headers": KEY})
    answers = service.at_once(*[request] * 8)
    done = {answer.content for answer in answers if answer.status_code == 201}
    assert len(done) == 1
    for answer in answers:
        if answer.status_code != 201:
            assert_problem(answer, 409, "idempotency_in_progress")
    assert gallery.state() == (1, 1, 1)


def test_an_answer_is_given_again_after_a_restart(start):
    service = start()
    first = service.post("/v1/galleries", json={"name": "staff"}, headers=KEY)
    start.stop()
    again = start().post("/v1/galleries", json={"name": "staff"}, headers=KEY)
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)


@pytest.mark.parametrize("key", ["", "x" * 129, "with space", "\u00e9"])
def test_a_key_that_is_none_is_refused(service, gallery, key):
    headers = {"Idempotency-Key": key.encode()}
    assert_problem(service.put(f"{gallery.people}/anna", json={}, headers=headers), 422, "invalid_request")
    assert gallery.state() == (0, 0, 0)


@pytest.fixture(autouse=True)
def _own_keys(service):
    """The keys of one test are unknown to the next."""
    yield
    with service.product.catalog.write() as tx:
        tx.connection.exec_driver_sql("DELETE FROM idempotency")
