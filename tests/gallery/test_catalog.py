import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.errors import (
    GalleryNotFoundError,
    InvalidEmbeddingError,
    PersonNotFoundError,
    StorageError,
    StorageFullError,
)
from service.gallery import faces, forgetting, galleries, people
from service.gallery.catalog import Catalog, keyed_hash
from service.gallery.records import PersonFields
from service.identify.fusion import fuse


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


def test_a_second_connection_that_writes_is_waited_for(catalog, gallery, tmp_path):
    raw = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None, check_same_thread=False)
    raw.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, raw.rollback)
    release.start()
    with catalog.write() as tx:
        people.put(tx, gallery.pk, "anna", PersonFields())
    release.join()
    raw.close()
    assert names(catalog, gallery) == ["anna"]


def test_an_acknowledged_write_is_on_the_disk(catalog, gallery):
    with catalog.write() as tx:
        journal = tx.connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        synchronous = tx.connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
    assert (journal, synchronous) == ("wal", 2)  # 2 is FULL


def test_a_full_disk_refuses_writes_while_reads_go_on(catalog, gallery, template, revision):
    def enrol(*numbers):
        with catalog.write() as tx:
            for number in numbers:
                faces.add(tx, gallery.pk, f"p{number:03}", [template(number)], limit=5)

    enrol(0)
    with catalog.write() as tx:
        pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError):
        enrol(*range(1, 200))
    assert names(catalog, gallery) == ["p000"]
    assert revision() == 1

    with catalog.write() as tx:
        tx.connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    enrol(*range(1, 200))
    assert len(names(catalog, gallery)) == 100
    assert revision() == 2


def test_a_file_that_is_no_database_is_called_damaged(tmp_path):
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(StorageError, match="damaged"):
        Catalog.open(path, secret=b"", fuse=fuse)


def test_a_catalog_with_overwritten_pages_is_called_damaged(catalog, gallery, template, open_catalog, tmp_path):
    with catalog.write() as tx:
        for number in range(100):
            faces.add(tx, gallery.pk, f"p{number}", [template(number)], limit=5)
    catalog.close()
    path = tmp_path / "catalog.sqlite"
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * len(content[8192:])
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        names(open_catalog(), gallery)


def test_a_folder_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened"):
        Catalog.open(tmp_path / "nowhere" / "catalog.sqlite", secret=b"", fuse=fuse)


def test_a_sqlite_url_opens_the_file_it_names(tmp_path):
    Catalog.open(f"sqlite:///{tmp_path}/by_url.sqlite", secret=b"", fuse=fuse).close()
    assert (tmp_path / "by_url.sqlite").exists()


@pytest.mark.parametrize("url", ["postgresql://here/catalog", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_names_no_sqlite_file_is_refused(url):
    with pytest.raises(StorageError, match="SQLite file"):
        Catalog.open(url, secret=b"", fuse=fuse)


def test_a_forgotten_embedding_is_in_no_file_any_more(catalog, gallery, template, tmp_path):
    given = template(3)
    trace = given.embedding.tobytes()

    def traces():
        return sum(trace in path.read_bytes() for path in tmp_path.iterdir())

    with catalog.write() as tx:
        faces.add(tx, gallery.pk, "anna", [given], limit=5)
    assert traces() > 0
    with catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, "anna")
    assert traces() == 0


def test_a_trace_that_a_reader_holds_goes_with_a_later_write(catalog, gallery, template, tmp_path):
    given = template(3)
    with catalog.write() as tx:
        faces.add(tx, gallery.pk, "anna", [given], limit=5)
    with catalog.read() as reading:
        people.find(reading, gallery.pk, "anna")
        with catalog.write() as tx:
            forgetting.forget(tx, gallery.pk, "anna")
    with catalog.write() as tx:
        people.put(tx, gallery.pk, "bert", PersonFields())
    assert not any(given.embedding.tobytes() in path.read_bytes() for path in tmp_path.iterdir())


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


def test_closing_leaves_one_file(catalog, gallery, tmp_path):
    names(catalog, gallery)
    catalog.close()
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.sqlite"]
