"""Own calibration: a gallery measured on its own people, by the running product."""

import hashlib
import threading
import time

import numpy as np
import pytest

from service import app
from service.errors import CalibrationError, NotReadyError
from service.gallery import calibrations, faces, galleries, people
from service.gallery.records import NewTemplate, PersonFields
from service.recognition import own
from tests.conftest import running
from tests.faces import orl_photo

PEOPLE = 500
HOME, FAR = "881f8d7a49fffff", "8828308281fffff"


def enrolled(product, name, vectors, homes=(None,)):
    with product.catalog.write() as tx:
        pk = galleries.get(tx, name).pk
        for number, vector in enumerate(vectors):
            people.create(tx, pk, f"p{number}", PersonFields(region=homes[number % len(homes)]))
            digest = hashlib.sha256(f"{number}".encode()).hexdigest()
            unit = (vector / np.linalg.norm(vector)).astype(np.float32)
            faces.add(tx, pk, f"p{number}", [NewTemplate(digest, unit, 0.7, (0, 0, 0, 0))], limit=5)
    product.views.of(pk).catch_up()
    with product.catalog.read() as reading:
        return galleries.get(reading, name)


def strangers(count=PEOPLE, *, alike=0.0, seed=0):
    """Random directions; `alike` is how much of one common direction each has."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 128)) + alike * np.sqrt(128) * np.eye(128)[0]


def test_every_pair_of_people_is_counted_once(service, gallery):
    record = enrolled(service.product, gallery.name, strangers())
    found = own.measure(service.product, record, seed=0)
    assert found.kept.people == PEOPLE
    assert found.kept.tiers["all"]["pairs"] == PEOPLE * (PEOPLE - 1) // 2
    assert "near" not in found.kept.tiers
    assert sum(found.figures["all"].cases) > 0


def test_a_gallery_of_people_who_look_alike_asks_for_more_of_a_face(service, gallery):
    """Random directions that share a third of one have cosines about 0.1 instead of 0."""
    record = enrolled(service.product, gallery.name, strangers(alike=0.5))
    photo = orl_photo(1, 1)
    before = gallery.identify(photo).json()["faces"][0]
    own.measure(service.product, record, seed=0)
    after = gallery.identify(photo).json()["faces"][0]
    assert after["threshold"] > before["threshold"] + 0.02
    refused = gallery.identify(photo, fpir=0.003)
    assert (refused.status_code, refused.json()["code"]) == (422, "fpir_not_supported")


def test_neighbours_are_measured_apart(service, gallery):
    """Nine of ten people live in one town; they share a direction, and look more alike than the others do."""
    random, at_home = np.random.default_rng(6).standard_normal((PEOPLE, 128)), np.arange(PEOPLE) % 10 < 9
    random[at_home] += 0.5 * np.random.default_rng(5).standard_normal(128)
    record = enrolled(service.product, gallery.name, random, [HOME] * 9 + [FAR])
    found = own.measure(service.product, record, seed=0)
    near = found.kept.tiers["near"]
    assert near["pairs"] == 450 * 449 // 2 + 50 * 49 // 2
    far = service.product.calibrated.far(record.pk, PEOPLE, 0.5)
    near_by = service.product.calibrated.near(record.pk, far, 250, 0.5)
    assert near_by.threshold(1e-2) > far.threshold(1e-2)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_gallery_of_nobody_or_hardly_anybody_is_refused(service, gallery, count):
    record = enrolled(service.product, gallery.name, strangers(count))
    with pytest.raises(CalibrationError, match=f"{count} people"):
        own.measure(service.product, record)
    with service.product.catalog.read() as reading:
        assert calibrations.newest(reading, record.pk) is None


def test_a_gallery_whose_chosen_people_all_leave_meanwhile_is_refused(service, gallery, monkeypatch):
    record = enrolled(service.product, gallery.name, strangers(600))
    nobody = np.empty(0, np.int64), np.empty((0, record.dim), np.float32)
    monkeypatch.setattr(own, "_probes", lambda product, gallery, chosen: nobody)
    with pytest.raises(CalibrationError, match="too few"):
        own.measure(service.product, record)


def test_two_people_of_the_same_photo_are_one_person_enrolled_twice(service, gallery):
    vectors = strangers()
    record = enrolled(service.product, gallery.name, np.concatenate([vectors, vectors[:2]]))
    found = own.measure(service.product, record, seed=0)
    assert found.kept.tiers["all"]["doubles"] == 2


def test_a_gallery_is_due_once_it_has_grown(service, gallery):
    product = service.product
    record = enrolled(product, gallery.name, strangers(100))
    assert not own.due(product, record, 0.25)
    record = enrolled_more(product, gallery.name, 100, PEOPLE)
    assert own.due(product, record, 0.25)
    own.measure(product, record, seed=0)
    assert not own.due(product, record, 0.25)
    record = enrolled_more(product, gallery.name, PEOPLE, PEOPLE + 130)
    assert own.due(product, record, 0.25)


def enrolled_more(product, name, first, last):
    with product.catalog.write() as tx:
        pk = galleries.get(tx, name).pk
        for number in range(first, last):
            vector = strangers(1, seed=number)[0]
            unit = (vector / np.linalg.norm(vector)).astype(np.float32)
            digest = hashlib.sha256(f"{number}".encode()).hexdigest()
            faces.add(tx, pk, f"p{number}", [NewTemplate(digest, unit, 0.7, (0, 0, 0, 0))], limit=5)
    product.views.of(pk).catch_up()
    with product.catalog.read() as reading:
        return galleries.get(reading, name)


def test_a_service_that_stops_waits_for_no_measurement(tmp_path, monkeypatch):
    """A gallery of 200,000 takes minutes. What it works with is closed only once it has given up."""
    under_way, outcome = threading.Event(), []

    def measured_slowly(product, growth, *, rest):
        under_way.set()
        try:
            for _ in range(1000):
                product.rest(0.01)
                with product.catalog.read() as reading:
                    galleries.page(reading)
        except BaseException as error:
            outcome.append(error)
            raise

    monkeypatch.setattr(app, "EXPIRY_SECONDS", 0.01)
    monkeypatch.setattr(app, "measure_due", measured_slowly)
    with running(tmp_path):
        assert under_way.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert [type(each) for each in outcome] == [NotReadyError]


def test_a_measurement_ends_between_two_pieces_once_the_service_stops(tmp_path):
    with running(tmp_path) as service:
        service.post("/v1/galleries", json={"name": "staff"})
        record = enrolled(service.product, "staff", strangers())
        service.product.ending.set()
        with pytest.raises(NotReadyError):
            own.measure(service.product, record)
        with service.product.catalog.read() as reading:
            assert calibrations.newest(reading, record.pk) is None


def versions(product, record):
    with product.catalog.read() as reading:
        found = calibrations.newest(reading, record.pk)
    return (0, 0) if found is None else (found.version, found.people)


def eventually(probe, wanted, seconds=30):
    deadline = time.monotonic() + seconds
    while (seen := probe()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == wanted


def test_a_gallery_that_has_grown_by_as_much_as_is_set_is_measured_in_the_background(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "EXPIRY_SECONDS", 0.05)
    with running(tmp_path, measure_growth=0.1) as service:
        service.post("/v1/galleries", json={"name": "staff"})
        record = enrolled(service.product, "staff", strangers())
        eventually(lambda: versions(service.product, record), (1, PEOPLE))
        enrolled_more(service.product, "staff", PEOPLE, PEOPLE + 40)
        time.sleep(0.5)
        assert versions(service.product, record) == (1, PEOPLE)
        enrolled_more(service.product, "staff", PEOPLE + 40, PEOPLE + 60)
        eventually(lambda: versions(service.product, record), (2, PEOPLE + 60))
        eventually(lambda: service.product.calibrated.version(record.pk), 2)


def test_a_growth_of_zero_measures_nothing_in_the_background(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "EXPIRY_SECONDS", 0.05)
    with running(tmp_path, measure_growth=0) as service:
        service.post("/v1/galleries", json={"name": "staff"})
        record = enrolled(service.product, "staff", strangers())
        time.sleep(1)
        assert versions(service.product, record) == (0, 0)


def test_all_galleries_that_are_due_are_measured_and_no_others(service, gallery):
    small = f"{gallery.name}-small"
    service.post("/v1/galleries", json={"name": small})
    few = enrolled(service.product, small, strangers(20))
    record = enrolled(service.product, gallery.name, strangers())
    assert own.measure_due(service.product, 0.25, rest=0.0) >= 1
    assert versions(service.product, record) == (1, PEOPLE)
    assert versions(service.product, few) == (0, 0)
    assert own.measure_due(service.product, 0.25, rest=0.0) == 0
    service.delete(f"/v1/galleries/{small}")
