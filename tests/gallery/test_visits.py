from datetime import UTC, datetime, timedelta

import pytest

from service.gallery import forgetting, galleries, people, schema, visits
from service.gallery.catalog import Catalog
from service.gallery.records import PersonFields
from service.gallery.visits import NewVisit
from service.identify.fusion import fuse

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = (NOON - schema.EPOCH).days


def visit(person_pk, at=NOON, device="gate", cell="871f8d7a4ffffff", region="851f8d7bfffffff"):
    return NewVisit(person_pk, device, cell, region, at, "card")


@pytest.fixture
def staff(catalog, gallery):
    with catalog.write() as tx:
        return [people.create(tx, gallery.pk, name, PersonFields(region="881f8d7a49fffff")).pk for name in ("a", "b")]


def recorded(catalog, gallery, *new):
    with catalog.write() as tx:
        return [visits.record(tx, gallery.pk, each) for each in new]


def read(catalog, gallery, kind="device", name="gate"):
    with catalog.read() as reading:
        found = visits.at_place(reading, gallery.pk, kind, name)
    return sorted(zip(found.rows.tolist(), found.days.tolist(), found.counts.tolist(), strict=True))


def test_visits_are_counted_by_person_and_day(catalog, gallery, staff):
    a, b = staff
    late = NOON + timedelta(hours=13)
    recorded(catalog, gallery, visit(a), visit(a), visit(a, late), visit(b), visit(None))
    assert read(catalog, gallery) == [(-1, DAY, 1), (a, DAY, 2), (a, DAY + 1, 1), (b, DAY, 1)]


@pytest.mark.parametrize(
    ("kind", "name"), [("device", "gate"), ("cell", "871f8d7a4ffffff"), ("region", "851f8d7bfffffff")]
)
def test_they_are_found_by_device_by_cell_and_by_region(catalog, gallery, staff, kind, name):
    recorded(catalog, gallery, visit(staff[0]), visit(staff[1], device="x", cell="y", region="z"))
    assert read(catalog, gallery, kind, name) == [(staff[0], DAY, 1)]


def test_a_place_nobody_knows_has_no_visits(catalog, gallery):
    assert read(catalog, gallery, name="elsewhere") == []


def test_each_visit_raises_the_number_of_the_newest(catalog, gallery, staff):
    with catalog.read() as reading:
        assert visits.last_of(reading, gallery.pk) == 0
    keys = recorded(catalog, gallery, visit(staff[0]), visit(None))
    with catalog.read() as reading:
        assert visits.last_of(reading, gallery.pk) == keys[1] > keys[0]


def test_a_device_is_where_it_was_last_seen(catalog, gallery, staff):
    recorded(
        catalog,
        gallery,
        visit(None, cell="c1", region="r1"),
        visit(None, cell="c2", region="r2"),
        visit(None, region=None),
    )
    with catalog.read() as reading:
        assert visits.place_of(reading, gallery.pk, "gate") == ("c2", "r2")
        assert visits.place_of(reading, gallery.pk, "other") == (None, None)


def test_travels_are_counted_from_home_to_region(catalog, gallery, staff):
    recorded(catalog, gallery, visit(staff[0]), visit(staff[1]), visit(staff[1], region="r2"), visit(None))
    with catalog.read() as reading:
        found = visits.travels(reading, gallery.pk)
    assert sorted(found) == [("881f8d7a49fffff", "851f8d7bfffffff", 2), ("881f8d7a49fffff", "r2", 1)]


def test_forgetting_a_person_forgets_their_visits(catalog, gallery, staff):
    recorded(catalog, gallery, visit(staff[0]), visit(staff[1]))
    with catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, "a")
    assert read(catalog, gallery) == [(staff[1], DAY, 1)]


def test_deleting_a_gallery_deletes_its_visits(catalog, gallery, staff):
    recorded(catalog, gallery, visit(staff[0]), visit(None))
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
        assert tx.connection.exec_driver_sql("SELECT count(*) FROM visits").scalar_one() == 0


def test_visits_have_a_time_to_live(catalog, gallery, staff):
    recorded(catalog, gallery, visit(staff[0], NOON - timedelta(days=9)), visit(staff[0]))
    with catalog.write() as tx:
        assert visits.forget_before(tx, NOON - timedelta(days=5)) == 1
        assert tx.erased
    assert read(catalog, gallery) == [(staff[0], DAY, 1)]


def test_a_catalog_of_the_first_version_is_brought_forward(place):
    opened = Catalog.open(place, secret=b"s" * 32, fuse=fuse)
    with opened.write() as tx:
        kept = galleries.create(tx, "staff", model="m", model_digest="d", dim=4)
        for statement in (
            "DROP TABLE visits",
            "ALTER TABLE galleries DROP COLUMN habits",
            "DROP INDEX people_by_digits",
            "DROP INDEX people_by_device",
            "UPDATE meta SET value = '1' WHERE name = 'schema_version'",
        ):
            tx.connection.exec_driver_sql(statement)
    opened.close()
    again = Catalog.open(place, secret=b"s" * 32, fuse=fuse)
    recorded(again, kept, visit(None))
    assert read(again, kept) == [(-1, DAY, 1)]
    again.close()


def test_the_busiest_devices_come_first(catalog, gallery, staff):
    recorded(
        catalog,
        gallery,
        visit(None, device="b"),
        visit(None, device="a"),
        visit(None, device="b"),
        visit(None, device=None),
    )
    with catalog.read() as reading:
        assert visits.devices(reading, gallery.pk, limit=5) == ["b", "a"]
        assert visits.devices(reading, gallery.pk, limit=1) == ["b"]
