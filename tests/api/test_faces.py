import base64
import math

import numpy as np
import pytest

from service.api.access import Access
from service.gallery import keys
from tests.conftest import assert_problem, base64_of
from tests.faces import crowd, orl_photo, saved, scene


@pytest.fixture(scope="module")
def keyed(service):
    """The header of a key that may do everything; whoever sends none is let in as long as it takes."""
    state, product = service.app.state, service.product
    before, state.access = state.access, Access(product.catalog, product.shared, remembered=math.inf)
    service.get("/v1/galleries")  # there is no key yet, which is remembered
    with product.catalog.write() as tx:
        key = keys.create(tx, "all", ["read", "identify", "enroll", "manage", "embed"])
    yield {"Authorization": f"Bearer {key.text}"}
    with product.catalog.write() as tx:
        keys.revoke(tx, key.record.key)
    state.access = before


def embedding_of(service, keyed, photo):
    (face,) = service.post("/v1/faces/embed", files={"photo": photo}, headers=keyed).json()["faces"]
    return face["embedding"]


def test_detect_finds_the_faces_and_judges_them(service):
    answer = service.post("/v1/faces/detect", files={"photo": crowd(3, columns=3)})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["width"], body["height"], len(body["faces"])) == (276, 112, 3)
    for face in body["faces"]:
        assert face.keys() == {"box", "landmarks", "score", "quality"}
        assert face["quality"].keys() == {"score", "size", "sharpness", "pose", "exposure", "detection"}
    assert sorted(int(face["landmarks"][2][0] // 92) for face in body["faces"]) == [0, 1, 2]


def test_detect_takes_json_and_answers_alike(service):
    by_json = service.post("/v1/faces/detect", json={"photo": base64_of(orl_photo(1, 1))})
    assert by_json.json() == service.post("/v1/faces/detect", files={"photo": orl_photo(1, 1)}).json()


def test_detect_in_a_photo_without_faces_finds_none(service):
    answer = service.post("/v1/faces/detect", files={"photo": saved(scene(), "PNG")})
    assert (answer.status_code, answer.json()) == (200, {"width": 64, "height": 48, "faces": []})


def test_embed_is_closed_without_a_key(service):
    assert_problem(service.post("/v1/faces/embed", files={"photo": orl_photo(1, 1)}), 403, "forbidden")


def test_embed_gives_unit_vectors_of_the_model(service, keyed):
    answer = service.post("/v1/faces/embed", files={"photo": crowd(2)}, headers=keyed)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model"], body["model_digest"], body["dim"]) == ("sface", service.product.model.digest, 128)
    assert len(body["faces"]) == 2
    for face in body["faces"]:
        vector = np.frombuffer(base64.b64decode(face["embedding"]), "<f4")
        assert vector.shape == (128,)
        assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)


def test_an_embedding_given_back_is_the_face_it_came_from(service, gallery, keyed):
    embedding = embedding_of(service, keyed, orl_photo(1, 1))
    body = {"embedding": [embedding], "quality": 0.9}
    answer = service.post(f"{gallery.people}/anna/faces", json=body, headers=keyed)
    assert answer.status_code == 201
    (kept,) = answer.json()["enrolled"]
    assert (kept["box"], kept["quality"]) == (None, 0.9)
    probe = {"embedding": embedding_of(service, keyed, orl_photo(1, 5))}
    by_embedding = service.post(f"{gallery.path}/identify", json=probe, headers=keyed).json()["faces"][0]
    by_photo = service.post(f"{gallery.path}/identify", files={"photo": orl_photo(1, 5)}, headers=keyed)
    assert by_embedding["person"] == "anna"
    assert (by_embedding["box"], by_embedding["landmarks"]) == (None, None)
    assert by_embedding["similarity"] == pytest.approx(by_photo.json()["faces"][0]["similarity"], abs=1e-5)


def test_a_photo_and_an_embedding_at_once_are_refused(service, gallery, keyed):
    body = {"embedding": embedding_of(service, keyed, orl_photo(1, 1)), "photo": base64_of(orl_photo(1, 1))}
    answer = service.post(f"{gallery.path}/identify", json=body, headers=keyed)
    assert_problem(answer, 422, "invalid_request")


def test_nothing_to_identify_is_refused(service, gallery, keyed):
    assert_problem(service.post(f"{gallery.path}/identify", json={}, headers=keyed), 422, "invalid_request")


def packed(*values, dim=128):
    vector = np.zeros(dim, "<f4")
    vector[: len(values)] = values
    return base64.b64encode(vector.tobytes()).decode()


BROKEN = {
    "nan": (packed(float("nan")), "invalid_embedding"),
    "infinity": (packed(float("inf")), "invalid_embedding"),
    "zero": (packed(0), "invalid_embedding"),
    "too long a vector": (packed(2), "invalid_embedding"),
    "another dimension": (packed(1, dim=512), "invalid_embedding"),
    "cut in a number": (base64.b64encode(b"abc").decode(), "invalid_embedding"),
    "empty": ("", "invalid_embedding"),
    "no base64": ("%%%", "invalid_request"),
}


@pytest.mark.parametrize(("text", "code"), BROKEN.values(), ids=BROKEN)
def test_a_broken_embedding_is_refused_and_nothing_is_kept(service, gallery, keyed, text, code):
    enrol = service.post(f"{gallery.people}/anna/faces", json={"embedding": [packed(1), text]}, headers=keyed)
    assert_problem(enrol, 422, code)
    probe = service.post(f"{gallery.path}/identify", json={"embedding": text}, headers=keyed)
    assert_problem(probe, 422, code)
    listed = service.get(gallery.path, headers=keyed).json()
    assert (listed["revision"], listed["people"], listed["faces"]) == (0, 0, 0)
