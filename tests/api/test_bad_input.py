"""Everything that may come in and cannot be used: the answer says why, nothing is kept, and the service goes on."""

import functools
import gc
import json
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from service.gallery import galleries, people
from service.gallery.records import PersonFields
from tests import faces
from tests.conftest import Gallery, as_files, assert_problem, base64_of
from tests.faces import orl_photo, saved

JPEG_OF_NOTHING = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9"
PHOTOS = {
    "empty file": (lambda: b"", 422, "photo_empty"),
    "truncated JPEG": (faces.truncated_jpeg, 422, "photo_damaged"),
    "JPEG without pixels": (lambda: JPEG_OF_NOTHING, 422, "photo_damaged"),
    "text named .jpg": (lambda: b"dear diary, " * 100, 422, "photo_format"),
    "20,000 x 20,000 bomb": (faces.bomb_png, 413, "photo_too_large"),
    "more bytes than allowed": (lambda: b"\xff\xd8\xff" + bytes(17 << 20), 413, "photo_too_large"),
    "animated GIF": (faces.animated_gif, 422, "photo_animated"),
    "animated PNG": (faces.animated_png, 422, "photo_animated"),
    "animated WebP": (faces.animated_webp, 422, "photo_animated"),
    "0 x 0": (lambda: faces.png_of(0, 0), 422, "photo_damaged"),
    "1 x 1": (lambda: saved(Image.new("RGB", (1, 1)), "PNG"), 422, "photo_too_small"),
    "no face": (lambda: saved(faces.scene(640, 480), "JPEG"), 422, "no_face"),
    "200 faces": (functools.partial(faces.crowd, 200), 422, "too_many_faces"),
}


@pytest.fixture(scope="module")
def held(service):
    """A gallery with somebody in it."""
    service.post("/v1/galleries", json={"name": "held"})
    gallery = Gallery(service, "held")
    gallery.enrolled("anna", orl_photo(1, 1))
    yield gallery
    service.delete(gallery.path)


@pytest.fixture
def unharmed(held):
    """Holds the gallery to its state, and the service to its work, after the test."""
    yield held
    assert held.state() == (1, 1, 1)
    assert held.whose(orl_photo(1, 2)) == "anna"
    assert held.service.get("/health/ready").status_code == 200


@pytest.fixture(params=PHOTOS)
def bad_photo(request):
    """(bytes, status, code)"""
    make, status, code = PHOTOS[request.param]
    return make(), status, code


class TestPhotos:
    def test_enrolling_is_refused_with_the_reason(self, unharmed, bad_photo):
        photo, _, code = bad_photo
        document = assert_problem(unharmed.enroll("bert", photo), 422, "nothing_enrolled")
        (refused,) = document["refused"]
        assert refused["code"] == code
        assert refused["photo"] == 0

    def test_identifying_is_refused(self, unharmed, bad_photo):
        photo, status, code = bad_photo
        assert_problem(unharmed.identify(photo), status, code)

    def test_verifying_is_refused(self, unharmed, bad_photo):
        photo, status, code = bad_photo
        files = as_files(orl_photo(1, 1), field="photo_a") + as_files(photo, field="photo_b")
        answer = unharmed.service.post("/v1/verify", files=files)
        assert_problem(answer, status, code)
        against = unharmed.service.post(f"{unharmed.people}/anna/verify", files=as_files(photo))
        assert_problem(against, status, code)


def test_two_faces_of_like_size_are_not_enrolled(unharmed):
    document = assert_problem(unharmed.enroll("bert", faces.crowd(2)), 422, "nothing_enrolled")
    assert [(item["code"], item["faces"]) for item in document["refused"]] == [("several_faces", 2)]


def test_the_same_photo_twice_is_not_enrolled_twice(unharmed):
    document = assert_problem(unharmed.enroll("anna", orl_photo(1, 1), orl_photo(1, 1)), 422, "nothing_enrolled")
    assert [item["code"] for item in document["refused"]] == ["duplicate_photo"] * 2


