from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.errors import GalleryNotFoundError, PersonNotFoundError
from service.gallery import faces, forgetting, galleries, people
from service.gallery.records import PersonFields

NOON = datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def put(catalog, gallery):
    def one(person, **fields):
        with catalog.write() as tx:
            return people.put(tx, gallery.pk, person, PersonFields(**fields))

    return one


def test_a_person_is_read_as_put(catalog, gallery, put):
    fields = {
        "name": "Anna Ångström",
        "region": "8928308280fffff",
        "device": "phone-1",
        "digits": catalog.digits_hash(gallery.pk, "1234"),
        "attributes": {"height": 171, "ids": ["a"]},
        "consent": {"given": True},
        "expires_at": NOON,
    }
    outcome = put("anna", **fields)
    assert outcome.created
    with catalog.read() as reading:
        found = people.get(reading, gallery.pk, "anna")
    assert found == outcome.person
    assert {name: getattr(found, name) for name in fields} == fields
    assert (found.revision, found.faces) == (1, 0)


def test_a_second_put_replaces_all_fields_and_keeps_the_key(put):
    first = put("anna", name="Anna", device="phone-1").person
    second = put("anna", name="Anne")
    assert not second.created
    assert second.person.pk == first.pk
    assert (second.person.name, second.person.device, second.person.revision) == ("Anne", None, 2)
    assert second.person.created_at == first.created_at < second.person.updated_at


def test_a_put_keeps_the_faces(catalog, gallery, put, template):
    with catalog.write() as tx:
        faces.add(tx, gallery.pk, "anna", [template(1)], limit=5)
    assert put("anna", name="Anna").person.faces == 1


def test_a_patch_sets_what_it_names_and_none_clears(catalog, gallery, put):
    put("anna", name="Anna", device="phone-1", region="8928308280fffff")
    with catalog.write() as tx:
        changed = people.patch(tx, gallery.pk, "anna", {"device": "phone-2", "region": None})
    assert (changed.name, changed.device, changed.region, changed.revision) == ("Anna", "phone-2", None, 2)


def test_an_empty_patch_changes_nothing(catalog, gallery, put):
    anna = put("anna").person
    with catalog.write() as tx:
        assert people.patch(tx, gallery.pk, "anna", {}) == anna


def test_a_patch_of_nobody_is_refused(catalog, gallery):
    with pytest.raises(PersonNotFoundError), catalog.write() as tx:
        people.patch(tx, gallery.pk, "nobody", {"name": "x"})


def test_plain_digits_are_never_stored(catalog, gallery, put):
    with pytest.raises(ValueError, match="keyed hash"):
        put("anna", digits="1234")
    put("anna")
    with pytest.raises(ValueError, match="keyed hash"), catalog.write() as tx:
        people.patch(tx, gallery.pk, "anna", {"digits": "1234"})


def test_the_same_id_in_two_galleries_is_two_people(catalog, put):
    put("anna", name="one")
    with catalog.write() as tx:
        other = galleries.create(tx, "guests", model="sface", model_digest="d1", dim=16)
        assert people.put(tx, other.pk, "anna", PersonFields(name="two")).created


def test_a_person_of_no_gallery_is_refused(catalog):
    with pytest.raises(GalleryNotFoundError), catalog.write() as tx:
        people.put(tx, 12, "anna", PersonFields())


@pytest.mark.parametrize("person", ["a/b", "o'neil", 'say "hi"', "🙂", "%_", "x" * 255, "Ä", " ", "\\x00", "$1"])
def test_any_id_comes_back_as_it_was_given(catalog, gallery, put, person):
    put(person)
    with catalog.read() as reading:
        assert people.get(reading, gallery.pk, person).person == person
        assert [each.person for each in people.page(reading, gallery.pk).items] == [person]


def test_ids_are_ordered_by_their_code_points_whatever_the_database(catalog, gallery, put):
    given = ["b", "B", "a", "Ä", "a-b", "aa", "é", "1", "_", "🙂"]
    for person in given:
        put(person)
    with catalog.read() as reading:
        assert [each.person for each in people.page(reading, gallery.pk).items] == sorted(given)


def test_pages_follow_the_order_of_ids(catalog, gallery, put):
    for person in ("d", "b", "a", "e", "c"):
        put(person)
    with catalog.read() as reading:
        first = people.page(reading, gallery.pk, limit=2)
        second = people.page(reading, gallery.pk, after=first.next, limit=2)
        third = people.page(reading, gallery.pk, after=second.next, limit=2)
    pages = [[each.person for each in page.items] for page in (first, second, third)]
    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    assert third.next is None


def test_a_cursor_goes_on_although_its_person_left(catalog, gallery, put):
    for person in ("a", "b", "c"):
        put(person)
    with catalog.read() as reading:
        cursor = people.page(reading, gallery.pk, limit=2).next
    with catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, cursor)
    with catalog.read() as reading:
        assert [each.person for each in people.page(reading, gallery.pk, after=cursor).items] == ["c"]


def test_people_are_found_by_their_rows_and_the_forgotten_are_missing(catalog, gallery, put):
    anna, bert = put("anna").person, put("bert").person
    with catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, "bert")
    with catalog.read() as reading:
        assert people.by_pks(reading, [bert.pk, anna.pk, 999]) == {
            anna.pk: people.Indexed("anna", anna.expires_at, anna.digits)
        }
        assert people.by_pks(reading, []) == {}


def test_a_person_expires_at_the_moment_stated(put):
    person = put("anna", expires_at=NOON).person
    assert not person.expired(NOON - timedelta(microseconds=1))
    assert person.expired(NOON)
    assert not put("bert").person.expired(NOON)


def test_expired_people_are_listed_the_longest_first(catalog, put):
    put("late", expires_at=NOON)
    put("early", expires_at=NOON - timedelta(days=1))
    put("later", expires_at=NOON + timedelta(microseconds=1))
    put("never")
    with catalog.read() as reading:
        assert [each.person for each in people.expired(reading, at=NOON)] == ["early", "late"]
        assert [each.person for each in people.expired(reading, at=NOON, limit=1)] == ["early"]


def test_a_row_is_never_used_twice(catalog, gallery, put):
    first = put("anna").person
    with catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, "anna")
    assert put("anna").person.pk > first.pk


def test_home_cells_are_told_for_those_who_have_one(catalog, gallery):
    with catalog.write() as tx:
        rows = [
            people.put(tx, gallery.pk, f"p{number}", PersonFields(region=region)).person.pk
            for number, region in enumerate(["8928308280fffff", None, "8928308280bffff"])
        ]
    with catalog.read() as reading:
        asked = np.array([rows[2], 999, rows[1], rows[0]])
        homes = people.homes_of(reading, gallery.pk, asked)
        assert homes.tolist() == [b"8928308280bffff", b"", b"", b"8928308280fffff"]
        assert people.homes_of(reading, gallery.pk, np.array([rows[1]])).tolist() == [b""]
