import itertools
import logging
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from service.errors import GalleryNotFoundError, IndexMemoryError, RevisionError
from service.gallery import changes, faces, forgetting, galleries, people
from service.gallery.catalog import Catalog
from service.gallery.index.indexes import LocalIndexes
from service.gallery.records import PersonFields
from service.gallery.view import GalleryView
from service.identify.fusion import fuse


@pytest.fixture
def path(tmp_path):
    return tmp_path / "1.snapshot"


@pytest.fixture
def open_view(catalog, gallery, path):
    opened = []

    def view(snapshot_every=1000, before=lambda verb: None):
        indexes = Watched(LocalIndexes(path.parent), before)
        opened.append(GalleryView(catalog, gallery.pk, indexes, snapshot_every=snapshot_every))
        return opened[-1]

    yield view
    for each in opened:
        each.abandon()


@pytest.fixture
def enrol(catalog, gallery, template):
    photos = itertools.count()

    def one(person):
        with catalog.write() as tx:
            return faces.add(tx, gallery.pk, person, [template(next(photos))], limit=50)

    return one


@pytest.fixture
def forget(catalog, gallery):
    def one(person):
        with catalog.write() as tx:
            return forgetting.forget(tx, gallery.pk, person)

    return one


class Watched:
    """Calls `before` with the verb before an index is added to or kept."""

    def __init__(self, inner, before):
        self.inner, self.before = inner, before

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __len__(self):
        return len(self.inner)

    def of(self, owner, newest):
        return Watched(self.inner.of(owner, newest), self.before)

    def add(self, rows, embeddings):
        self.before("add")
        self.inner.add(rows, embeddings)

    def keep(self, revision):
        self.before("keep")
        self.inner.keep(revision)


def shows(view, people):
    """Whether a view holds exactly these people with these vectors."""
    rows = np.array(list(people), np.int64)
    vectors = np.array([np.frombuffer(each, np.float32) for each in people.values()]).reshape(-1, 16)
    return len(view) == len(people) and all(
        np.allclose(view.score(vector[None], rows[place : place + 1]), 1, atol=1e-6)
        for place, vector in enumerate(vectors)
    )


@pytest.fixture
def truth(catalog, gallery):
    """Tells what the catalog holds."""

    def now():
        with catalog.read() as reading:
            return {
                row: vector.tobytes()
                for rows, vectors in changes.fused_vectors(reading, gallery.pk)
                for row, vector in zip(rows.tolist(), vectors, strict=True)
            }

    return now


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_view_opens_with_all_that_the_catalog_holds(enrol, open_view, truth):
    for number in range(5):
        enrol(f"p{number}")
    view = open_view()
    assert (len(view), view.revision) == (5, 5)
    assert shows(view, truth())


def test_what_is_caught_up_with_is_found_and_what_left_is_not(enrol, forget, open_view, truth):
    view = open_view()
    added = enrol("anna")
    assert view.catch_up(added.revision) == 1
    probe = np.frombuffer(truth()[added.person.pk], np.float32)[None]
    assert view.search(probe, 1).rows.tolist() == [[added.person.pk]]
    np.testing.assert_allclose(view.score(probe, np.array([added.person.pk])), 1, atol=1e-6)
    view.catch_up(forget("anna").receipt.revision)
    assert view.search(probe, 1).rows.tolist() == [[-1]]


def test_a_person_with_a_new_face_has_a_new_vector(enrol, open_view, truth):
    enrol("anna")
    view = open_view()
    before = truth()
    enrol("anna")
    view.catch_up()
    assert shows(view, truth())
    assert not shows(view, before)


def test_a_revision_that_is_shown_asks_nothing_of_the_catalog(catalog, gallery, enrol, open_view):
    enrol("anna")
    view = open_view()
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
    assert view.catch_up(1) == 1
    with pytest.raises(GalleryNotFoundError):
        view.catch_up(2)


def test_a_revision_that_does_not_exist_is_told(enrol, open_view):
    enrol("anna")
    with pytest.raises(RevisionError, match="before 2"):
        open_view().catch_up(2)


def test_a_gallery_that_is_gone_is_told(catalog, gallery, open_view):
    view = open_view()
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
    with pytest.raises(GalleryNotFoundError):
        view.catch_up()


