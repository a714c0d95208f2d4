"""Several applications over one catalog and one Redis: each knows soon what the others did."""

import itertools
import time

import pytest

from service.errors import SecretError, SharedStateError
from service.gallery import forgetting, galleries
from service.gallery.catalog import Catalog
from service.identify.fusion import fuse
from service.settings import SettingsError
from tests.conftest import Gallery, as_files, assert_problem, base64_of
from tests.faces import orl_photo
from tests.servers import postgres

ME = "X-Vultus-Revision"


@pytest.fixture(scope="module")
def url(postgres_server):
    return postgres_server.database()


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """The file that replicas share."""
    path = tmp_path_factory.mktemp("secret") / "secret"
    path.write_bytes(b"s" * 32)
    return path


@pytest.fixture(scope="module")
def replicas(start_module, url, redis_session, secret):
    """Two replicas; without Redis' notices they look once a minute."""
    given = {"catalog": url, "redis": redis_session.url, "secret": secret, "poll": 60}
    return [start_module(secret.parent / name, **given) for name in ("one", "two")]


@pytest.fixture
def staff(replicas):
    """A gallery as each replica knows it."""
    name = f"staff{next(NUMBERS)}"
    assert replicas[0].post("/v1/galleries", json={"name": name}).status_code == 201
    return [Gallery(each, name) for each in replicas]


NUMBERS = itertools.count()


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_one_enrols_and_forgets_the_other_follows_by_notices_alone(staff):
    here, there = staff
    here.enrolled("anna", orl_photo(1, 1))
    until(lambda: there.whose(orl_photo(1, 2)) == "anna")
    here.service.delete(f"{here.people}/anna")
    until(lambda: there.identify(orl_photo(1, 2)).headers[ME] == "2")
    assert there.whose(orl_photo(1, 2)) is None


def test_without_redis_a_replica_follows_by_looking(start, url, secret, tmp_path):
    service = start(tmp_path / "alone", catalog=url, secret=secret, poll=0.1)
    assert service.post("/v1/galleries", json={"name": "polled"}).status_code == 201
    gallery = Gallery(service, "polled")
    gallery.enrolled("anna", orl_photo(1, 1))
    assert gallery.identify(orl_photo(1, 2)).headers[ME] == "1"
    other = Catalog.open(url, secret=secret.read_bytes(), fuse=fuse)
    with other.write() as tx:
        forgetting.forget(tx, galleries.get(tx, "polled").pk, "anna")
    other.close()
    until(lambda: gallery.identify(orl_photo(1, 2)).headers[ME] == "2")
    assert service.get("/health/ready").json()["shared"] == "alone"


def test_a_client_reads_its_own_writes_wherever_it_asks(staff, monkeypatch):
    here, there = staff
    assert there.whose(orl_photo(1, 2)) is None
    monkeypatch.setattr(there.service.product.follower, "look", lambda: None)  # as if it hung
    answer = here.enroll("anna", orl_photo(1, 1))
    seen = answer.headers[ME]
    assert int(seen) == answer.json()["revision"]
    assert there.whose(orl_photo(1, 2)) is None
    found = there.service.post(f"{there.path}/identify", files=as_files(orl_photo(1, 2)), headers={ME: seen})
    assert found.json()["faces"][0]["person"] == "anna"
    assert found.headers[ME] == seen


def test_a_revision_that_nobody_made_is_told(staff):
    here, _ = staff
    answer = here.service.get(here.people, headers={ME: "7"})
    document = assert_problem(answer, 503, "revision_not_reached")
    assert (document["revision"], answer.headers["retry-after"]) == (0, "1")


@pytest.mark.parametrize("revision", ["-1", "x", "9" * 30])
def test_a_revision_that_is_none_is_refused(gallery, revision):
    assert_problem(gallery.service.get(gallery.people, headers={ME: revision}), 422, "invalid_request")


