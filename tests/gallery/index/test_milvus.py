"""Galleries in Milvus: on Milvus Lite, and on a real server, where its habits would show."""

import itertools
import time

import numpy as np
import pytest

from service.errors import IndexUnavailableError, InvalidEmbeddingError
from service.gallery import faces, galleries, marks
from service.gallery.catalog import Catalog
from service.gallery.changes import since
from service.gallery.forgetting import forget
from service.gallery.index.milvus import CHUNK, MOST_MATCHES, MilvusIndexes
from service.gallery.index.milvus_server import MilvusServer
from service.gallery.index.protocol import NEVER, NOBODY, Owner
from service.gallery.view import GalleryView
from service.identify.fusion import fuse

DIM = 16
NAMES = (f"gallery-{number}" for number in itertools.count())


@pytest.fixture(scope="module", params=["lite", "server"])
def uri(request, tmp_path_factory):
    if request.param == "lite":
        return str(tmp_path_factory.mktemp("lite") / "milvus.db")
    return request.getfixturevalue("milvus").uri


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    catalog = Catalog.open(tmp_path_factory.mktemp("milvus") / "catalog.sqlite", secret=b"s" * 32, fuse=fuse)
    yield catalog
    catalog.close()


@pytest.fixture(scope="module")
def server(uri):
    server = MilvusServer(uri, "")
    yield server
    server.close()


@pytest.fixture(scope="module")
def indexes(server, catalog):
    return MilvusIndexes(server, catalog)


def owner_of(catalog, gallery):
    return Owner(catalog.id, gallery.pk, gallery.model_digest, gallery.dim)


@pytest.fixture
def owner(catalog):
    """A new gallery."""
    with catalog.write() as tx:
        return owner_of(catalog, galleries.create(tx, next(NAMES), model="sface", model_digest="sha256:d1", dim=DIM))


@pytest.fixture
def index(indexes, owner):
    return indexes.of(owner, newest=0)


@pytest.fixture
def filled(index, unit):
    index.add(np.arange(20), unit(20))
    return index


def rows(*numbers):
    return np.array(numbers, dtype=np.int64)


def test_the_nearest_come_first_with_their_cosines(filled, unit):
    people, probes = unit(20), unit(3, seed=9)
    matches = filled.search(probes, 5)
    cosines = probes @ people.T
    np.testing.assert_array_equal(matches.rows, np.argsort(-cosines, axis=1)[:, :5])
    np.testing.assert_allclose(matches.scores, -np.sort(-cosines, axis=1)[:, :5], atol=1e-6)
    assert (matches.rows.dtype, matches.scores.dtype) == (np.int64, np.float32)


def test_who_does_not_count_is_passed_over(filled, unit):
    probes = unit(3, seed=9)
    ranked = np.argsort(-(probes @ unit(20).T), axis=1)
    gone = ranked[0, :4]
    found = filled.search(probes, 5, without=np.append(gone, 10**6)).rows
    for line, order in zip(found, ranked, strict=True):
        assert line.tolist() == [row for row in order.tolist() if row not in gone][:5]
    assert (filled.search(probes, 5, without=np.arange(20)).rows == NOBODY).all()


def test_what_a_search_costs_is_measured(filled, unit):
    before = filled.scan_share
    filled.search(unit(1), 5)
    assert filled.scan_share != before


@pytest.mark.parametrize("k", [0, 1, 20, 25])
def test_any_number_of_neighbours_has_its_shape(filled, unit, k):
    matches = filled.search(unit(2, seed=9), k)
    assert matches.rows.shape == matches.scores.shape == (2, k)
    np.testing.assert_array_equal(matches.rows[:, 20:], NOBODY)
    assert (matches.rows[:, :20] != NOBODY).all()
    assert filled.search(unit(0), k).rows.shape == (0, k)


def test_more_matches_than_the_server_gives_are_refused_and_not_cut_short(filled, unit):
    filled._count = MOST_MATCHES + 1  # as if so many people were there; to enrol them takes a minute
    with pytest.raises(ValueError, match="at most"):
        filled.search(unit(1), MOST_MATCHES + 1)


