import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Gallery, assert_problem, base64_of
from tests.faces import orl_photo, orl_pixels, saved

FACE = {
    "box",
    "landmarks",
    "score",
    "quality",
    "decision",
    "person",
    "similarity",
    "posterior",
    "threshold",
    "fpir",
    "candidates",
    "trace",
}


@pytest.fixture(scope="module")
def staff(service):
    """A gallery of the first five ORL people."""
    service.post("/v1/galleries", json={"name": "staff"})
    gallery = Gallery(service, "staff")
    for person in range(1, 6):
        gallery.enrolled(f"p{person}", orl_photo(person, 1), orl_photo(person, 2))
    yield gallery
    service.delete(gallery.path)


def side_by_side(*faces):
    canvas = Image.new("RGB", (120 * len(faces), 140), (90, 90, 90))
    for place, pixels in enumerate(faces):
        canvas.paste(Image.fromarray(pixels), (120 * place + 14, 14))
    return saved(canvas, "PNG")


def test_the_answer_has_the_fixed_shape(staff):
    answer = staff.identify(orl_photo(3, 4))
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"gallery", "revision", "model", "faces"}
    assert (body["gallery"], body["revision"], body["model"]) == (staff.name, 5, "sface")
    (face,) = body["faces"]
    assert face.keys() == FACE
    assert face["box"].keys() == {"x", "y", "width", "height"}
    assert np.array(face["landmarks"]).shape == (5, 2)
    assert (face["decision"], face["person"], face["fpir"]) == ("match", "p3", 0.003)
    assert face["similarity"] > face["threshold"]
    assert 0.9 < face["posterior"] <= 1
    for candidate in face["candidates"]:
        assert candidate.keys() == {"person", "similarity", "posterior", "prior_log_odds"}
    similarities = [candidate["similarity"] for candidate in face["candidates"]]
    assert similarities == sorted(similarities, reverse=True)
    assert {candidate["person"] for candidate in face["candidates"]} == {f"p{person}" for person in range(1, 6)}
    assert face["trace"] == {
        "scored": 5,
        "tiers": [{"tier": "gallery", "scored": 5, "posterior": face["posterior"]}],
    }


def test_everybody_is_recognised_and_no_stranger_is(staff):
    assert [staff.whose(orl_photo(person, 9)) for person in range(1, 6)] == [f"p{person}" for person in range(1, 6)]
    assert [staff.whose(orl_photo(person, 9)) for person in range(7, 12)] == [None] * 5


def test_a_stranger_gets_the_decision_unknown_and_the_nearest_as_candidates(staff):
    (face,) = staff.identify(orl_photo(8, 1)).json()["faces"]
    assert (face["decision"], face["person"]) == ("unknown", None)
    assert face["similarity"] == face["candidates"][0]["similarity"] < face["threshold"]
    assert face["posterior"] < 0.5


def test_in_an_empty_gallery_everybody_is_unknown(gallery):
    (face,) = gallery.identify(orl_photo(1, 1)).json()["faces"]
    assert (face["decision"], face["person"], face["similarity"], face["candidates"]) == ("unknown", None, None, [])
    assert face["trace"]["scored"] == 0


def test_each_face_of_a_photo_is_identified(staff):
    photo = side_by_side(orl_pixels(2, 4), orl_pixels(30, 1), orl_pixels(4, 4))
    faces = sorted(staff.identify(photo).json()["faces"], key=lambda face: face["box"]["x"])
    assert [(face["decision"], face["person"]) for face in faces] == [
        ("match", "p2"),
        ("unknown", None),
        ("match", "p4"),
    ]


def test_faces_come_largest_first(staff):
    large = np.asarray(Image.fromarray(orl_pixels(4, 4)).resize((120, 140)))
    faces = staff.identify(side_by_side(orl_pixels(2, 4), large[:126, :106])).json()["faces"]
    areas = [face["box"]["width"] * face["box"]["height"] for face in faces]
    assert len(areas) == 2
    assert areas == sorted(areas, reverse=True)


def test_json_with_base64_gives_the_answer_of_a_form(service, staff):
    by_form = staff.identify(orl_photo(3, 4), top=2).json()
    by_json = service.post(f"{staff.path}/identify", json={"photo": base64_of(orl_photo(3, 4)), "top": 2}).json()
    assert by_form == by_json


def test_top_bounds_the_candidates(staff):
    (face,) = staff.identify(orl_photo(3, 4), top=2).json()["faces"]
    assert len(face["candidates"]) == 2
    assert face["candidates"][0]["person"] == "p3"