def test_closing_writes_a_snapshot_that_the_next_start_uses(enrol, open_view, truth):
    enrol("anna")
    view = open_view()
    view.close()
    enrol("bert")
    made = []
    again = open_view(before=made.append)
    assert made == ["add"]
    assert shows(again, truth())


def test_closing_without_a_change_writes_nothing(enrol, open_view, path):
    enrol("anna")
    open_view().close()
    before = path.stat().st_mtime_ns, path.stat().st_ino
    open_view().close()
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_replaying_onto_a_snapshot_gives_what_a_rebuild_gives(enrol, forget, open_view, path, truth):
    for number in range(10):
        enrol(f"p{number}")
    open_view().close()
    for number in range(0, 10, 2):
        enrol(f"p{number}")
    for number in range(5):
        forget(f"p{number}")
    enrol("p0")
    replayed = open_view()
    replayed.abandon()
    path.unlink()
    assert shows(replayed, truth())
    assert shows(open_view(), truth())


@pytest.fixture
def ten(enrol, truth):
    """Ten people; what the catalog holds of them."""
    for number in range(10):
        enrol(f"p{number}")
    return truth()


@pytest.mark.parametrize("spoil", [lambda c: c[:-9], lambda c: c[:200] + b"\xff" + c[201:], lambda c: b""])
def test_a_damaged_snapshot_is_told_and_replaced(open_view, ten, path, caplog, spoil):
    open_view().close()
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    with caplog.at_level(logging.WARNING):
        view = open_view()
    assert "rebuilt from the catalog" in caplog.text
    assert len(view) == 10
    assert shows(view, ten)
    until(lambda: len(path.read_bytes()) == len(good))
    view.close()
    caplog.clear()
    open_view()
    assert caplog.text == ""


def test_a_snapshot_of_another_catalog_is_not_used(enrol, open_view, path, tmp_path, caplog):
    enrol("anna")
    open_view().close()
    other = Catalog.open(tmp_path / "other.sqlite", secret=b"s", fuse=fuse)
    with other.write() as tx:
        pk = galleries.create(tx, "staff", model="sface", model_digest="d1", dim=16).pk
        galleries.update(tx, pk, {"fpir": 0.5})
    view = GalleryView(other, pk, LocalIndexes(path.parent), snapshot_every=1000)
    view.abandon()
    other.close()
    assert len(view) == 0
    assert "another catalog" in caplog.text


def test_a_snapshot_of_a_later_history_is_not_used(catalog, gallery, enrol, open_view, caplog):
    enrol("anna")
    open_view().close()
    with catalog.write() as tx:
        tx.connection.exec_driver_sql("UPDATE galleries SET revision = 0")
        tx.connection.exec_driver_sql("DELETE FROM people")
    assert len(open_view()) == 0
    assert "revision 1" in caplog.text


def test_a_snapshot_is_written_every_so_many_revisions(enrol, open_view, path):
    view = open_view(snapshot_every=3)
    enrol("first")
    view.catch_up()
    until(path.exists)
    written = path.stat().st_ino
    until(lambda: view._keeper is None)
    for number in range(2):
        enrol(f"p{number}")
        view.catch_up()
    assert view._keeper is None
    enrol("p3")
    view.catch_up()
    until(lambda: path.stat().st_ino != written)


def test_a_forgotten_person_leaves_the_snapshot_soon(enrol, forget, open_view, path, truth):
    anna = enrol("anna").person
    enrol("bert")
    view = open_view()
    until(lambda: path.exists() and view._keeper is None)
    vector = truth()[anna.pk]
    assert vector in path.read_bytes()
    forget("anna")
    view.catch_up()
    until(lambda: vector not in path.read_bytes())


def test_a_snapshot_that_cannot_be_replaced_goes_with_the_person_it_holds(enrol, forget, open_view, path, caplog):
    enrol("anna")
    open_view().close()
    view = open_view()
    forget("anna")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
    try:
        view.catch_up()
        until(lambda: not path.exists())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    until(lambda: "no snapshot of gallery" in caplog.text)
    view.close()
    assert path.exists()


