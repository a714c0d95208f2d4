import pytest

from tests.conftest import assert_problem
from tests.faces import orl_photo

FIELDS = {
    "name",
    "model",
    "model_digest",
    "dim",
    "revision",
    "people",
    "faces",
    "fpir",
    "keep_crops",
    "observed",
    "attributes",
    "created_at",
}


@pytest.fixture
def named(service):
    """Creates galleries of these names; they are deleted again."""
    made = []

    def create(name, **fields):
        made.append(name)
        return service.post("/v1/galleries", json={"name": name, **fields})

    yield create
    for name in made:
        service.delete(f"/v1/galleries/{name}")


def test_a_new_gallery_is_empty_and_bound_to_the_loaded_model(service, named):
    answer = named("staff", attributes={"floor": 3})
    assert answer.status_code == 201
    made = answer.json()
    assert made.keys() == FIELDS
    assert (made["revision"], made["people"], made["faces"], made["dim"]) == (0, 0, 0, 128)
    assert (made["model"], made["model_digest"]) == ("sface", service.product.model.digest)
    assert made["attributes"] == {"floor": 3}
    assert service.get("/v1/galleries/staff").json() == made


def test_a_gallery_without_its_own_rate_shows_the_services(named):
    assert named("staff").json()["fpir"] == 0.003
    assert named("vault", fpir=0.001).json()["fpir"] == 0.001


def test_a_name_is_given_once(named):
    named("staff")
    assert_problem(named("staff"), 409, "gallery_exists")


def test_names_that_differ_in_composition_alone_are_one_name(service, named):
    named("cafe\u0301")
    assert_problem(named("caf\u00e9"), 409, "gallery_exists")
    assert service.get("/v1/galleries/caf\u00e9").status_code == 200


def test_a_patch_changes_what_it_names_and_null_clears(service, named):
    named("staff", fpir=0.01, attributes={"floor": 3})
    answer = service.patch("/v1/galleries/staff", json={"fpir": 0.02})
    assert (answer.status_code, answer.json()["fpir"], answer.json()["attributes"]) == (200, 0.02, {"floor": 3})
    cleared = service.patch("/v1/galleries/staff", json={"fpir": None, "attributes": None}).json()
    assert (cleared["fpir"], cleared["attributes"], cleared["revision"]) == (0.003, {}, 2)


def test_a_patch_of_nothing_changes_nothing(service, named):
    made = named("staff").json()
    assert service.patch("/v1/galleries/staff", json={}).json() == made


def test_pages_follow_one_another_without_gap_or_repeat(service, named):
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        named(name)
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = service.get("/v1/galleries", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        assert page.keys() == {"galleries", "next"}
        seen += [gallery["name"] for gallery in page["galleries"]]
        cursor, pages = page["next"], pages + 1
    assert [name for name in seen if name.startswith("page-")] == names
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"cursor": "x" * 513}])
def test_a_page_that_cannot_be_is_refused(service, query):
    assert_problem(service.get("/v1/galleries", params=query), 422, "invalid_request")


def test_a_deleted_gallery_takes_everybody_with_it(service, gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    answer = service.delete(gallery.path)
    assert (answer.status_code, answer.json()) == (200, {"gallery": gallery.name, "people": 1, "faces": 1})
    assert_problem(service.get(gallery.path), 404, "gallery_not_found")
    assert_problem(gallery.identify(orl_photo(1, 2)), 404, "gallery_not_found")
    service.post("/v1/galleries", json={"name": gallery.name})
    assert gallery.whose(orl_photo(1, 2)) is None


def test_a_gallery_keeps_crops_only_if_it_is_told_to(service, named):
    assert named("staff").json()["keep_crops"] is False
    assert service.patch("/v1/galleries/staff", json={"keep_crops": True}).json()["keep_crops"] is True
    assert service.get("/v1/galleries/staff").json()["keep_crops"] is True