def test_every_answer_about_a_gallery_names_its_revision(gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    service = gallery.service
    put = service.put(f"{gallery.people}/bert", json={})
    assert put.headers[ME] == "2"
    for answer in (
        service.get(gallery.path),
        service.get(gallery.people),
        service.get(f"{gallery.people}/anna"),
        gallery.identify(orl_photo(1, 2)),
        service.post(f"{gallery.people}/anna/verify", files=as_files(orl_photo(1, 2))),
    ):
        assert answer.headers[ME] == "2"
    assert ME not in service.get("/v1/galleries").headers
    assert ME not in service.get("/v1/galleries/nobody").headers


def test_a_gallery_that_one_changes_or_deletes_is_otherwise_at_the_other(staff):
    here, there = staff
    there.enrolled("anna", orl_photo(1, 1))
    here.service.patch(here.path, json={"fpir": 0.01})
    until(lambda: there.identify(orl_photo(1, 2)).json()["faces"][0]["fpir"] == 0.01)
    here.service.delete(here.path)
    until(lambda: there.identify(orl_photo(1, 2)).status_code == 404)


def test_an_idempotency_key_is_one_at_all_replicas(staff):
    here, there = staff
    headers = {"Idempotency-Key": "k"}
    first = here.enroll("anna", orl_photo(1, 1), headers=headers)
    again = there.enroll("anna", orl_photo(1, 1), headers=headers)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert_problem(there.enroll("anna", orl_photo(1, 2), headers=headers), 422, "idempotency_conflict")


def test_a_key_that_one_works_on_is_refused_by_the_other(staff):
    here, there = staff
    here.service.product.shared.claim("claim:open worked-on", "0000 somebody")
    assert_problem(
        there.enroll("anna", orl_photo(1, 1), headers={"Idempotency-Key": "worked-on"}), 422, "idempotency_conflict"
    )


def test_digits_are_tried_together_and_hashed_alike(staff):
    here, there = staff
    here.enrolled("anna", orl_photo(2, 1))
    digits = {"claims": {"digits": "1234"}, "device": "gate"}
    for number in range(5):
        each = (here, there)[number % 2]
        assert each.service.post(f"{each.path}/identify", json=body(digits)).status_code == 200
    for each in (here, there):
        assert_problem(each.service.post(f"{each.path}/identify", json=body(digits)), 429, "digits_locked")
    one, two = (each.service.product.catalog.digits_hash(7, "1234") for each in (here, there))
    assert one == two


def body(context):
    return {"photo": base64_of(orl_photo(1, 1)), "context": context}


def test_readiness_tells_where_things_are_and_how_far_behind(replicas):
    ready = replicas[0].get("/health/ready").json()
    assert (ready["catalog"], ready["shared"], ready["behind_revisions"]) == ("postgresql", "up", 0)
    assert ready["behind_seconds"] >= 0
    assert "vultus_behind_seconds" in replicas[0].get("/metrics").text


def test_a_replica_that_does_not_follow_says_that_it_is_behind(replicas, monkeypatch):
    monkeypatch.setattr("service.api.operation.BEHIND_SECONDS", 0.2)
    monkeypatch.setattr(replicas[0].product.follower, "look", lambda: None)
    until(lambda: replicas[0].get("/health/ready").status_code == 503)
    document = assert_problem(replicas[0].get("/health/ready"), 503, "replica_behind")
    assert document["behind_seconds"] > 0.2


def test_a_replica_with_another_secret_is_refused(start, replicas, url, tmp_path):
    with pytest.raises(SecretError, match="another secret"):
        start(tmp_path / "three", catalog=url)


def test_a_wrong_redis_password_stops_the_start(start, redis_session, tmp_path):
    with pytest.raises(SharedStateError, match="password"):
        start(tmp_path / "one", redis=f"redis://:wrong@127.0.0.1:{redis_session.port}/0")


def test_a_catalog_that_leaves_is_told_with_the_time_to_come_again_and_found_when_it_is_back(start, tmp_path):
    with postgres(durable=True) as server:
        service = start(tmp_path / "one", catalog=server.database(), poll=0.1)
        assert service.post("/v1/galleries", json={"name": "staff"}).status_code == 201
        here = Gallery(service, "staff")
        here.enrolled("anna", orl_photo(1, 1))
        server.stop()
        for answer in (here.identify(orl_photo(1, 2)), here.enroll("bert", orl_photo(2, 1)), service.get(here.people)):
            assert_problem(answer, 503, "storage_unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert_problem(service.get("/health/ready"), 503, "storage_unavailable")
        assert service.get("/health/live").status_code == 200
        server.start()
        until(lambda: service.get("/health/ready").status_code == 200)
        assert here.whose(orl_photo(1, 2)) == "anna"
        here.enrolled("bert", orl_photo(2, 1))
        start.stop()


def test_visits_may_be_kept_in_redis_where_all_replicas_count_them(start, redis_session, tmp_path):
    service = start(tmp_path / "one", redis=redis_session.url, visits="redis")
    assert service.post("/v1/galleries", json={"name": "staff"}).status_code == 201
    gallery = Gallery(service, "staff")
    gallery.enrolled("anna", orl_photo(1, 1))
    visit = {"person": "anna", "device": "gate", "confirmed_by": "card"}
    assert service.post(f"{gallery.path}/visits", json=visit).json()["visit"] == "v_1"
    asked = {"photo": base64_of(orl_photo(1, 2)), "context": {"device": "gate"}}
    (face,) = service.post(f"{gallery.path}/identify", json=asked).json()["faces"]
    assert (face["person"], face["trace"]["tiers"][0]["tier"]) == ("anna", "device")
    service.delete(f"{gallery.people}/anna")
    with service.product.catalog.read() as reading:
        pk = galleries.get(reading, "staff").pk
        assert service.product.visits.at_place(reading, pk, "device", "gate").rows.size == 0


def test_visits_in_redis_need_a_redis(start, tmp_path):
    with pytest.raises(SettingsError, match="VULTUS_REDIS"):
        start(tmp_path / "one", visits="redis")