def test_a_lower_error_rate_raises_the_threshold(staff):
    answers = [staff.identify(orl_photo(3, 4), fpir=rate).json()["faces"][0] for rate in (0.1, 0.01, 0.0001)]
    assert [face["fpir"] for face in answers] == [0.1, 0.01, 0.0001]
    thresholds = [face["threshold"] for face in answers]
    assert thresholds == sorted(set(thresholds))


def test_the_gallerys_own_rate_is_the_default(service, gallery):
    service.patch(gallery.path, json={"fpir": 0.02})
    assert gallery.identify(orl_photo(3, 4)).json()["faces"][0]["fpir"] == 0.02
    assert gallery.identify(orl_photo(3, 4), fpir=0.1).json()["faces"][0]["fpir"] == 0.1


def test_the_threshold_is_the_calibrations_for_the_rate_shared_among_the_people(service, staff):
    (face,) = staff.identify(orl_photo(3, 4), fpir=0.005).json()["faces"]
    assert face["threshold"] == pytest.approx(service.product.calibration.threshold(0.001))


def test_a_rate_that_the_calibration_cannot_vouch_for_is_refused(service, staff):
    document = assert_problem(staff.identify(orl_photo(3, 4), fpir=1e-7), 422, "fpir_not_supported")
    assert document["least"] == pytest.approx(
        5 * 3 / service.product.calibration.impostor_pairs
    )  # five people, and the rule of three


def test_a_default_rate_that_cannot_be_vouched_for_is_answered_with_the_one_that_can(service, gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    service.patch(gallery.path, json={"fpir": 1e-7})
    (face,) = gallery.identify(orl_photo(3, 4)).json()["faces"]
    assert face["fpir"] == pytest.approx(3 / service.product.calibration.impostor_pairs)


def test_prior_on_and_off_give_the_same_answer_where_nothing_is_known(staff):
    answers = [staff.identify(orl_photo(3, 4), prior=prior).json() for prior in ("on", "off")]
    assert answers[0] == answers[1]


def test_the_context_fields_are_taken(service, staff):
    context = {
        "device": "gate-7",
        "region": {"lat": 48.1, "lon": 11.6},
        "time": "2026-01-02T03:04:05Z",
        "observed": {"ssid": "lobby"},
        "claims": {"person": "p3", "digits": "1234"},
    }
    by_form = staff.identify(orl_photo(3, 4), context=json.dumps(context))
    body = {"photo": base64_of(orl_photo(3, 4)), "context": context}
    by_json = service.post(f"{staff.path}/identify", json=body)
    assert (by_form.status_code, by_json.status_code) == (200, 200)
    assert by_form.json() == by_json.json()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"top": 0}, "invalid_request"),
        ({"top": 101}, "invalid_request"),
        ({"top": "many"}, "invalid_request"),
        ({"fpir": 0}, "invalid_request"),
        ({"fpir": 1}, "invalid_request"),
        ({"fpir": "nan"}, "invalid_request"),
        ({"prior": "maybe"}, "invalid_request"),
        ({"colour": "blue"}, "invalid_request"),
        ({"context": "{"}, "invalid_json"),
        ({"context": '{"planet": "mars"}'}, "invalid_request"),
        ({"context": '{"region": "nowhere"}'}, "invalid_request"),
        ({"context": '{"region": {"lat": 100, "lon": 0}}'}, "invalid_request"),
        ({"context": '{"device": "a/b"}'}, "invalid_id"),
        ({"context": '{"claims": {"digits": "abc"}}'}, "invalid_request"),
    ],
    ids=str,
)
def test_a_field_with_a_value_that_is_not_allowed_is_refused(staff, fields, code):
    status = {"invalid_json": 400}.get(code, 422)
    assert_problem(staff.identify(orl_photo(3, 4), **fields), status, code)


def test_two_photos_are_one_too_many(service, staff):
    files = [("photo", orl_photo(1, 1)), ("photo", orl_photo(2, 1))]
    assert_problem(service.post(f"{staff.path}/identify", files=files), 422, "invalid_request")


def test_many_visitors_at_once_each_get_their_own_answer(service, staff):
    asked = [(person, photo) for person in range(1, 6) for photo in (3, 4, 5, 6)]
    requests = [("POST", f"{staff.path}/identify", {"files": {"photo": orl_photo(*who)}}) for who in asked]
    for (person, _), answer in zip(asked, service.at_once(*requests), strict=True):
        assert [face["person"] for face in answer.json()["faces"]] == [f"p{person}"]
