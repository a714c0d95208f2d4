"""What is true of a catalog in SQLite alone: its file, its log, its damage."""

import sqlite3
import threading

import pytest

from service.errors import StorageError, StorageFullError
from service.gallery import faces, forgetting, people
from service.gallery.catalog import Catalog
from service.gallery.records import PersonFields
from service.identify.fusion import fuse


@pytest.fixture
def kind():
    return "sqlite"


def names(catalog, gallery):
    with catalog.read() as reading:
        return [person.person for person in people.page(reading, gallery.pk).items]


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


@pytest.mark.parametrize("url", ["mysql://here/catalog", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_names_neither_a_file_nor_postgresql_is_refused(url):
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


def test_closing_leaves_one_file(catalog, gallery, tmp_path):
    names(catalog, gallery)
    catalog.close()
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.sqlite"]
