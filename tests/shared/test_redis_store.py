"""What is true of shared state in Redis alone: several replicas, a wrong password, a server that leaves."""

import itertools
import logging
import subprocess
import sys
import time

import pytest

from service.errors import SharedStateError, StorageError
from service.settings import CHECKOUT
from service.shared import redis_store
from service.shared.redis_store import InRedis
from tests.servers import redis_server

SPACES = itertools.count()


@pytest.fixture(scope="module")
def leaving():
    """A server that comes and goes."""
    with redis_server() as server:
        yield server


@pytest.fixture
def server(leaving):
    if leaving.process is None:
        leaving.start()
    return leaving


@pytest.fixture
def replicas(server, monkeypatch):
    """Two replicas; Redis is asked again soon after it was away."""
    monkeypatch.setattr(redis_store, "AWAY_SECONDS", 0.1)
    space = f"replicas-{next(SPACES)}"
    opened = [InRedis(server.url, space) for _ in range(2)]
    yield opened
    for each in opened:
        each.close()


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_replicas_see_one_state(replicas):
    one, two = replicas
    one.put("a", b"x", 60)
    assert two.get("a") == b"x"
    assert one.claim("name", "one") is None
    assert two.claim("name", "two") == "one"
    assert [each.spend("limit", 2, 60) is None for each in (one, two, one)] == [True, True, False]


def test_services_of_other_catalogs_are_apart(server, replicas):
    other = InRedis(server.url, "another catalog")
    replicas[0].put("a", b"x", 60)
    assert other.get("a") is None
    other.close()


def test_a_replica_hears_another_one(replicas):
    heard = []
    replicas[1].listen(heard.append)
    until(lambda: "" in heard)
    replicas[0].tell("news")
    until(lambda: "news" in heard)


def test_a_claim_is_renewed_as_long_as_its_process_lives(server, monkeypatch):
    monkeypatch.setattr(redis_store, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(redis_store, "RENEW_SECONDS", 0.1)
    one, two = InRedis(server.url, "leases"), InRedis(server.url, "leases")
    one.claim("name", "one")
    time.sleep(1)
    assert two.claim("name", "two") == "one"
    one.close()
    assert two.claim("name", "two") is None
    two.close()


def test_a_claim_of_a_process_that_was_killed_is_free_soon(server, monkeypatch):
    script = (
        "import os, sys\nfrom service.shared import redis_store\nredis_store.LEASE_SECONDS = 0.5\n"
        "redis_store.InRedis(sys.argv[1], 'killed').claim('name', 'dead')\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, server.url], cwd=CHECKOUT, check=False, timeout=60)
    living = InRedis(server.url, "killed")
    until(lambda: living.claim("name", "living") in {None, "living"})
    living.close()


@pytest.mark.parametrize("password", ["a-wrong-one", ""])
def test_a_wrong_password_stops_the_start_and_is_not_repeated(server, password):
    with pytest.raises(SharedStateError, match="refuses the user or the password") as refused:
        InRedis(f"redis://:{password}@127.0.0.1:{server.port}/0", "x")
    assert "a-wrong-one" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://here", "redis://here:port/0"])
def test_a_url_that_cannot_be_used_is_told(url):
    with pytest.raises(SharedStateError, match="is not like"):
        InRedis(url, "x")


def test_a_redis_that_is_not_there_at_the_start_is_waited_for(server, monkeypatch, caplog):
    monkeypatch.setattr(redis_store, "AWAY_SECONDS", 0.1)
    monkeypatch.setattr(redis_store, "RENEW_SECONDS", 0.1)
    server.stop()
    store = InRedis(server.url, "early")
    assert store.state == "away"
    assert "does not answer" in caplog.text
    server.start()
    until(lambda: store.state == "up")
    store.close()


class TestAway:
    def test_each_replica_goes_on_with_its_own_memory(self, server, replicas):
        server.stop()
        for replica in replicas:
            replica.put("a", b"x", 60)
            assert replica.get("a") == b"x"
            assert replica.claim("name", "mine") is None
            assert replica.claim("name", "another") == "mine"
            assert [replica.spend("limit", 1, 60) is None for _ in range(2)] == [True, False]
            replica.release("name", "mine")
            replica.tell("nobody hears it")
            assert replica.state == "away"

    def test_calls_are_answered_at_once_and_logged_once(self, server, replicas, caplog):
        server.stop()
        with caplog.at_level(logging.WARNING):
            began = time.monotonic()
            for number in range(200):
                replicas[0].spend(f"limit {number}", 1, 60)
            assert time.monotonic() - began < 2
        assert caplog.text.count("does not answer") == 1

    def test_what_must_be_in_redis_is_refused_with_the_time_to_come_again(self, server, replicas):
        assert replicas[0].must(lambda client: client.ping())
        server.stop()
        with pytest.raises(StorageError, match=r"Redis at 127\.0\.0\.1 does not answer") as refused:
            replicas[0].must(lambda client: client.ping())
        assert refused.value.retry_after

    def test_a_server_that_is_back_is_shared_again_and_what_is_held_is_taken_again(self, server, replicas, monkeypatch):
        monkeypatch.setattr(redis_store, "RENEW_SECONDS", 0.1)
        one, two = replicas
        one.claim("held", "one")
        server.stop()
        assert one.get("a") is None
        server.start()
        until(lambda: two.get("nothing") is None and two.state == "up")
        until(lambda: one._client.get(one._space + "held") == b"one")
        assert two.claim("held", "two") == "one"

    def test_who_listens_hears_again_and_is_told_to_look(self, server, replicas):
        heard = []
        replicas[1].listen(heard.append)
        until(lambda: heard == [""])
        server.stop()
        server.start()
        until(lambda: heard.count("") == 2)
        until(lambda: replicas[0].tell("news") or "news" in heard)
