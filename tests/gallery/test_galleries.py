from datetime import UTC, datetime, timedelta

import pytest

from service.errors import GalleryExistsError, GalleryNotFoundError
from service.gallery import faces, forgetting, galleries, people
from service.gallery.records import PersonFields


def make(catalog, name):
    with catalog.write() as tx:
        return galleries.create(tx, name, model="sface", model_digest="d1", dim=16)


def test_a_gallery_is_read_as_it_was_created(catalog):
    with catalog.write() as tx:
        made = galleries.create(
            tx, "staff", model="sface", model_digest="d1", dim=16, fpir=0.001, attributes={"floor": [1, "zwei"]}
        )
    with catalog.read() as reading:
        found = galleries.get(reading, "staff")
    assert found == made
    assert (found.revision, found.fpir, found.attributes) == (0, 0.001, {"floor": [1, "zwei"]})
    assert abs(found.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_name_is_taken_once(catalog, gallery):
    with pytest.raises(GalleryExistsError):
        make(catalog, gallery.name)


def test_an_unknown_gallery_is_not_found(catalog):
    with pytest.raises(GalleryNotFoundError), catalog.read() as reading:
        galleries.get(reading, "nobody")


def test_pages_follow_each_other_without_gap_or_overlap(catalog):
    for name in ("c", "a", "e", "b", "d"):
        make(catalog, name)
    seen, after = [], None
    with catalog.read() as reading:
        while True:
            page = galleries.page(reading, after=after, limit=2)
            seen.append([each.name for each in page.items])
            after = page.next
            if after is None:
                break
    assert seen == [["a", "b"], ["c", "d"], ["e"]]


def test_a_page_that_is_just_full_is_the_last(catalog):
    make(catalog, "a")
    make(catalog, "b")
    with catalog.read() as reading:
        assert galleries.page(reading, limit=2).next is None


def test_an_update_sets_what_it_names_and_raises_the_revision(catalog, gallery):
    with catalog.write() as tx:
        galleries.update(tx, gallery.pk, {"fpir": 0.01})
    with catalog.write() as tx:
        changed = galleries.update(tx, gallery.pk, {"attributes": {"a": 1}})
    assert (changed.fpir, changed.attributes, changed.revision) == (0.01, {"a": 1}, 2)


def test_an_empty_update_changes_nothing(catalog, gallery):
    with catalog.write() as tx:
        assert galleries.update(tx, gallery.pk, {}) == gallery


def test_deleting_takes_everybody_and_leaves_other_galleries(catalog, gallery, template):
    other = make(catalog, "guests")
    with catalog.write() as tx:
        faces.add(tx, gallery.pk, "anna", [template(1), template(2)], limit=5)
        faces.add(tx, other.pk, "bert", [template(1)], limit=5)
        people.put(tx, gallery.pk, "carl", PersonFields())
    with catalog.write() as tx:
        gone = galleries.delete(tx, gallery.pk)
    assert gone == galleries.GallerySize(people=2, templates=2)
    with catalog.read() as reading:
        assert galleries.every_pk(reading) == (other.pk,)
        assert galleries.size(reading, other.pk) == galleries.GallerySize(people=1, templates=1)
        left = [
            reading.connection.exec_driver_sql(f"SELECT count(*) FROM {t}").scalar() for t in ("people", "templates")
        ]
    assert left == [1, 1]


def test_receipts_outlive_their_gallery(catalog, gallery, template):
    with catalog.write() as tx:
        faces.add(tx, gallery.pk, "anna", [template(1)], limit=5)
    with catalog.write() as tx:
        receipt = forgetting.forget(tx, gallery.pk, "anna").receipt
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
    with catalog.read() as reading:
        assert forgetting.receipt_of(reading, receipt.receipt) == receipt


def test_a_deleted_gallery_cannot_be_deleted_again(catalog, gallery):
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
    with pytest.raises(GalleryNotFoundError), catalog.write() as tx:
        galleries.delete(tx, gallery.pk)


def test_a_key_is_never_used_twice(catalog, gallery):
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
    assert make(catalog, "staff").pk > gallery.pk