def test_an_empty_index_finds_nobody(index, unit):
    assert (index.search(unit(2), 3).rows == NOBODY).all()
    assert np.isnan(index.score(unit(2), rows(1))).all()
    assert len(index) == 0


def test_a_row_that_is_added_again_is_replaced(filled, unit):
    new = unit(1, seed=77)
    filled.add(rows(3), new)
    assert filled.search(new, 1).rows[0, 0] == 3
    assert filled.score(new, rows(3))[0, 0] == pytest.approx(1, abs=1e-6)
    found = filled.search(unit(20)[[3]], 20)
    assert sorted(found.rows[0]) == list(range(20))
    assert len(filled) == 20


def test_of_a_row_given_twice_the_last_counts(index, unit):
    index.add(rows(7, 7), unit(2))
    assert len(index) == 1
    assert index.score(unit(2), rows(7))[1, 0] == pytest.approx(1, abs=1e-6)


def test_who_is_removed_is_found_by_no_later_search(filled, unit):
    assert filled.remove(rows(3, 4, 99)) == 2
    assert not np.isin(filled.search(unit(20)[[3, 4]], 20).rows, [3, 4]).any()
    assert np.isnan(filled.score(unit(1), rows(3))).all()
    assert len(filled) == 18
    assert filled.remove(np.arange(20)) == 18
    assert (filled.search(unit(2), 3).rows == NOBODY).all()


def test_scores_are_exact_for_any_rows(filled, unit):
    probes = unit(3, seed=5)
    asked = rows(19, 0, 7, 7, 1234)
    scores = filled.score(probes, asked)
    np.testing.assert_allclose(scores[:, :4], probes @ unit(20)[[19, 0, 7, 7]].T, atol=1e-6)
    assert np.isnan(scores[:, 4]).all()


@pytest.mark.parametrize("fault", ["dimension", "nan", "length"])
def test_embeddings_that_are_none_are_refused_and_nothing_is_added(index, unit, fault):
    bad = unit(2, dim=DIM + 1) if fault == "dimension" else unit(2)
    if fault == "nan":
        bad[1, 0] = np.nan
    if fault == "length":
        bad[1] *= 2
    with pytest.raises(InvalidEmbeddingError):
        index.add(rows(0, 1), bad)
    assert len(index) == 0


def test_galleries_share_a_collection_and_see_nothing_of_each_other(filled, indexes, catalog, unit):
    with catalog.write() as tx:
        other = galleries.create(tx, next(NAMES), model="sface", model_digest="sha256:d1", dim=DIM)
    second = indexes.of(owner_of(catalog, other), newest=0)
    second.add(rows(500), unit(1))
    assert filled.search(unit(1), 1).rows[0, 0] == 0
    assert second.search(unit(1), 2).rows.tolist() == [[500, NOBODY]]
    indexes.drop(other.pk)
    assert len(indexes.of(owner_of(catalog, other), newest=0)) == 0
    assert len(filled) == 20


def test_what_is_kept_is_found_by_the_next_process(filled, indexes, server, catalog, owner, unit):
    assert filled.kept == NEVER
    filled.keep(12)
    again = MilvusIndexes(server, catalog).of(owner, newest=12)
    assert (again.kept, len(again)) == (12, 20)
    assert again.search(unit(20)[[5]], 1).rows[0, 0] == 5


def test_a_mark_never_goes_back(filled, catalog, owner):
    filled.keep(12)
    filled.keep(7)
    with catalog.read() as reading:
        assert marks.of(reading, owner.gallery_pk, filled._collection.place) == 12


def test_vectors_that_no_mark_vouches_for_are_cleared(filled, server, catalog, owner):
    with catalog.write() as tx:
        tx.connection.exec_driver_sql("DELETE FROM marks")
    again = MilvusIndexes(server, catalog).of(owner, newest=3)
    assert (again.kept, len(again)) == (NEVER, 0)


def test_galleries_that_are_gone_are_swept_out(filled, indexes, owner, catalog, unit):
    with catalog.write() as tx:
        galleries.delete(tx, owner.gallery_pk)
    with catalog.read() as reading:
        indexes.sweep(set(galleries.every_pk(reading)))
    assert filled._counted() == 0


