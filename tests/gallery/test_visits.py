import itertools
from datetime import UTC, datetime, timedelta

import pytest

from service.gallery import galleries, people, schema
from service.gallery.catalog import Catalog
from service.gallery.records import PersonFields
from service.gallery.redis_visits import RedisVisits
from service.gallery.visits import CatalogVisits, NewVisit
from service.identify.fusion import fuse
from service.shared.redis_store import InRedis

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = (NOON - schema.EPOCH).days
HOME = "881f8d7a49fffff"


def visit(person_pk, at=NOON, device="gate", cell="871f8d7a4ffffff", region="851f8d7bfffffff"):
    return NewVisit(person_pk, None if person_pk is None else HOME, device, cell, region, at, "card")


@pytest.fixture(params=["catalog", "redis"])
def log(request):
    """Whoever keeps visits; every test holds for each."""
    if request.param == "catalog":
        yield CatalogVisits()
        return
    redis = InRedis(request.getfixturevalue("redis_session").url, f"visits-{next(SPACES)}")
    yield RedisVisits(redis)
    redis.close()


SPACES = itertools.count()


@pytest.fixture
def staff(catalog, gallery):
    with catalog.write() as tx:
        return [people.create(tx, gallery.pk, name, PersonFields(region=HOME)).pk for name in ("a", "b")]


@pytest.fixture
def recorded(log, catalog, gallery):
    """Records visits."""

    def these(*new):
        with catalog.write() as tx:
            return [log.record(tx, gallery.pk, each) for each in new]

    return these


@pytest.fixture
def read(log, catalog, gallery):
    """Who was at a place: (person, day, visits)."""
    return lambda *place: seen_at(log, catalog, gallery, *place)


def seen_at(log, catalog, gallery, kind="device", name="gate"):
    with catalog.read() as reading:
        found = log.at_place(reading, gallery.pk, kind, name)
    return sorted(zip(found.rows.tolist(), found.days.tolist(), found.counts.tolist(), strict=True))


def test_visits_are_counted_by_person_and_day(staff, recorded, read):
    a, b = staff
    late = NOON + timedelta(hours=13)
    recorded(visit(a), visit(a), visit(a, late), visit(b), visit(None))
    assert read() == [(-1, DAY, 1), (a, DAY, 2), (a, DAY + 1, 1), (b, DAY, 1)]


@pytest.mark.parametrize(
    ("what", "name"), [("device", "gate"), ("cell", "871f8d7a4ffffff"), ("region", "851f8d7bfffffff")]
)
def test_they_are_found_by_device_by_cell_and_by_region(staff, recorded, read, what, name):
    recorded(visit(staff[0]), visit(staff[1], device="x", cell="y", region="z"))
    assert read(what, name) == [(staff[0], DAY, 1)]


def test_a_place_nobody_knows_has_no_visits(read):
    assert read("device", "elsewhere") == []


def test_each_visit_raises_the_number_of_the_newest(log, catalog, gallery, staff, recorded):
    with catalog.read() as reading:
        assert log.last_of(reading, gallery.pk) == 0
    keys = recorded(visit(staff[0]), visit(None))
    with catalog.read() as reading:
        assert log.last_of(reading, gallery.pk) == keys[1] > keys[0]


def test_a_device_is_where_it_was_last_seen(log, catalog, gallery, recorded):
    recorded(
        visit(None, cell="c1", region="r1"),
        visit(None, cell="c2", region="r2"),
        visit(None, region=None),
    )
    with catalog.read() as reading:
        assert log.place_of(reading, gallery.pk, "gate") == ("c2", "r2")
        assert log.place_of(reading, gallery.pk, "other") == (None, None)


def test_travels_are_counted_from_home_to_region(log, catalog, gallery, staff, recorded):
    recorded(visit(staff[0]), visit(staff[1]), visit(staff[1], region="r2"), visit(None))
    with catalog.read() as reading:
        found = log.travels(reading, gallery.pk)
    assert sorted(found) == [(HOME, "851f8d7bfffffff", 2), (HOME, "r2", 1)]


def test_forgetting_a_person_forgets_their_visits(log, catalog, gallery, staff, recorded, read):
    recorded(visit(staff[0]), visit(staff[1]))
    with catalog.write() as tx:
        log.forget_person(tx, gallery.pk, staff[0])
    assert read() == [(staff[1], DAY, 1)]


def test_deleting_a_gallery_deletes_its_visits(log, catalog, gallery, staff, recorded, read):
    recorded(visit(staff[0]), visit(None))
    with catalog.write() as tx:
        log.forget_gallery(tx, gallery.pk)
    assert read() == []
    with catalog.read() as reading:
        assert log.devices(reading, gallery.pk, limit=5) == log.travels(reading, gallery.pk) == []


