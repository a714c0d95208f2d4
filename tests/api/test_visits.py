import time
from datetime import UTC, datetime, timedelta

import pytest

from service import app
from service.gallery import galleries
from service.recognition.visits import forget_old
from tests.conftest import Gallery, assert_problem, running


def told(service, gallery, **body):
    return service.post(f"{gallery.path}/visits", json={"confirmed_by": "card", "device": "gate-7"} | body)


@pytest.fixture
def anna(service, gallery):
    service.put(f"{gallery.people}/anna", json={"name": "Anna"})
    return "anna"


def count(service, gallery, kind="device", name="gate-7"):
    with service.product.catalog.read() as reading:
        found = service.product.visits.at_place(reading, galleries.get(reading, gallery.name).pk, kind, name)
    return int(found.counts.sum())


def test_a_confirmed_visit_is_recorded(service, gallery, anna):
    answer = told(service, gallery, person=anna)
    assert answer.status_code == 201
    assert answer.json()["person"] == anna
    assert answer.json()["visit"].startswith("v_")
    assert count(service, gallery) == 1


def test_a_confirmed_stranger_is_recorded_too(service, gallery):
    assert told(service, gallery, person=None).json()["person"] is None
    assert count(service, gallery) == 1


def test_a_visit_is_kept_by_cell_and_region_as_well(service, gallery, anna):
    assert told(service, gallery, person=anna, region={"lat": 48.137, "lon": 11.575}).status_code == 201
    assert (
        count(service, gallery, "cell", "871f8d7a4ffffff") == count(service, gallery, "region", "851f8d7bfffffff") == 1
    )


def test_the_same_idempotency_key_records_one_visit(service, gallery, anna):
    for _ in range(2):
        body = {"person": anna, "device": "gate-7", "confirmed_by": "card"}
        service.post(f"{gallery.path}/visits", json=body, headers={"Idempotency-Key": "k1"})
    assert count(service, gallery) == 1


def test_forgetting_a_person_forgets_their_visits(service, gallery, anna):
    told(service, gallery, person=anna)
    service.delete(f"{gallery.people}/{anna}")
    assert count(service, gallery) == 0


def in_an_hour():
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"person": "nobody"}, 404, "person_not_found"),
        ({"person": "anna", "region": "nowhere"}, 422, "invalid_request"),
        ({"person": "anna", "region": {"lat": 91, "lon": 0}}, 422, "invalid_request"),
        ({"person": "anna", "time": "1969-12-31T23:59:59Z"}, 422, "invalid_request"),
        ({"person": "anna", "time": in_an_hour()}, 422, "invalid_request"),
        ({"person": "anna", "time": "2026-01-01T00:00:00"}, 422, "invalid_request"),
        ({"person": "anna", "device": None}, 422, "invalid_request"),
        ({"person": "anna", "device": "a/b"}, 422, "invalid_id"),
        ({"person": "anna", "confirmed_by": ""}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
    ],
    ids=str,
)
def test_a_visit_that_cannot_be_is_refused(service, gallery, anna, body, status, code):
    assert_problem(told(service, gallery, **body), status, code)
    assert count(service, gallery) == 0


def test_a_visit_is_forgotten_once_it_is_older_than_is_set(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "EXPIRY_SECONDS", 0.05)
    with running(tmp_path, visit_days=10) as service:
        service.post("/v1/galleries", json={"name": "staff"})
        staff = Gallery(service, "staff")
        for days in (9, 11, 300):
            at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
            assert told(service, staff, person=None, time=at).status_code == 201
        deadline = time.monotonic() + 20
        while count(service, staff) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        assert count(service, staff) == 1


def test_what_is_not_old_enough_stays(service, gallery):
    told(service, gallery, person=None, time=(datetime.now(UTC) - timedelta(days=399)).isoformat())
    told(service, gallery, person=None, time=(datetime.now(UTC) - timedelta(days=401)).isoformat())
    service.portal.call(forget_old, service.product)
    assert count(service, gallery) == 1


def test_a_gallery_that_is_not_there_has_no_visits(service):
    body = {"person": None, "device": "gate-7", "confirmed_by": "card"}
    assert_problem(service.post("/v1/galleries/none/visits", json=body), 404, "gallery_not_found")
