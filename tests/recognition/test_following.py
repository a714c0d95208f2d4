"""A replica follows what others change in one catalog."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from service.errors import IndexMemoryError, StorageError
from service.gallery import calibrations, faces, forgetting, galleries
from service.gallery.catalog import Catalog
from service.gallery.index.indexes import LocalIndexes
from service.gallery.records import NewTemplate
from service.gallery.views import Views
from service.identify.calibration import fit
from service.identify.fusion import fuse
from service.recognition.calibrated import Calibrated, to_json
from service.recognition.following import Follower, follow
from service.recognition.known import KnownGalleries

MODEL = fit(np.full(9, 0.6), np.linspace(-0.3, 0.3, 90))


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def others(postgres_server):
    """The catalog as another replica has it open."""
    url = postgres_server.database()
    catalog = Catalog.open(url, secret=b"s" * 32, fuse=fuse)
    catalog.url = url
    yield catalog
    catalog.close()


class Replica:
    def __init__(self, url, folder):
        self.clock, self.known = Clock(), KnownGalleries()
        self.calibrated = Calibrated(MODEL)
        self.catalog = Catalog.open(url, secret=b"s" * 32, fuse=fuse)
        self.views = Views(self.catalog, LocalIndexes(folder))
        self.follower = Follower(self.catalog, self.views, self.known, self.calibrated, "d1", self.clock)

    def close(self):
        self.views.close()
        self.catalog.close()

    def look_up(self, name):
        def look():
            with self.catalog.read() as reading:
                record = galleries.get(reading, name)
            return record, self.views.of(record.pk)

        return self.known.learn(name, look)


@pytest.fixture
def replica(others, tmp_path):
    replica = Replica(others.url, tmp_path)
    yield replica
    replica.close()


def create(catalog, name, digest="d1"):
    with catalog.write() as tx:
        return galleries.create(tx, name, model="sface", model_digest=digest, dim=4).pk


def enrol(catalog, pk, person):
    with catalog.write() as tx:
        template = NewTemplate(f"{person:0>64}", np.eye(4, dtype=np.float32)[0], 0.7, (0, 0, 1, 1))
        return faces.add(tx, pk, person, [template], limit=5)


def test_what_others_enrol_and_forget_is_shown_after_a_look(others, replica):
    pk = create(others, "staff")
    enrol(others, pk, "anna")
    enrol(others, pk, "bert")
    replica.follower.look()
    assert replica.views.revisions() == {pk: 2}
    assert len(replica.views.of(pk)) == 2
    with others.write() as tx:
        forgetting.forget(tx, pk, "anna")
    replica.follower.look()
    assert len(replica.views.of(pk)) == 1


def test_a_gallery_that_others_deleted_is_dropped_with_its_snapshot(others, replica, tmp_path):
    pk = create(others, "staff")
    enrol(others, pk, "anna")
    replica.look_up("staff")
    with others.write() as tx:
        galleries.delete(tx, pk)
    replica.follower.look()
    assert replica.views.revisions() == {}
    assert replica.known.get("staff") is None
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_that_others_changed_is_looked_up_anew_and_one_that_only_grew_is_not(others, replica):
    pk = create(others, "staff")
    first = replica.look_up("staff")
    enrol(others, pk, "anna")
    replica.follower.look()
    assert replica.known.get("staff") == first
    with others.write() as tx:
        galleries.update(tx, pk, {"fpir": 0.5})
    replica.follower.look()
    assert replica.known.get("staff") is None
    assert replica.look_up("staff")[0].fpir == 0.5


def test_a_gallery_that_was_deleted_and_made_anew_is_another_one(others, replica):
    old = create(others, "staff")
    replica.look_up("staff")
    with others.write() as tx:
        galleries.delete(tx, old)
    new = create(others, "staff")
    replica.follower.look()
    assert replica.look_up("staff")[0].pk == new != old


def test_a_gallery_that_others_measured_is_judged_by_what_they_found(others, replica):
    pk = create(others, "staff")
    replica.look_up("staff")
    with others.write() as tx:
        tiers = {"all": {"calibration": to_json(fit(np.full(9, 0.5), np.linspace(-0.2, 0.4, 90)))}}
        calibrations.keep(tx, pk, revision=0, people=9, tiers=tiers)
    assert replica.calibrated.version(pk) == 0
    replica.follower.look()
    assert replica.calibrated.version(pk) == 1


def test_galleries_of_another_model_are_not_opened(others, replica):
    create(others, "foreign", "d2")
    replica.follower.look()
    assert replica.views.revisions() == {}


def test_a_catalog_that_went_back_is_shown_as_it_is_now(others, replica, caplog):
    pk = create(others, "staff")
    for person in ("anna", "bert", "carl"):
        enrol(others, pk, person)
    replica.follower.look()
    with others.write() as tx:
        tx.connection.exec_driver_sql("DELETE FROM people WHERE revision > 1")
        tx.connection.exec_driver_sql("UPDATE galleries SET revision = 1")
    replica.follower.look()
    assert (replica.views.revisions(), len(replica.views.of(pk))) == ({pk: 1}, 1)
    assert "went back" in caplog.text


def test_the_lag_is_the_age_of_the_last_complete_look(others, replica):
    replica.follower.look()
    replica.clock.now += 3
    assert replica.follower.lag().seconds == 3
    replica.follower.look()
    assert (replica.follower.lag().seconds, replica.follower.lag().revisions) == (0, 0)


def test_a_look_that_fails_leaves_the_lag_to_grow(others, replica, monkeypatch):
    replica.follower.look()
    replica.clock.now += 2

    def away():
        raise StorageError("away")

    monkeypatch.setattr(replica.catalog, "read", away)
    with pytest.raises(StorageError):
        replica.follower.look()
    assert replica.follower.lag().seconds == 2


def test_revisions_that_are_known_and_not_shown_are_counted(others, replica):
    pk = create(others, "staff")
    replica.follower.look()
    replica.follower._heads[pk] = 4
    assert replica.follower.lag().revisions == 4


def test_where_nobody_else_can_write_there_is_no_lag(tmp_path):
    alone = Replica(tmp_path / "catalog.sqlite", tmp_path)
    alone.clock.now += 100
    assert (alone.follower.lag().seconds, alone.follower.lag().revisions) == (0, 0)
    alone.close()


def test_a_catalog_that_cannot_be_followed_is_tried_again_and_told_once(caplog):
    looked = []

    class Failing:
        def look(self):
            looked.append(len(looked))
            if len(looked) in {2, 3, 4}:
                raise StorageError("away")

    async def some_looks():
        told = asyncio.Event()
        following = asyncio.create_task(follow(Failing(), told, seconds=60))
        while len(looked) < 6:
            told.set()
            await asyncio.sleep(0.005)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    asyncio.run(some_looks())
    assert (caplog.text.count("away"), caplog.text.count("followed again")) == (1, 1)


def test_a_gallery_that_does_not_fit_into_memory_holds_up_no_other(others, replica):
    first, second = create(others, "first"), create(others, "second")
    replica.follower.look()
    index = replica.views.of(first)._index
    roomy, index._means = index._means, replace(index._means, memory=0)
    for pk in (first, second):
        enrol(others, pk, "anna")
    with pytest.raises(IndexMemoryError):
        replica.follower.look()
    assert replica.views.revisions() == {first: 0, second: 1}
    assert replica.follower.lag().revisions == 1
    index._means = roomy
    replica.follower.look()
    assert replica.views.revisions() == {first: 1, second: 1}
