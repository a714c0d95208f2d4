import pytest

from tests.conftest import as_files, assert_problem, base64_of
from tests.faces import orl_photo, saved, scene

FIELDS = {"same", "similarity", "probability", "threshold", "fmr", "faces"}
WITHOUT_FACE = saved(scene(), "JPEG")


def pair(a, b, **fields):
    return {"files": [*as_files(a, field="photo_a"), *as_files(b, field="photo_b")], "data": fields}


def test_two_photos_of_one_person_are_the_same(service):
    answer = service.post("/v1/verify", **pair(orl_photo(1, 1), orl_photo(1, 5)))
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == FIELDS
    assert (body["same"], body["fmr"]) == (True, 1e-5)
    assert body["similarity"] >= body["threshold"]
    assert body["probability"] > 0.99
    assert [face.keys() for face in body["faces"]] == [{"box", "landmarks", "score", "quality"}] * 2


def test_photos_of_two_people_are_not_the_same(service):
    body = service.post("/v1/verify", **pair(orl_photo(1, 1), orl_photo(2, 1))).json()
    assert body["same"] is False
    assert body["similarity"] < body["threshold"]
    assert body["probability"] < 0.1


def test_json_with_base64_gives_the_answer_of_a_form(service):
    by_form = service.post("/v1/verify", **pair(orl_photo(1, 1), orl_photo(1, 5), fmr=0.001)).json()
    body = {"photo_a": base64_of(orl_photo(1, 1)), "photo_b": base64_of(orl_photo(1, 5)), "fmr": 0.001}
    assert service.post("/v1/verify", json=body).json() == by_form


def test_the_order_of_the_photos_does_not_matter(service):
    there = service.post("/v1/verify", **pair(orl_photo(1, 1), orl_photo(1, 5))).json()
    back = service.post("/v1/verify", **pair(orl_photo(1, 5), orl_photo(1, 1))).json()
    assert there["similarity"] == pytest.approx(back["similarity"], abs=1e-6)
    assert there["faces"] == back["faces"][::-1]


def test_a_photo_is_verified_against_a_person(service, gallery):
    gallery.enrolled("anna", orl_photo(1, 1), orl_photo(1, 2))
    path = f"{gallery.people}/anna/verify"
    own = service.post(path, files={"photo": orl_photo(1, 5)})
    assert own.status_code == 200
    assert own.json().keys() == FIELDS
    assert own.json()["same"] is True
    assert len(own.json()["faces"]) == 1
    other = service.post(path, json={"photo": base64_of(orl_photo(2, 1))})
    assert other.json()["same"] is False


def test_a_lower_rate_raises_the_threshold(service):
    answers = [service.post("/v1/verify", **pair(orl_photo(1, 1), orl_photo(1, 5), fmr=rate)) for rate in (1e-3, 1e-6)]
    loose, strict = (answer.json() for answer in answers)
    assert (loose["fmr"], strict["fmr"]) == (1e-3, 1e-6)
    assert loose["threshold"] < strict["threshold"]
    assert loose["threshold"] == pytest.approx(service.product.calibration.threshold(1e-3))


def test_a_rate_that_the_calibration_cannot_vouch_for_is_refused(service):
    answer = service.post("/v1/verify", **pair(orl_photo(1, 1), orl_photo(1, 5), fmr=1e-9))
    assert_problem(answer, 422, "fpir_not_supported")


def test_a_person_without_a_face_cannot_be_compared_with(service, gallery):
    service.put(f"{gallery.people}/anna", json={})
    answer = service.post(f"{gallery.people}/anna/verify", files={"photo": orl_photo(1, 1)})
    assert_problem(answer, 409, "person_without_face")


def test_a_photo_without_a_face_is_refused(service, gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    assert_problem(service.post("/v1/verify", **pair(orl_photo(1, 1), WITHOUT_FACE)), 422, "no_face")
    against = service.post(f"{gallery.people}/anna/verify", files={"photo": WITHOUT_FACE})
    assert_problem(against, 422, "no_face")


@pytest.mark.parametrize("left_out", ["photo_a", "photo_b"])
def test_both_photos_are_needed(service, left_out):
    parts = [part for part in pair(orl_photo(1, 1), orl_photo(1, 2))["files"] if part[0] != left_out]
    assert_problem(service.post("/v1/verify", files=parts), 422, "invalid_request")
