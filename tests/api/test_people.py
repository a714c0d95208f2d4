import datetime
import hashlib

import h3
import pytest

from service.recognition.forget import forget_expired
from tests.conftest import assert_problem
from tests.faces import orl_photo

FIELDS = {
    "person",
    "name",
    "region",
    "device",
    "digits",
    "attributes",
    "consent",
    "expires_at",
    "created_at",
    "updated_at",
    "revision",
    "face_count",
    "faces",
}
EVERYTHING = {
    "name": "Anna Example",
    "region": "881f8d7a49fffff",
    "device": "phone-7",
    "digits": "1234",
    "attributes": {"team": ["a", 1, None]},
    "consent": {"to": "door", "on": "2026-01-01"},
    "expires_at": "2099-01-01T00:00:00Z",
}


@pytest.fixture
def anna(gallery):
    return f"{gallery.people}/anna"


def in_seconds(seconds):
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)).isoformat()


def test_a_person_is_created_once_and_replaced_afterwards(service, anna):
    created = service.put(anna, json=EVERYTHING)
    assert created.status_code == 201
    assert created.json().keys() == FIELDS
    assert {name: created.json()[name] for name in EVERYTHING} == EVERYTHING | {"digits": True}
    replaced = service.put(anna, json={"name": "Anna"})
    assert replaced.status_code == 200
    assert [replaced.json()[name] for name in EVERYTHING] == ["Anna", None, None, False, {}, None, None]


def test_what_was_put_is_what_is_got(service, anna):
    put = service.put(anna, json=EVERYTHING).json()
    assert service.get(anna).json() == put | {"faces": []}


def test_a_patch_changes_what_it_names(service, anna):
    before = service.put(anna, json=EVERYTHING).json()
    after = service.patch(anna, json={"name": "Anne"}).json()
    changed = {"name", "updated_at", "revision"}
    assert {name for name in FIELDS if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("field", "cleared"),
    [(name, {"digits": False, "attributes": {}}.get(name)) for name in EVERYTHING],
)
def test_null_in_a_patch_clears(service, anna, field, cleared):
    service.put(anna, json=EVERYTHING)
    answer = service.patch(anna, json={field: None})
    assert (answer.status_code, answer.json()[field]) == (200, cleared)


def test_replacing_a_person_keeps_the_faces(service, gallery, anna):
    gallery.enrolled("anna", orl_photo(1, 1))
    service.put(anna, json={"name": "Anna"})
    assert service.get(anna).json()["face_count"] == 1
    assert gallery.whose(orl_photo(1, 2)) == "anna"


def test_digits_are_kept_as_a_keyed_hash_alone(service, gallery, anna):
    service.put(anna, json={"digits": "90817263"})
    plain, digested = b"90817263", hashlib.sha256(b"90817263").hexdigest().encode()
    folder = service.app.state.settings.data
    for path in (path for path in folder.rglob("*") if path.is_file()):
        held = path.read_bytes()
        assert plain not in held
        assert digested not in held


def test_a_point_is_kept_as_its_cell(service, anna):
    point = {"lat": 48.137, "lon": 11.575}
    kept = service.put(anna, json={"region": point}).json()["region"]
    assert kept == h3.latlng_to_cell(point["lat"], point["lon"], 8)


def test_a_cell_is_kept_in_lower_case(service, anna):
    assert service.put(anna, json={"region": "881F8D7A49FFFFF"}).json()["region"] == "881f8d7a49fffff"


@pytest.mark.parametrize(
    "body",
    [
        {"region": "nowhere"},
        {"region": "f" * 32},
        {"region": {"lat": 91, "lon": 0}},
        {"region": {"lat": 0, "lon": -181}},
        {"region": {"lat": 0}},
        {"digits": "1"},
        {"digits": "12a4"},
        {"digits": "123456789"},
        {"digits": 1234},
        {"expires_at": "2027-01-31T00:00:00"},
        {"expires_at": "0001-01-01T00:00:00+23:59"},
        {"expires_at": "soon"},
        {"name": "x" * 257},
        {"attributes": None},
        {"attributes": []},
        {"attributes": {"a": "x" * 20_000}},
        {"shoe_size": 41},
    ],
    ids=str,
)
def test_a_field_with_a_value_that_is_not_allowed_is_refused(service, gallery, anna, body):
    assert_problem(service.put(anna, json=body), 422, "invalid_request")
    assert gallery.state() == (0, 0, 0)


