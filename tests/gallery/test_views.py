import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import GalleryNotFoundError
from service.gallery import faces, galleries
from service.gallery.index.indexes import LocalIndexes
from service.gallery.views import Views


@pytest.fixture
def views(catalog, tmp_path):
    (tmp_path / "snapshots").mkdir()
    views = Views(catalog, LocalIndexes(tmp_path / "snapshots"))
    yield views
    views.close()


@pytest.fixture
def folder(views, tmp_path):
    return tmp_path / "snapshots"


def test_a_view_is_opened_once_whoever_asks(views, gallery):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: views.of(gallery.pk), range(32)))) == 1


def test_each_gallery_has_its_own_view(views, catalog, gallery, template):
    with catalog.write() as tx:
        other = galleries.create(tx, "guests", model="sface", model_digest="d1", dim=16)
        faces.add(tx, other.pk, "anna", [template(1)], limit=5)
    assert (len(views.of(gallery.pk)), len(views.of(other.pk))) == (0, 1)


def test_a_gallery_that_does_not_exist_has_no_view(views):
    with pytest.raises(GalleryNotFoundError):
        views.of(12)


def test_closing_keeps_every_snapshot(views, catalog, gallery, folder):
    views.of(gallery.pk)
    views.close()
    assert [path.name for path in folder.iterdir()] == [f"{gallery.pk}.snapshot"]


def test_dropping_deletes_the_snapshot(views, catalog, gallery, folder):
    views.of(gallery.pk)
    views.close()
    views.of(gallery.pk)
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
    views.drop(gallery.pk)
    views.close()
    assert list(folder.iterdir()) == []


def test_dropping_what_was_never_opened_is_no_error(views):
    views.drop(12)


def test_sweeping_deletes_what_belongs_to_no_gallery(views, gallery, folder):
    views.of(gallery.pk)
    views.close()
    (folder / "77.snapshot").touch()
    (folder / f".{gallery.pk}.snapshot.a1b2").touch()
    (folder / "notes.txt").touch()
    views.sweep()
    assert {path.name for path in folder.iterdir()} == {f"{gallery.pk}.snapshot", "notes.txt"}


def test_a_gallery_deleted_while_its_view_is_being_opened_leaves_none(catalog, gallery, tmp_path):
    reading, deleted = threading.Event(), threading.Event()

    class Slow(LocalIndexes):
        def of(self, owner, newest):
            reading.set()
            assert deleted.wait(10)
            return super().of(owner, newest)

    views = Views(catalog, Slow(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        opening = pool.submit(views.of, gallery.pk)
        assert reading.wait(10)
        with catalog.write() as tx:
            galleries.delete(tx, gallery.pk)
        dropping = pool.submit(views.drop, gallery.pk)
        deleted.set()
        dropping.result(10)
        with contextlib.suppress(GalleryNotFoundError):
            opening.result(10)
    assert views.revisions() == {}
    views.close()
