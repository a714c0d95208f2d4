import asyncio
import base64
import time

import numpy as np
import pytest

from service.api.access import REMEMBERED_SECONDS, SCOPES, Access
from service.errors import RateLimitedError, UnauthorizedError
from service.gallery import keys
from service.settings import SettingsError
from service.shared.store import InProcess
from tests.conftest import assert_problem
from tests.faces import orl_photo


@pytest.fixture(scope="module")
def locked(start_module):
    """An application with keys: one for each scope, one revoked."""
    service = start_module()
    held = {}
    with service.product.catalog.write() as tx:
        for scope in SCOPES:
            held[scope] = keys.create(tx, scope, [scope]).text
        revoked = keys.create(tx, "gone", SCOPES)
        keys.revoke(tx, revoked.record.key)
    service.post("/v1/galleries", json={"name": "staff"}, headers=bearer(held["manage"]))
    service.put("/v1/galleries/staff/people/anna", json={}, headers=bearer(held["enroll"]))
    service.post("/v1/galleries/staff/people/anna/faces", headers=bearer(held["enroll"]), **PHOTO)
    return service, held | {"revoked": revoked.text}


VECTOR = base64.b64encode(np.eye(128, dtype="<f4")[0].tobytes()).decode()
PHOTO = {"files": {"photo": orl_photo(1, 1)}}
PAIR = {"files": {"photo_a": orl_photo(1, 2), "photo_b": orl_photo(1, 3)}}
CALLS = [
    ("GET", "/v1/galleries", {}, "read"),
    ("POST", "/v1/galleries", {"json": {"name": "x"}}, "manage"),
    ("GET", "/v1/galleries/staff", {}, "read"),
    ("PATCH", "/v1/galleries/staff", {"json": {}}, "manage"),
    ("DELETE", "/v1/galleries/x", {}, "manage"),
    ("GET", "/v1/galleries/staff/people", {}, "read"),
    ("GET", "/v1/galleries/staff/people/anna", {}, "read"),
    ("PUT", "/v1/galleries/staff/people/bert", {"json": {}}, "enroll"),
    ("PATCH", "/v1/galleries/staff/people/bert", {"json": {}}, "enroll"),
    ("DELETE", "/v1/galleries/staff/people/bert", {}, "enroll"),
    ("POST", "/v1/galleries/staff/people/carl/faces", PHOTO, "enroll"),
    ("POST", "/v1/galleries/staff/identify", PHOTO, "identify"),
    ("POST", "/v1/galleries/staff/people/anna/verify", PHOTO, "identify"),
    ("POST", "/v1/verify", PAIR, "identify"),
    ("POST", "/v1/faces/detect", PHOTO, "identify"),
    ("POST", "/v1/faces/embed", PHOTO, "embed"),
    ("GET", "/v1/models", {}, "read"),
    ("GET", "/metrics", {}, "read"),
]


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


@pytest.mark.parametrize(("method", "path", "options", "scope"), CALLS, ids=[f"{c[0]} {c[1]}" for c in CALLS])
def test_a_call_is_open_to_its_scope_and_closed_to_everybody_else(locked, method, path, options, scope):
    service, held = locked
    assert_problem(service.request(method, path, **options), 401, "unauthorized")
    for other in set(SCOPES) - {scope}:
        document = assert_problem(
            service.request(method, path, headers=bearer(held[other]), **options), 403, "forbidden"
        )
        assert document["scope"] == scope
    assert service.request(method, path, headers=bearer(held[scope]), **options).is_success