@pytest.mark.parametrize(
    "text",
    [r'"\ud800"', "NaN", "-Infinity", "[" * 900 + "]" * 900],
    ids=["half a character", "nan", "infinity", "deep"],
)
def test_free_json_that_could_not_be_given_out_again_is_refused(service, gallery, anna, text):
    body = f'{{"attributes": {{"a": {text}}}}}'.encode()
    answer = service.put(anna, content=body, headers={"content-type": "application/json"})
    assert_problem(answer, 422, "invalid_request")
    assert gallery.state() == (0, 0, 0)


def test_people_are_listed_by_id_in_pages(service, gallery):
    for person in ("carl", "anna", "dora", "bert", "emil"):
        service.put(f"{gallery.people}/{person}", json={})
    first = service.get(gallery.people, params={"limit": 3}).json()
    assert first.keys() == {"people", "next"}
    rest = service.get(gallery.people, params={"limit": 3, "cursor": first["next"]}).json()
    assert [person["person"] for person in first["people"] + rest["people"]] == ["anna", "bert", "carl", "dora", "emil"]
    assert rest["next"] is None


def test_ids_of_other_scripts_and_with_signs_are_taken(service, gallery):
    for person in ("Łukasz", "李娜", "a.b_c-d@e+f:g~h", "१२३"):
        assert service.put(f"{gallery.people}/{person}", json={}).status_code == 201
        assert service.get(f"{gallery.people}/{person}").json()["person"] == person


def test_every_change_raises_the_revision_by_one(service, gallery, anna):
    service.put(anna, json={})
    service.patch(anna, json={"name": "Anna"})
    gallery.enrolled("anna", orl_photo(1, 1))
    service.put(anna, json={"name": "Anne"})
    revision = service.delete(anna).json()["revision"]
    assert (revision, gallery.state()) == (5, (5, 0, 0))


def test_a_forgotten_person_is_found_no_more_and_leaves_a_receipt(service, gallery, anna):
    gallery.enrolled("anna", orl_photo(1, 1), orl_photo(1, 2))
    gallery.enrolled("bert", orl_photo(2, 1))
    assert gallery.whose(orl_photo(1, 3)) == "anna"
    answer = service.delete(anna)
    assert answer.status_code == 200
    gone = answer.json()
    assert gone.keys() == {"person", "revision", "receipt", "faces"}
    assert (gone["person"], gone["revision"], gone["faces"]) == ("anna", 3, 2)
    assert gone["receipt"].startswith("r_")
    (face,) = gallery.identify(orl_photo(1, 3)).json()["faces"]
    assert (face["person"], [other["person"] for other in face["candidates"]]) == (None, ["bert"])
    for answer in (service.get(anna), service.delete(anna), service.patch(anna, json={})):
        assert_problem(answer, 404, "person_not_found")


def test_who_was_forgotten_may_come_back_as_somebody_new(service, gallery, anna):
    gallery.enrolled("anna", orl_photo(1, 1))
    service.delete(anna)
    gallery.enrolled("anna", orl_photo(3, 1))
    assert gallery.whose(orl_photo(1, 2)) is None
    assert gallery.whose(orl_photo(3, 2)) == "anna"


