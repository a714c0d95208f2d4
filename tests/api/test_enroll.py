import base64

import numpy as np
import pytest
from PIL import Image

from tests.conftest import assert_problem, base64_of
from tests.faces import blurred, crowd, orl_photo, orl_pixels, saved, scene, truncated_jpeg

WITHOUT_FACE = saved(scene(), "JPEG")


def test_the_answer_says_what_became_of_each_photo(gallery):
    answer = gallery.enroll("anna", orl_photo(1, 1), WITHOUT_FACE, orl_photo(1, 2), truncated_jpeg(), crowd(2))
    assert answer.status_code == 201
    body = answer.json()
    assert body.keys() == {"person", "revision", "enrolled", "refused"}
    assert (body["person"], body["revision"]) == ("anna", 1)
    assert [face["photo"] for face in body["enrolled"]] == [0, 2]
    for face in body["enrolled"]:
        assert face.keys() == {"face", "photo", "box", "quality", "resembles"}
        assert face["box"].keys() == {"x", "y", "width", "height"}
        assert 0.3 <= face["quality"] <= 1
        assert face["face"].startswith("f_")
    assert [(photo["photo"], photo["code"]) for photo in body["refused"]] == [
        (1, "no_face"),
        (3, "photo_damaged"),
        (4, "several_faces"),
    ]
    assert all(photo["detail"] for photo in body["refused"])
    assert gallery.state() == (1, 1, 2)


def test_json_with_base64_does_what_a_form_does(service, gallery):
    photos = [base64_of(orl_photo(1, 1)), "data:image/x-portable-graymap;base64," + base64_of(orl_photo(1, 2))]
    answer = service.post(f"{gallery.people}/anna/faces", json={"photo": photos})
    assert (answer.status_code, len(answer.json()["enrolled"])) == (201, 2)
    one = service.post(f"{gallery.people}/anna/faces", json={"photo": base64_of(orl_photo(1, 3))})
    assert (one.status_code, len(one.json()["enrolled"])) == (201, 1)
    by_form = gallery.enroll("bert", orl_photo(1, 1)).json()["enrolled"][0]
    assert by_form["box"] == answer.json()["enrolled"][0]["box"]


def test_enrolling_into_a_gallery_creates_the_person_or_adds_to_it(service, gallery):
    service.put(f"{gallery.people}/anna", json={"name": "Anna"})
    gallery.enrolled("anna", orl_photo(1, 1))
    gallery.enrolled("bert", orl_photo(2, 1))
    people = service.get(gallery.people).json()["people"]
    assert [(person["person"], person["name"], person["face_count"]) for person in people] == [
        ("anna", "Anna", 1),
        ("bert", None, 1),
    ]


def test_several_templates_are_fused_and_kept_singly(service, gallery):
    first, second = orl_photo(1, 1), orl_photo(1, 5)
    gallery.enrolled("anna", first, second)

    def similarity(photo):
        return gallery.identify(photo).json()["faces"][0]["similarity"]

    assert 0.6 < similarity(first) < 0.999
    assert 0.6 < similarity(second) < 0.999
    assert len(service.get(f"{gallery.people}/anna").json()["faces"]) == 2


def test_a_face_that_somebody_else_already_has_is_reported(gallery):
    gallery.enrolled("anna", orl_photo(1, 1), orl_photo(1, 2))
    gallery.enrolled("bert", orl_photo(2, 1))
    (face,) = gallery.enrolled("anna-again", orl_photo(1, 3))["enrolled"]
    (resemblance,) = face["resembles"]
    assert resemblance.keys() == {"person", "similarity"}
    assert resemblance["person"] == "anna"
    assert resemblance["similarity"] > 0.5
    assert gallery.state()[1] == 3