class TestOpenToTheNetwork:
    def test_without_a_key_the_start_is_refused(self, start):
        with pytest.raises(SettingsError, match="vultus keys create"):
            start(host="0.0.0.0")

    def test_a_revoked_key_does_not_count(self, start):
        with start().product.catalog.write() as tx:
            keys.revoke(tx, keys.create(tx, "gone", SCOPES).record.key)
        start.stop()
        with pytest.raises(SettingsError):
            start(host="0.0.0.0")

    def test_with_a_key_it_starts_and_asks_for_it_under_any_name(self, start):
        with start().product.catalog.write() as tx:
            key = keys.create(tx, "all", SCOPES).text
        start.stop()
        service = start(host="0.0.0.0")
        host = {"host": "faces.example.org"}
        assert_problem(service.get("/v1/galleries", headers=host), 401, "unauthorized")
        assert service.get("/v1/galleries", headers=host | bearer(key)).status_code == 200

    def test_it_starts_when_told_that_something_else_guards_it(self, start):
        assert start(host="0.0.0.0", open=True).get("/v1/galleries").status_code == 200


def test_health_needs_no_key(locked):
    service, _ = locked
    assert service.get("/health/live").status_code == 200
    assert service.get("/health/ready").status_code == 200


@pytest.mark.parametrize("text", ["", "nonsense", "vk_", "vk_000000000000_x", "vk_\u00e9_x"])
def test_an_unknown_key_opens_nothing(locked, text):
    service, _ = locked
    answer = service.get("/v1/galleries", headers={"Authorization": f"Bearer {text}".encode()})
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_revoked_key_opens_nothing(locked):
    service, held = locked
    assert_problem(service.get("/v1/galleries", headers=bearer(held["revoked"])), 401, "unauthorized")


def test_another_way_of_authorizing_opens_nothing(locked):
    service, held = locked
    answer = service.get("/v1/galleries", headers={"Authorization": f"Basic {held['read']}"})
    assert_problem(answer, 401, "unauthorized")


@pytest.mark.parametrize(
    ("path", "scope"),
    [("/v1/galleries/staff/people/anna/faces", "enroll"), ("/v1/galleries/staff/identify", "identify")],
)
def test_an_embedding_needs_the_scope_embed_besides(locked, path, scope):
    service, held = locked
    answer = service.post(path, json={"embedding": VECTOR}, headers=bearer(held[scope]))
    assert assert_problem(answer, 403, "forbidden")["scope"] == "embed"


def test_idempotency_keys_of_two_callers_do_not_meet(locked):
    service, held = locked
    with service.product.catalog.write() as tx:
        second = keys.create(tx, "second", ["enroll"]).text
    headers = {"Idempotency-Key": "same"}
    path = "/v1/galleries/staff/people/dora"
    first = service.put(path, json={"name": "one"}, headers=headers | bearer(held["enroll"]))
    other = service.put(path, json={"name": "two"}, headers=headers | bearer(second))
    assert (first.status_code, other.status_code) == (201, 200)
    assert other.json()["name"] == "two"


def test_a_key_that_is_revoked_in_use_stops_working_soon(locked):
    catalog = locked[0].product.catalog
    access = Access(catalog, InProcess(), remembered=0.05)
    with catalog.write() as tx:
        key = keys.create(tx, "short", ["read"])
    assert asyncio.run(access.caller(f"Bearer {key.text}", "read")) == key.record.key
    with catalog.write() as tx:
        keys.revoke(tx, key.record.key)
    time.sleep(0.06)
    with pytest.raises(UnauthorizedError):
        asyncio.run(access.caller(f"Bearer {key.text}", "read"))
    assert REMEMBERED_SECONDS <= 10


def test_a_rate_is_counted_at_all_replicas_together(service, shared):
    catalog = service.product.catalog
    replicas = [Access(catalog, shared, rate=5), Access(catalog, shared, rate=5)]

    async def ask(number):
        await replicas[number % 2].admit("a key")

    for number in range(5):
        asyncio.run(ask(number))
    with pytest.raises(RateLimitedError) as refused:
        asyncio.run(ask(5))
    assert 0 < refused.value.retry_after <= 61
    asyncio.run(replicas[0].admit("another key"))


def test_a_key_that_sends_too_much_is_told_when_to_come_again_and_health_is_not_counted(start):
    service = start(rate=3)
    answers = [service.get("/v1/galleries") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    document = assert_problem(answers[-1], 429, "rate_limited")
    assert int(answers[-1].headers["retry-after"]) == document["retry_after"]
    assert service.get("/health/ready").status_code == 200