def test_visits_have_a_time_to_live(log, catalog, staff, recorded, read):
    recorded(visit(staff[0], NOON - timedelta(days=9)), visit(staff[0]))
    with catalog.write() as tx:
        assert log.forget_before(tx, NOON - timedelta(days=5)) == 1
        assert tx.erased
    assert read() == [(staff[0], DAY, 1)]


def test_the_busiest_devices_come_first(log, catalog, gallery, recorded):
    recorded(
        visit(None, device="b"),
        visit(None, device="a"),
        visit(None, device="b"),
        visit(None, device=None),
    )
    with catalog.read() as reading:
        assert log.devices(reading, gallery.pk, limit=5) == ["b", "a"]
        assert log.devices(reading, gallery.pk, limit=1) == ["b"]


# --- catalogs of older releases ---

BEFORE_VISITS = (
    "DROP TABLE visits",
    "ALTER TABLE galleries DROP COLUMN habits",
    "DROP INDEX people_by_digits",
    "DROP INDEX people_by_device",
)
EARLIEST = {"meta", "galleries", "people", "templates", "departures", "visits", "calibrations", "receipts", "keys"}
BEFORE_IMPORTS = tuple(
    f"DROP TABLE {table.name}"
    for table in reversed(schema.metadata.sorted_tables)
    if table.name not in EARLIEST | {"idempotency"}
)
BEFORE_CALIBRATIONS = (*BEFORE_IMPORTS, "DROP TABLE calibrations", "ALTER TABLE galleries DROP COLUMN observed")


def aged(place, version, *statements):
    """A catalog as an older release left it, with a gallery of one person who came once where visits are kept."""
    opened = Catalog.open(place, secret=b"s" * 32, fuse=fuse)
    with opened.write() as tx:
        kept = galleries.create(tx, "staff", model="m", model_digest="d", dim=4)
        who = people.create(tx, kept.pk, "a", PersonFields(region=HOME)).pk
        CatalogVisits().record(tx, kept.pk, visit(who))
        for statement in (*statements, f"UPDATE meta SET value = '{version}' WHERE name = 'schema_version'"):
            tx.connection.exec_driver_sql(statement)
    opened.close()
    return Catalog.open(place, secret=b"s" * 32, fuse=fuse), kept, who


def test_a_catalog_of_the_first_version_is_brought_forward(place):
    again, kept, who = aged(place, 1, *BEFORE_CALIBRATIONS, *BEFORE_VISITS)
    with again.write() as tx:
        CatalogVisits().record(tx, kept.pk, visit(who))
    assert seen_at(CatalogVisits(), again, kept) == [(who, DAY, 1)]
    again.close()


def test_visits_of_the_second_version_learn_the_home_behind_them(place):
    again, kept, _ = aged(place, 2, *BEFORE_CALIBRATIONS, "ALTER TABLE visits DROP COLUMN home")
    with again.read() as reading:
        assert CatalogVisits().travels(reading, kept.pk) == [(HOME, "851f8d7bfffffff", 1)]
    again.close()


# --- what is true of Redis alone ---


def test_nothing_of_a_forgotten_person_is_left_in_redis(catalog, gallery, staff, redis_session):
    redis = InRedis(redis_session.url, f"visits-{next(SPACES)}")
    log = RedisVisits(redis)
    with catalog.write() as tx:
        log.record(tx, gallery.pk, visit(staff[0]))
        log.record(tx, gallery.pk, visit(staff[0], NOON - timedelta(days=1), device=None))
        log.forget_person(tx, gallery.pk, staff[0])
    left = {key.rpartition(b":")[2] for key in redis.must(lambda client: client.keys(f"{redis.space}visits:*"))}
    assert left == {b"newest", b"where", b"days"}
    redis.close()


def test_a_gallery_deletes_its_own_keys_and_no_others(catalog, gallery, redis_session):
    redis = InRedis(redis_session.url, f"visits-{next(SPACES)}")
    log = RedisVisits(redis)
    with catalog.write() as tx:
        other = galleries.create(tx, "guests", model="m", model_digest="d", dim=4)
        for each in (gallery, other):
            log.record(tx, each.pk, visit(None))
        log.forget_gallery(tx, gallery.pk)
    assert seen_at(log, catalog, gallery) == []
    assert seen_at(log, catalog, other) == [(-1, DAY, 1)]
    assert redis.must(lambda client: client.zcard(f"{redis.space}visits:days")) == 1
    redis.close()
