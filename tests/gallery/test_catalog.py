from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.errors import (
    GalleryNotFoundError,
    InvalidEmbeddingError,
    PersonNotFoundError,
    StorageError,
)
from service.gallery import faces, galleries, people
from service.gallery.catalog import keyed_hash
from service.gallery.records import PersonFields


def names(catalog, gallery):
    with catalog.read() as reading:
        return [person.person for person in people.page(reading, gallery.pk).items]


def test_what_was_committed_is_there_after_reopening(catalog, gallery, open_catalog):
    with catalog.write() as tx:
        people.put(tx, gallery.pk, "anna", PersonFields())
    catalog.close()
    assert names(open_catalog(), gallery) == ["anna"]


def test_a_failed_transaction_leaves_nothing(catalog, gallery, revision):
    def fail_half_way():
        with catalog.write() as tx:
            people.put(tx, gallery.pk, "anna", PersonFields())
            people.get(tx, gallery.pk, "nobody")

    with pytest.raises(PersonNotFoundError):
        fail_half_way()
    assert names(catalog, gallery) == []
    assert revision() == 0


def test_many_changes_in_one_transaction_are_one_revision(catalog, gallery, template, revision):
    with catalog.write() as tx:
        people.put(tx, gallery.pk, "anna", PersonFields())
        faces.add(tx, gallery.pk, "bert", [template(1), template(2)], limit=5)
        people.patch(tx, gallery.pk, "anna", {"name": "Anna"})
    assert revision() == 1


def test_a_transaction_raises_each_gallery_that_it_changes_by_one(catalog, gallery):
    with catalog.write() as tx:
        other = galleries.create(tx, "guests", model="sface", model_digest="d1", dim=16)
    with catalog.write() as tx:
        people.put(tx, gallery.pk, "anna", PersonFields())
        people.put(tx, other.pk, "bert", PersonFields())
        people.put(tx, other.pk, "carl", PersonFields())
    with catalog.read() as reading:
        assert [each.revision for each in galleries.page(reading).items] == [1, 1]


def test_a_change_in_a_gallery_that_does_not_exist_is_refused(catalog):
    with pytest.raises(GalleryNotFoundError), catalog.write() as tx:
        people.put(tx, 99, "anna", PersonFields())


def test_a_read_sees_one_moment_while_others_write(catalog, gallery):
    with catalog.read() as reading:
        before = galleries.by_pk(reading, gallery.pk).revision
        with catalog.write() as tx:
            people.put(tx, gallery.pk, "anna", PersonFields())
        assert people.find(reading, gallery.pk, "anna") is None
        assert galleries.by_pk(reading, gallery.pk).revision == before
    assert names(catalog, gallery) == ["anna"]


def test_a_read_cannot_write(catalog, gallery):
    with pytest.raises(StorageError, match="may not be written"), catalog.read() as reading:
        reading.connection.exec_driver_sql("DELETE FROM people")


def test_writers_in_threads_take_turns_and_lose_nothing(catalog, gallery, template, revision):
    def enrol(number):
        with catalog.write() as tx:
            return faces.add(tx, gallery.pk, f"p{number}", [template(number)], limit=5).revision

    with ThreadPoolExecutor(8) as pool:
        revisions = list(pool.map(enrol, range(40)))
    assert sorted(revisions) == list(range(1, 41))
    assert revision() == 40


def test_a_fusion_that_gives_no_unit_vector_is_not_stored(open_catalog, template):
    catalog = open_catalog(fuse=lambda embeddings, _: np.full_like(embeddings[0], np.nan))
    with catalog.write() as tx:
        gallery = galleries.create(tx, "staff", model="sface", model_digest="d1", dim=16)
    with pytest.raises(InvalidEmbeddingError), catalog.write() as tx:
        faces.add(tx, gallery.pk, "anna", [template(1)], limit=5)
    assert names(catalog, gallery) == []


def test_keyed_hashes_depend_on_the_secret_and_on_where_parts_end():
    first = keyed_hash(b"one", "ab", "c")
    assert first == keyed_hash(b"one", "ab", "c")
    assert len({first, keyed_hash(b"two", "ab", "c"), keyed_hash(b"one", "a", "bc")}) == 3


def test_digits_of_two_galleries_cannot_be_compared(catalog):
    assert catalog.digits_hash(1, "1234") == catalog.digits_hash(1, "1234")
    assert catalog.digits_hash(1, "1234") != catalog.digits_hash(2, "1234")


def test_more_readers_than_connections_wait_their_turn(catalog, gallery):
    with ThreadPoolExecutor(100) as pool:
        assert all(found == [] for found in pool.map(lambda _: names(catalog, gallery), range(300)))