def test_a_write_that_goes_on_holds_up_no_search(enrol, open_view, unit):
    enrol("anna")
    reached, go_on = threading.Event(), threading.Event()

    def slowly(verb):
        if verb == "keep":
            reached.set()
            assert go_on.wait(10)

    view = open_view(before=slowly)
    assert reached.wait(10)
    assert (view.search(unit(1), 1).rows != -1).all()
    enrol("bert")
    assert view.catch_up() == 2
    go_on.set()


def test_enrolling_threads_find_their_own_people_at_once(catalog, gallery, open_view, unit, truth):
    view = open_view(snapshot_every=5)
    stop, faults = threading.Event(), []

    def work(thread):
        for number in range(15):
            seed = 1000 * thread + number
            vector = unit(1, seed)
            new = faces.NewTemplate(f"{seed:064x}", vector[0], 0.7, (0, 0, 1, 1))
            with catalog.write() as tx:
                added = faces.add(tx, gallery.pk, f"t{thread}-{number}", [new], limit=5)
            view.catch_up(added.revision)
            if view.search(vector, 1).rows[0, 0] != added.person.pk:
                faults.append(seed)
            if number % 3 == 0:
                with catalog.write() as tx:
                    gone = forgetting.forget(tx, gallery.pk, f"t{thread}-{number}")
                view.catch_up(gone.receipt.revision)
                if view.search(vector, 1).rows[0, 0] == added.person.pk:
                    faults.append(-seed)

    def look():
        while not stop.is_set():
            view.search(unit(1), 3)
            time.sleep(0.001)  # a thread that never rests would keep the interpreter from the others

    looker = threading.Thread(target=look)
    looker.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    stop.set()
    looker.join()
    assert faults == []
    assert shows(view, truth())


def test_a_patch_moves_the_revision_and_no_vector(catalog, gallery, enrol, open_view, truth):
    enrol("anna")
    view = open_view()
    before = truth()
    with catalog.write() as tx:
        people.put(tx, gallery.pk, "anna", PersonFields(name="Anna"))
    assert view.catch_up() == 2
    assert shows(view, before)


def test_people_who_were_just_committed_are_shown_without_being_read_again(enrol, open_view, truth, monkeypatch):
    view = open_view()
    added = enrol("anna")
    monkeypatch.setattr(view, "_apply", lambda: pytest.fail("read again"))
    view.show(added.revision, np.array([added.person.pk]), added.fused[None])
    assert view.revision == 1
    assert shows(view, truth())


def test_what_was_missed_before_them_is_read(enrol, open_view, truth):
    view = open_view()
    enrol("anna")
    added = enrol("bert")
    view.show(added.revision, np.array([added.person.pk]), added.fused[None])
    assert view.revision == 2
    assert shows(view, truth())


def test_an_older_commit_that_is_shown_late_undoes_nothing(enrol, open_view, truth):
    view = open_view()
    first = enrol("anna")
    enrol("anna")
    view.catch_up()
    view.show(first.revision, np.array([first.person.pk]), first.fused[None])
    assert view.revision == 2
    assert shows(view, truth())


def test_what_was_committed_elsewhere_and_does_not_fit_is_refused_until_it_does(enrol, forget, open_view, truth):
    view = open_view()
    enrol("anna")
    view.catch_up()
    forget("anna")
    enrol("bert")
    means = view._index.inner._means
    view._index.inner._means = replace(means, memory=0)
    for _ in range(2):
        with pytest.raises(IndexMemoryError):
            view.catch_up()
    assert (view.revision, len(view)) == (1, 0)  # who is gone is gone at once
    with pytest.raises(IndexMemoryError):
        view.require_ready(0)
    view._index.inner._means = means
    view.catch_up()
    view.require_ready(0)
    assert shows(view, truth())


def test_a_gallery_that_does_not_fit_is_not_opened_and_leaves_nothing_behind(catalog, gallery, enrol, path):
    enrol("anna")
    indexes = LocalIndexes(path.parent, allowed=0)
    with pytest.raises(IndexMemoryError):
        GalleryView(catalog, gallery.pk, indexes, snapshot_every=1000)
    indexes.settle()
    assert not list(path.parent.glob("1.*"))
    indexes.close()