def test_the_person_itself_is_no_resemblance(gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    assert gallery.enrolled("anna", orl_photo(1, 2))["enrolled"][0]["resembles"] == []


def test_somebody_whose_time_has_passed_is_no_resemblance(service, gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    service.patch(f"{gallery.people}/anna", json={"expires_at": "2020-01-01T00:00:00Z"})
    assert gallery.enrolled("bert", orl_photo(1, 2))["enrolled"][0]["resembles"] == []


def test_a_photo_that_the_person_has_already_is_refused(gallery):
    (kept,) = gallery.enrolled("anna", orl_photo(1, 1))["enrolled"]
    document = assert_problem(gallery.enroll("anna", orl_photo(1, 1)), 422, "nothing_enrolled")
    (refused,) = document["refused"]
    assert (refused["photo"], refused["code"], refused["face"]) == (0, "duplicate_photo", kept["face"])
    assert gallery.state() == (1, 1, 1)


def test_two_equal_photos_in_one_enrolment_are_one_face(gallery):
    body = gallery.enroll("anna", orl_photo(1, 1), orl_photo(1, 1)).json()
    assert [face["photo"] for face in body["enrolled"]] == [0]
    assert [(photo["photo"], photo["code"]) for photo in body["refused"]] == [(1, "duplicate_photo")]
    assert gallery.state() == (1, 1, 1)


def test_a_face_that_stands_out_is_enrolled_and_bystanders_are_not(gallery):
    canvas = Image.new("RGB", (460, 400), (90, 90, 90))
    canvas.paste(Image.fromarray(orl_pixels(1, 1)).resize((276, 336), Image.Resampling.BICUBIC), (0, 0))
    canvas.paste(Image.fromarray(orl_pixels(2, 1)), (350, 100))
    body = gallery.enrolled("anna", saved(canvas, "PNG"))
    assert body["enrolled"][0]["box"]["width"] > 150
    assert gallery.whose(orl_photo(1, 2)) == "anna"
    assert gallery.whose(orl_photo(2, 2)) is None


def test_a_face_under_the_quality_floor_is_refused_with_its_reasons(gallery):
    document = assert_problem(gallery.enroll("anna", blurred(1, 1)), 422, "nothing_enrolled")
    (refused,) = document["refused"]
    assert refused["code"] == "low_quality"
    assert "blurred" in refused["reasons"]
    assert 0 <= refused["quality"] < 0.3
    assert gallery.state() == (0, 0, 0)


def test_more_photos_than_one_enrolment_takes_are_refused(gallery):
    assert_problem(gallery.enroll("anna", *[orl_photo(1, 1)] * 21), 422, "invalid_request")
    assert gallery.state() == (0, 0, 0)


def test_an_enrolment_without_photos_is_refused(service, gallery):
    assert_problem(service.post(f"{gallery.people}/anna/faces", json={}), 422, "invalid_request")


def test_a_person_with_too_many_faces_is_refused_whole(start):
    service = start(max_faces_per_person=2)
    service.post("/v1/galleries", json={"name": "staff"})

    def enroll(*numbers):
        photos = [base64_of(orl_photo(1, number)) for number in numbers]
        return service.post("/v1/galleries/staff/people/anna/faces", json={"photo": photos})

    assert enroll(1).status_code == 201
    document = assert_problem(enroll(2, 3), 409, "limit_reached")
    assert document["limit"] == 2
    assert service.get("/v1/galleries/staff").json()["faces"] == 1
    assert enroll(2).status_code == 201


def test_an_embedding_needs_a_key_to_be_taken_in(service, gallery):
    vector = np.zeros(128, "<f4")
    vector[0] = 1
    body = {"embedding": base64.b64encode(vector.tobytes()).decode()}
    assert_problem(service.post(f"{gallery.people}/anna/faces", json=body), 403, "forbidden")
    assert gallery.state() == (0, 0, 0)


def test_a_found_face_is_found_by_the_very_next_search(gallery):
    for person in range(1, 6):
        gallery.enrolled(f"p{person}", orl_photo(person, 1))
        assert gallery.whose(orl_photo(person, 1)) == f"p{person}"


@pytest.mark.parametrize("field", ["picture", "photo_a"])
def test_a_file_under_another_name_is_refused(service, gallery, field):
    answer = service.post(f"{gallery.people}/anna/faces", files={field: orl_photo(1, 1)})
    assert_problem(answer, 422, "invalid_request")


def test_a_photo_sent_as_a_plain_field_is_refused(service, gallery):
    answer = service.post(f"{gallery.people}/anna/faces", data={"photo": "x"}, files={"other": b""})
    assert_problem(answer, 422, "invalid_request")


def test_an_enrolment_that_does_not_fit_into_memory_is_refused_and_not_committed(gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    with gallery.without_memory():
        assert_problem(gallery.enroll("bert", orl_photo(3, 1)), 503, "index_memory")
        assert_problem(gallery.enroll("anna", orl_photo(1, 2)), 503, "index_memory")
        assert gallery.state() == (1, 1, 1)
        assert gallery.whose(orl_photo(1, 2)) == "anna"
    assert gallery.enroll("bert", orl_photo(3, 1)).status_code == 201
    assert gallery.state() == (2, 2, 2)
