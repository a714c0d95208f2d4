"""One import on several workers, over PostgreSQL: leases, and what a dead worker leaves."""

import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from service.errors import LeaseLostError
from service.gallery import galleries, imports
from service.gallery.catalog import Catalog
from service.gallery.schema import imports as jobs
from service.gallery.schema import shards
from service.identify.fusion import fuse
from tests.imports.conftest import Importing

SECRET = b"s" * 32
ENTRY = ["1.jpg", "anna", None, {}, None]


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request, tmp_path):
    """An empty catalog in either database."""
    place = (
        tmp_path / "catalog.sqlite"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_server").database()
    )
    opened = Catalog.open(place, secret=SECRET, fuse=fuse)
    yield opened
    opened.close()


@pytest.fixture
def job(catalog):
    """An import of two shards of three rows, ready to be worked on."""
    with catalog.write() as tx:
        gallery = galleries.create(tx, "staff", model="sface", model_digest="d", dim=16)
        begun = imports.begin(tx, gallery.pk, {"path": "people"}).record
        assert imports.claim(tx, begun.pk, "one", seconds=60, anew=True)
        for first in (0, 3):
            imports.add_shard(tx, begun.pk, first, [ENTRY] * 3)
        imports.planned(tx, begun.pk, 6)
    return begun


def leased(catalog, job, worker, seconds=60.0):
    with catalog.write() as tx:
        return imports.lease(tx, job.pk, worker, seconds=seconds)


def decided(catalog, shard, worker, place, rows):
    with catalog.write() as tx:
        before = imports.hold_counts(tx, shard.import_pk)
        lines = [[f"{shard.first + place + number}.jpg", "anna", "enrolled"] for number in range(rows)]
        tally = Counter({"enrolled": rows})
        return imports.decided(tx, shard, place, lines, tally, before=before, worker=worker, seconds=60)


def test_workers_lease_different_shards_and_then_none(catalog, job):
    first, second, third = (leased(catalog, job, worker) for worker in ("one", "two", "three"))
    assert (first.first, second.first, third) == (0, 3, None)


def test_the_last_of_all_workers_ends_the_import(catalog, job):
    one, two = leased(catalog, job, "one"), leased(catalog, job, "two")
    assert not decided(catalog, two, "two", 0, 3)
    assert not decided(catalog, one, "one", 0, 2)
    assert decided(catalog, one, "one", 2, 1)
    with catalog.read() as reading:
        ended = imports.get(reading, job.gallery_pk, job.import_id)
        numbers = [
            number for shard in imports.shards_of(reading, job.pk) for number, _ in imports.report(reading, shard)
        ]
    assert (ended.state, ended.counts, numbers) == ("done", {"enrolled": 6}, list(range(6)))


def test_the_shard_of_a_dead_worker_is_taken_over_where_it_was_left(catalog, job):
    dead = leased(catalog, job, "dead", seconds=60)
    decided(catalog, dead, "dead", 0, 2)
    leased(catalog, job, "other")
    assert leased(catalog, job, "heir") is None
    expire(catalog)
    taken = leased(catalog, job, "heir")
    assert (taken.pk, taken.done, len(taken.entries)) == (dead.pk, 2, 1)


def test_a_worker_that_was_taken_over_cannot_commit(catalog, job):
    slow = leased(catalog, job, "slow")
    expire(catalog)
    taken = leased(catalog, job, "heir")
    assert taken.pk == slow.pk
    with pytest.raises(LeaseLostError, match="taken over"):
        decided(catalog, slow, "slow", 0, 3)
    decided(catalog, taken, "heir", 0, 3)
    with catalog.read() as reading:
        assert imports.get(reading, job.gallery_pk, job.import_id).counts == {"enrolled": 3}


def test_a_lease_that_is_renewed_is_not_taken_over(catalog, job):
    mine = leased(catalog, job, "mine", seconds=0.05)
    with catalog.write() as tx:
        imports.renew(tx, [mine.pk], "mine", seconds=60)
    time.sleep(0.1)
    assert leased(catalog, job, "other").pk != mine.pk


def test_nothing_is_leased_or_committed_of_a_cancelled_import(catalog, job):
    shard = leased(catalog, job, "one")
    with catalog.write() as tx:
        assert imports.cancel(tx, job.gallery_pk, job.import_id).state == "cancelled"
    assert leased(catalog, job, "two") is None
    with pytest.raises(LeaseLostError, match="does not run"):
        decided(catalog, shard, "one", 0, 1)


def test_a_reading_that_died_is_begun_anew(catalog):
    with catalog.write() as tx:
        gallery = galleries.create(tx, "staff", model="sface", model_digest="d", dim=16)
        begun = imports.begin(tx, gallery.pk, {"path": "people"}).record
        assert imports.claim(tx, begun.pk, "dead", seconds=60, anew=True)
        imports.add_shard(tx, begun.pk, 0, [ENTRY])
    with catalog.write() as tx:
        assert not imports.claim(tx, begun.pk, "heir", seconds=60, anew=True)
    expire(catalog)
    with catalog.write() as tx:
        assert imports.claim(tx, begun.pk, "heir", seconds=60, anew=True)
        assert imports.shards_of(tx, begun.pk) == []
        assert not imports.claim(tx, begun.pk, "dead", seconds=60, anew=False)


def expire(catalog):
    """Let the time of every lease pass."""
    with catalog.write() as tx:
        for table in (shards, jobs):
            held = table.c.leased_until.is_not(None)
            tx.connection.execute(table.update().where(held).values(leased_until=tx.now - timedelta(seconds=1)))


class TestOfTwoProcesses:
    """Two services over one PostgreSQL, each with helpers of its own."""

    @pytest.fixture
    def services(self, start, tmp_path, postgres_server, root):
        url = postgres_server.database()
        secret = tmp_path / "secret"
        secret.write_bytes(SECRET)
        return [start(tmp_path / name, catalog=url, secret=secret, import_root=root) for name in ("one", "two")]

    def test_an_import_is_shared_and_done_once(self, services, root: Path):
        many = 40_000
        vectors = np.random.default_rng(0).standard_normal((many, 128)).astype(np.float32)
        np.save(root / "both.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        (root / "both.csv").write_text("person\n" + "".join(f"p{number}\n" for number in range(many)))
        services[0].post("/v1/galleries", json={"name": "both"})
        gallery, workers = Importing(services[0], "both"), [each.app.state.imports for each in services]
        begun = gallery.begin_ready("both.csv", "both.npy").json()
        worked = set()
        while (job := gallery.job(begun["import"]))["ended_at"] is None:
            workers[1].poke()  # it would look by itself after two seconds
            worked |= {each for each in workers for rate in list(each.rates.values()) if rate.per_second() > 0}
        assert job["outcomes"]["enrolled"] == many
        assert worked == set(workers)
        lines = gallery.report(job)
        assert [line["row"] for line in lines] == [str(number) for number in range(1, many + 1)]
        assert gallery.state()[1:] == (many, many)
        assert len({line["face"] for line in lines}) == many
