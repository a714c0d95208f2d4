"""One import on several workers, over PostgreSQL: leases, and what a dead worker leaves."""

import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

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
    assert (taken.pk, taken.done, len(taken.left())) == (dead.pk, 2, 1)


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


@pytest.fixture(scope="module")
def services(start_module, tmp_path_factory, postgres_server, root):
    """Two services over one catalog."""
    url, folder = postgres_server.database(), tmp_path_factory.mktemp("two")
    secret = folder / "secret"
    secret.write_bytes(SECRET)
    return [start_module(folder / name, catalog=url, secret=secret, import_root=root) for name in ("one", "two")]


class TestOfTwoServices:
    """Two services over one PostgreSQL, each with helpers of its own."""

    def test_an_import_is_shared_and_done_once(self, services, root: Path):
        many = 40_000
        ready(root, "both", many)
        services[0].post("/v1/galleries", json={"name": "both"})
        gallery, catalog = Importing(services[0], "both"), services[0].app.state.product.catalog
        begun = gallery.begin_ready("both.csv", "both.npy").json()
        worked = set()
        while (job := gallery.job(begun["import"]))["ended_at"] is None:
            services[1].app.state.imports.poke()  # it would look by itself after two seconds
            with catalog.read() as reading:
                worked |= {name for name in reading.connection.execute(select(shards.c.worker)).scalars() if name}
        assert job["outcomes"]["enrolled"] == many
        assert len(worked) == 2
        lines = gallery.report(job)
        assert [line["row"] for line in lines] == [str(number) for number in range(1, many + 1)]
        assert gallery.state()[1:] == (many, many)
        assert len({line["face"] for line in lines}) == many

    def test_whoever_is_asked_tells_how_fast_all_of_it_goes(self, services, root: Path):
        ready(root, "one", 24_000)
        services[1].app.state.imports.stop()  # it only watches
        services[0].post("/v1/galleries", json={"name": "one"})
        working, watching = (Importing(each, "one") for each in services)
        job, told = working.begin_ready("one.csv", "one.npy").json(), []
        while job["ended_at"] is None:
            job = watching.job(job["import"])
            told.append(job)
        running = [each for each in told if each["state"] == "running" and each["done"]]
        assert running
        assert all(each["per_second"] > 0 for each in running)
        assert [each["seconds_left"] for each in running] == [pytest.approx(left(each), abs=0.2) for each in running]
        # Of the whole import, though it had no part in it.
        assert running[-1]["per_second"] == pytest.approx(job["per_second"], rel=0.75)


def ready(root: Path, name: str, many: int) -> None:
    """Lay so many people with a random embedding each under a root."""
    vectors = np.random.default_rng(0).standard_normal((many, 128)).astype(np.float32)
    np.save(root / f"{name}.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (root / f"{name}.csv").write_text("person\n" + "".join(f"p{number}\n" for number in range(many)))


def left(job):
    """Seconds until a running import is done, by what it says of itself; its rate is rounded."""
    return (job["total"] - job["done"]) / job["per_second"]