def test_a_removed_face_no_longer_counts(service, gallery, anna):
    enrolled = gallery.enrolled("anna", orl_photo(1, 1), orl_photo(3, 1))["enrolled"]
    answer = service.delete(f"{anna}/faces/{enrolled[1]['face']}")
    assert (answer.status_code, answer.json()) == (
        200,
        {"person": "anna", "face": enrolled[1]["face"], "revision": 2},
    )
    assert [face["face"] for face in service.get(anna).json()["faces"]] == [enrolled[0]["face"]]
    (seen,) = gallery.identify(orl_photo(1, 1)).json()["faces"]
    assert seen["similarity"] == pytest.approx(1, abs=1e-5)
    assert_problem(service.delete(f"{anna}/faces/{enrolled[1]['face']}"), 404, "face_not_found")


def test_without_memory_a_face_that_would_leave_others_stays_and_a_person_is_forgotten(service, gallery, anna):
    enrolled = gallery.enrolled("anna", orl_photo(1, 1), orl_photo(3, 1))["enrolled"]
    gallery.enrolled("bert", orl_photo(2, 1))
    with gallery.without_memory():
        assert_problem(service.delete(f"{anna}/faces/{enrolled[1]['face']}"), 503, "index_memory")
        assert gallery.state() == (2, 2, 3)
        assert service.delete(f"{gallery.people}/bert").status_code == 200
        assert gallery.whose(orl_photo(2, 1)) is None


def test_a_person_without_faces_stays_and_is_not_found(service, gallery, anna):
    (enrolled,) = gallery.enrolled("anna", orl_photo(1, 1))["enrolled"]
    service.delete(f"{anna}/faces/{enrolled['face']}")
    assert service.get(anna).json()["face_count"] == 0
    assert gallery.whose(orl_photo(1, 1)) is None


def test_a_kept_face_is_shown_with_its_place_and_quality(service, gallery, anna):
    (enrolled,) = gallery.enrolled("anna", orl_photo(1, 1))["enrolled"]
    (shown,) = service.get(anna).json()["faces"]
    assert shown.keys() == {"face", "quality", "box", "created_at"}
    assert shown["face"] == enrolled["face"]
    assert shown["quality"] == pytest.approx(enrolled["quality"], abs=1e-4)
    assert shown["box"] == pytest.approx(enrolled["box"], abs=0.051)


def test_an_expired_person_is_not_found_and_then_forgotten(service, gallery, anna):
    gallery.enrolled("anna", orl_photo(1, 1))
    gallery.enrolled("bert", orl_photo(2, 1))
    service.patch(anna, json={"expires_at": in_seconds(3600)})
    assert gallery.whose(orl_photo(1, 2)) == "anna"
    service.patch(anna, json={"expires_at": in_seconds(-1)})
    (face,) = gallery.identify(orl_photo(1, 2)).json()["faces"]
    assert (face["decision"], [other["person"] for other in face["candidates"]]) == ("unknown", ["bert"])
    verify = service.post(f"{anna}/verify", files={"photo": orl_photo(1, 2)})
    assert_problem(verify, 404, "person_not_found")
    assert_problem(service.get(anna), 404, "person_not_found")
    assert [person["person"] for person in service.get(gallery.people).json()["people"]] == ["bert"]
    assert service.portal.call(forget_expired, service.product) == 1
    assert_problem(service.get(anna), 404, "person_not_found")
    assert gallery.state() == (5, 1, 1)


def test_whose_time_has_passed_while_the_service_stood_still_is_forgotten_at_the_start(start, tmp_path):
    first = start()
    first.post("/v1/galleries", json={"name": "staff"})
    first.put("/v1/galleries/staff/people/anna", json={"expires_at": in_seconds(-1)})
    first.put("/v1/galleries/staff/people/bert", json={"expires_at": in_seconds(3600)})
    start.stop()
    again = start()
    left = again.portal.call(lambda: _until_forgotten(again))
    assert left == ["bert"]


async def _until_forgotten(service):
    import anyio

    with anyio.fail_after(10):
        while True:
            kept = (await service.client.get("/v1/galleries/staff")).json()["people"]
            if kept < 2:
                people = (await service.client.get("/v1/galleries/staff/people")).json()["people"]
                return [person["person"] for person in people]
            await anyio.sleep(0.01)