def test_hard_mates_are_found_as_an_exact_scan_finds_them(index):
    """Mates of a cosine of 0.35 to 0.5: the ones that graph and cell indexes lose."""
    rng = np.random.default_rng(3)

    def units(n):
        drawn = rng.standard_normal((n, DIM)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    people = units(2 * CHUNK + 5)
    index.add(np.arange(len(people)), people)
    mates, noise = people[:64], units(64)
    noise -= np.sum(noise * mates, axis=1, keepdims=True) * mates
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    cosines = np.linspace(0.35, 0.5, 64, dtype=np.float32)[:, None]
    probes = cosines * mates + np.sqrt(1 - cosines**2) * noise
    exact = np.argsort(-(probes @ people.T), axis=1)[:, :10]
    client, name = index._collection._server._client, index._collection.name
    assert told_index(client, name) == ("FLAT", "IP")
    np.testing.assert_array_equal(index.search(probes, 10).rows, exact)
    # What was added is looked through as it came; a collection that is flushed seals it, and goes by its index.
    client.flush(name, timeout=60)
    assert told_index(client, name) == ("FLAT", "IP")
    assert rows_indexed(client, name) >= len(people)
    np.testing.assert_array_equal(index.search(probes, 10).rows, exact)


def told_index(client, name):
    """The type and the metric of a collection's index, as the server reports them."""
    told = client.describe_index(name, index_name="embedding")
    return told["index_type"], told["metric_type"]


def rows_indexed(client, name):
    """How many rows are sealed and indexed, once the server has come so far."""
    deadline = time.monotonic() + 60
    while True:
        told = client.describe_index(name, index_name="embedding")
        if int(told.get("pending_index_rows", 0)) == 0 and int(told["total_rows"]) > 0:
            return int(told["indexed_rows"])
        assert time.monotonic() < deadline, told
        time.sleep(0.2)


def test_a_view_follows_its_gallery_and_goes_on_from_its_mark(indexes, catalog, owner, template, unit):
    with catalog.write() as tx:
        faces.add(tx, owner.gallery_pk, "anna", [template(1)], limit=9)
        faces.add(tx, owner.gallery_pk, "bernd", [template(2)], limit=9)
    view = GalleryView(catalog, owner.gallery_pk, indexes, snapshot_every=1000)
    assert len(view) == 2
    view.close()
    with catalog.write() as tx:
        forget(tx, owner.gallery_pk, "anna")
    again = GalleryView(catalog, owner.gallery_pk, indexes, snapshot_every=1000)
    assert len(again) == 1
    assert again.search(unit(1, 2), 1).scores[0, 0] == pytest.approx(1, abs=1e-5)


def test_a_process_that_lags_behind_brings_nobody_back(server, postgres_catalog, template, unit):
    catalog, _ = postgres_catalog
    with catalog.write() as tx:
        gallery = galleries.create(tx, next(NAMES), model="sface", model_digest="sha256:d1", dim=DIM)
        faces.add(tx, gallery.pk, "anna", [template(1)], limit=9)
        faces.add(tx, gallery.pk, "bernd", [template(2)], limit=9)
    with catalog.read() as reading:
        before = since(reading, gallery.pk, 0)
    one, other = (MilvusIndexes(server, catalog).of(owner_of(catalog, gallery), newest=1) for _ in range(2))
    with catalog.write() as tx:
        forget(tx, gallery.pk, "anna")
        faces.add(tx, gallery.pk, "bernd", [template(3)], limit=9)
    one.add(before.rows, before.embeddings)
    one.keep(2)
    other.add(before.rows, before.embeddings)
    assert len(other) == 1
    matches = other.search(unit(1, 1), 2)
    assert matches.rows.tolist() == [[before.rows[1], NOBODY]]
    fused = fuse(np.vstack([unit(1, 2), unit(1, 3)]), np.array([0.7, 0.7], np.float32))
    assert other.score(fused[None], before.rows[1:])[0, 0] == pytest.approx(1, abs=1e-5)


def test_a_server_that_is_not_there_is_said_to_be():
    with pytest.raises(IndexUnavailableError) as caught:
        MilvusServer("http://127.0.0.1:9", "")
    assert caught.value.retry_after