BODIES = {
    "wrong content type": ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
    "no content type": ({"content": b"x"}, 415, "unsupported_media_type"),
    "a bare image": (
        {"content": orl_photo(1, 2), "headers": {"content-type": "image/jpeg"}},
        415,
        "unsupported_media_type",
    ),
    "url-encoded form": ({"data": {"photo": "x"}}, 415, "unsupported_media_type"),
    "invalid JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
    "JSON that is no text": (
        {"content": b"\xff\xfe", "headers": {"content-type": "application/json"}},
        400,
        "invalid_json",
    ),
    "JSON that is too deep": (
        {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}},
        400,
        "invalid_json",
    ),
    "a JSON list": ({"json": []}, 422, "invalid_request"),
    "unknown members": ({"json": {"photo": base64_of(orl_photo(1, 2)), "x": 1}}, 422, "invalid_request"),
    "a photo that is a number": ({"json": {"photo": 7}}, 422, "invalid_request"),
    "a photo that is no base64": ({"json": {"photo": "%%%"}}, 422, "invalid_request"),
    "a photo that is cut base64": ({"json": {"photo": "abc"}}, 422, "invalid_request"),
    "a photo that is half a character": (
        {"content": rb'{"photo": "\ud800"}', "headers": {"content-type": "application/json"}},
        422,
        "invalid_request",
    ),
    "an empty photo": ({"json": {"photo": ""}}, 422, None),
    "no photo": ({"json": {}}, 422, "invalid_request"),
    "a form without a boundary": (
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        422,
        "invalid_request",
    ),
    "a form that is none": (
        {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        422,
        "invalid_request",
    ),
    "a form of 2,000 fields": (
        {"files": as_files(orl_photo(1, 2)), "data": {f"field{number}": "x" for number in range(2000)}},
        422,
        "invalid_request",
    ),
    "a field that is invalid JSON": (
        {"files": as_files(orl_photo(1, 2)), "data": {"context": "{"}},
        400,
        "invalid_json",
    ),
    "a field of JSON that is too deep": (
        {"files": as_files(orl_photo(1, 2)), "data": {"context": "[" * 100_000}},
        400,
        "invalid_json",
    ),
    "a field of 2 MB": (
        {"files": as_files(orl_photo(1, 2)), "data": {"context": "x" * (2 << 20)}},
        422,
        "invalid_request",
    ),
}


@pytest.mark.parametrize(("options", "status", "code"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("call", ["people/bert/faces", "identify", "people/anna/verify"])
def test_a_body_that_cannot_be_read_is_refused(unharmed, call, options, status, code):
    answer = unharmed.service.post(f"{unharmed.path}/{call}", **options)
    assert_problem(answer, status, code or answer.json()["code"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Starlette leaves such files to the GC
def test_a_form_that_breaks_off_is_refused(unharmed):
    body = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="x"\r\n\r\nabc'
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = unharmed.service.post(f"{unharmed.path}/identify", content=body, headers=headers)
    assert_problem(answer, 422, "invalid_request")
    gc.collect()


JSON_BODIES = {
    "wrong content type": (b"{}", "text/plain", 415, "unsupported_media_type"),
    "invalid JSON": (b'{"name": ', "application/json", 400, "invalid_json"),
    "a number of 5,000 digits": (
        b'{"attributes": {"a": ' + b"9" * 5000 + b"}}",
        "application/json",
        400,
        "invalid_json",
    ),
    "too deep": (b'{"attributes": ' + b"[" * 100_000, "application/json", 400, "invalid_json"),
    "no text": (b"\xff\xfe\x00", "application/json", 400, "invalid_json"),
    "a list": (b"[]", "application/json", 422, "invalid_request"),
    "nothing": (b"", "application/json", 422, "invalid_request"),
    "half a character": (rb'{"attributes": {"a": "\ud800"}}', "application/json", 422, "invalid_request"),
}


@pytest.mark.parametrize(("body", "kind", "status", "code"), JSON_BODIES.values(), ids=JSON_BODIES)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/galleries"), ("PATCH", "{gallery}"), ("PUT", "{gallery}/people/bert")]
)
def test_json_that_cannot_be_read_is_refused(unharmed, method, path, body, kind, status, code):
    url = path.format(gallery=unharmed.path)
    answer = unharmed.service.request(method, url, content=body, headers={"content-type": kind})
    assert_problem(answer, status, code)


IDS = {
    "quote": ('a"b', 422, "invalid_id"),
    "apostrophe": ("a'b", 422, "invalid_id"),
    "NUL": ("a\0b", 422, "invalid_id"),
    "line break": ("a\nb", 422, "invalid_id"),
    "space": ("a b", 422, "invalid_id"),
    "emoji": ("\N{GRINNING FACE}", 422, "invalid_id"),
    "right to left": ("a\u202eb", 422, "invalid_id"),
    "backslash": ("a\\b", 422, "invalid_id"),
    "dots": ("..x", 422, "invalid_id"),
    "percent": ("a%b", 422, "invalid_id"),
    "10,000 characters": ("x" * 10_000, 422, "invalid_id"),
    "slash": ("a/b", 422, "invalid_id"),
}


@pytest.mark.parametrize(("text", "status", "code"), IDS.values(), ids=IDS)
class TestIdentifiers:
    def test_of_a_person_is_refused(self, unharmed, text, status, code):
        path = f"{unharmed.people}/{quote(text, safe='')}"
        for answer in (
            unharmed.service.put(path, json={}),
            unharmed.service.get(path),
            unharmed.service.delete(path),
            unharmed.service.post(f"{path}/faces", files=as_files(orl_photo(2, 1))),
        ):
            assert_problem(answer, status, code)

    def test_of_a_gallery_is_refused(self, unharmed, text, status, code):
        path = f"/v1/galleries/{quote(text, safe='')}"
        for answer in (
            unharmed.service.get(path),
            unharmed.service.delete(path),
            unharmed.service.post(f"{path}/identify", files=as_files(orl_photo(2, 1))),
        ):
            assert_problem(answer, status, code)
        assert_problem(unharmed.service.post("/v1/galleries", json={"name": text}), 422, "invalid_id")

    def test_of_a_face_or_a_device_is_refused(self, unharmed, text, status, code):
        face = f"{unharmed.people}/anna/faces/{quote(text, safe='')}"
        assert_problem(unharmed.service.delete(face), status, code)
        anna = f"{unharmed.people}/anna"
        assert_problem(unharmed.service.patch(anna, json={"device": text}), 422, "invalid_id")


@pytest.mark.parametrize("slash", ["%2F", "%2f"])
def test_a_quoted_slash_never_reaches_what_the_parts_would_name(unharmed, slash):
    service = unharmed.service
    anna = f"{unharmed.path}{slash}people{slash}anna"
    for answer in (
        service.delete(anna),
        service.get(anna),
        service.patch(anna, json={"name": "Bert"}),
        service.put(f"{unharmed.path}{slash}people{slash}bert", json={}),
        service.post(f"{unharmed.path}{slash}people/anna{slash}faces", files=as_files(orl_photo(1, 3))),
        service.post(f"{unharmed.path}{slash}identify", files=as_files(orl_photo(1, 2))),
    ):
        assert_problem(answer, 422, "invalid_id")
    assert service.get(f"{unharmed.people}/anna").json()["name"] is None


def test_the_empty_identifier_is_refused(unharmed):
    assert_problem(unharmed.service.post("/v1/galleries", json={"name": ""}), 422, "invalid_id")


def test_what_does_not_exist_is_not_found(unharmed):
    service, gallery = unharmed.service, unharmed.path
    photo = {"files": as_files(orl_photo(1, 2))}
    for method, path, options, code in [
        ("GET", "/v1/galleries/none", {}, "gallery_not_found"),
        ("PATCH", "/v1/galleries/none", {"json": {}}, "gallery_not_found"),
        ("DELETE", "/v1/galleries/none", {}, "gallery_not_found"),
        ("GET", "/v1/galleries/none/people", {}, "gallery_not_found"),
        ("GET", "/v1/galleries/none/people/anna", {}, "gallery_not_found"),
        ("PUT", "/v1/galleries/none/people/anna", {"json": {}}, "gallery_not_found"),
        ("DELETE", "/v1/galleries/none/people/anna", {}, "gallery_not_found"),
        ("POST", "/v1/galleries/none/people/anna/faces", photo, "gallery_not_found"),
        ("POST", "/v1/galleries/none/identify", photo, "gallery_not_found"),
        ("POST", "/v1/galleries/none/people/anna/verify", photo, "gallery_not_found"),
        ("DELETE", "/v1/galleries/none/people/anna/faces/f_1", {}, "gallery_not_found"),
        ("GET", f"{gallery}/people/bert", {}, "person_not_found"),
        ("PATCH", f"{gallery}/people/bert", {"json": {}}, "person_not_found"),
        ("DELETE", f"{gallery}/people/bert", {}, "person_not_found"),
        ("POST", f"{gallery}/people/bert/verify", photo, "person_not_found"),
        ("DELETE", f"{gallery}/people/bert/faces/f_1", {}, "person_not_found"),
        ("DELETE", f"{gallery}/people/anna/faces/f_1", {}, "face_not_found"),
        ("GET", "/v1/nothing", {}, "not_found"),
        ("GET", "/", {}, "not_found"),
    ]:
        assert_problem(service.request(method, path, **options), 404, code)


def test_a_method_that_a_path_does_not_have_is_refused(unharmed):
    answer = unharmed.service.request("DELETE", "/v1/galleries")
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) >= {"GET"}


@pytest.fixture
def foreign(service):
    """The path of a gallery that is bound to another model, with a person in it."""
    with service.product.catalog.write() as tx:
        made = galleries.create(tx, "foreign", model="other", model_digest="0" * 64, dim=512)
        people.put(tx, made.pk, "anna", PersonFields())
    yield f"/v1/galleries/{made.name}"
    service.delete(f"/v1/galleries/{made.name}")


def test_a_gallery_of_another_model_is_neither_searched_nor_filled(service, foreign):
    photo = {"files": as_files(orl_photo(1, 1))}
    for path in ("people/anna/faces", "identify", "people/anna/verify"):
        document = assert_problem(service.post(f"{foreign}/{path}", **photo), 409, "gallery_model")
        assert (document["bound_to"], document["loaded"]) == ("0" * 64, service.product.model.digest)
    assert_problem(service.delete(f"{foreign}/people/anna/faces/f_1"), 409, "gallery_model")
    assert service.get(foreign).json()["faces"] == 0


def test_people_of_a_gallery_of_another_model_may_still_be_forgotten(service, foreign):
    assert service.delete(f"{foreign}/people/anna").status_code == 200
    assert service.get(foreign).json()["people"] == 0


def test_noise_in_every_format_never_breaks_the_service(unharmed):
    draw = np.random.default_rng(5)
    whole = [saved(faces.scene(), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")]
    requests = []
    for number in range(60):
        photo = bytearray(whole[number % len(whole)])
        for place in draw.integers(0, len(photo), 12):
            photo[place] = draw.integers(0, 256)
        requests.append(("POST", "/v1/faces/detect", {"files": {"photo": bytes(photo)}}))
    for answer in unharmed.service.at_once(*requests):
        assert answer.status_code in (200, 413, 422), answer.text
        if answer.status_code != 200:
            assert_problem(answer, answer.status_code, answer.json()["code"])


def test_an_error_never_repeats_what_was_sent(unharmed):
    secret = "hunter2-" * 3
    for answer in (
        unharmed.service.put(f"{unharmed.people}/bert", json={"digits": secret, "attributes": secret}),
        unharmed.service.post(f"{unharmed.path}/identify", json={"photo": secret}),
    ):
        assert answer.status_code == 422
        assert secret not in json.dumps(answer.json())
