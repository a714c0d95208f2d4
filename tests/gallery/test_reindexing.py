import io

import numpy as np
import pytest
from sqlalchemy import select

from service.errors import GalleryModelError, ReindexingError, WithoutCropsError
from service.gallery import changes, faces, forgetting, galleries, people, reindexing, schema
from service.gallery.embeddings import from_bytes
from service.gallery.index.indexes import LocalIndexes
from service.gallery.reindexing import Model
from service.gallery.views import Views
from service.identify.fusion import fuse

OLD, NEW = Model("sface", "d1", 16), Model("second", "d2", 8)


@pytest.fixture
def gallery(catalog):
    """A gallery that keeps crops."""
    with catalog.write() as tx:
        return galleries.create(tx, "staff", model=OLD.name, model_digest=OLD.digest, dim=OLD.dim, keep_crops=True)


@pytest.fixture
def enroll(catalog, gallery, template):
    """Enrols photos of somebody; the crop of photo number n is its number."""

    def add(person, *numbers, crop=True):
        given = [template(number, crop=b"%d" % number if crop else None) for number in numbers]
        with catalog.write() as tx:
            return faces.add(tx, gallery.pk, person, given, limit=9)

    return add


def encoded(crops, unit):
    """The second model: a vector of its own for each crop."""
    return np.stack([unit(1, 1000 + int(crop), NEW.dim)[0] for crop in crops])


@pytest.fixture
def prepare(catalog, gallery, unit):
    """Does all that is to be done before a switch."""

    def work(model=NEW):
        with catalog.write() as tx:
            reindexing.begin(tx, gallery.pk, model)
            found = reindexing.pending(tx, gallery.pk, limit=1000)
            if found:
                vectors = encoded([crop for _, crop in found], unit)
                reindexing.keep(tx, gallery.pk, [pk for pk, _ in found], vectors)
            reindexing.fuse(tx, gallery.pk, reindexing.unfused(tx, gallery.pk, limit=1000))

    return work


@pytest.fixture
def switch(catalog, gallery):
    def work(**options):
        with catalog.write() as tx:
            return reindexing.switch(tx, gallery.pk, **options)

    return work


def shown(catalog, gallery):
    """Everybody's templates and vector, as they are searched."""
    with catalog.read() as reading:
        dim = galleries.by_pk(reading, gallery.pk).dim
        vectors = {}
        for rows, embeddings in changes.fused_vectors(reading, gallery.pk):
            vectors |= dict(zip(rows.tolist(), embeddings, strict=True))
        found = {}
        for each in people.page(reading, gallery.pk).items:
            rows = reading.connection.execute(
                select(schema.templates.c.embedding).where(schema.templates.c.person_pk == each.pk).order_by("pk")
            )
            kept = from_bytes(rows.scalars(), dim)
            assert len(kept) == each.faces
            found[each.person] = (kept.tolist(), None if each.pk not in vectors else vectors[each.pk].tolist())
        return found


def test_a_switch_gives_everybody_the_other_models_vectors(catalog, gallery, enroll, prepare, switch, unit):
    enroll("anna", 1, 2)
    enroll("bernd", 3)
    prepare()
    switch()
    new = {number: unit(1, 1000 + number, NEW.dim)[0] for number in (1, 2, 3)}
    quality = np.array([0.7, 0.7], np.float32)
    both = fuse(np.stack([new[1], new[2]]), quality)
    found = shown(catalog, gallery)
    assert found["anna"][0] == [new[1].tolist(), new[2].tolist()]
    np.testing.assert_allclose(found["anna"][1], both, atol=1e-6)
    np.testing.assert_allclose(found["bernd"][1], new[3], atol=1e-6)
    with catalog.read() as reading:
        now = galleries.by_pk(reading, gallery.pk)
    assert (now.model, now.model_digest, now.dim, now.revision) == ("second", "d2", 8, 3)


def test_a_second_switch_brings_back_what_there_was(catalog, gallery, enroll, prepare, switch):
    enroll("anna", 1, 2)
    enroll("bernd", 3)
    before = shown(catalog, gallery)
    prepare()
    switch()
    switch()
    assert shown(catalog, gallery) == before
    with catalog.read() as reading:
        assert galleries.by_pk(reading, gallery.pk).model_digest == OLD.digest


def test_whoever_is_enrolled_in_between_moves_too(catalog, gallery, enroll, prepare, switch):
    enroll("anna", 1, 2)
    prepare()
    enroll("anna", 4)
    enroll("bernd", 3)
    with pytest.raises(ReindexingError, match="2 faces"):
        switch()
    prepare()
    switch()
    assert {person: len(kept) for person, (kept, _) in shown(catalog, gallery).items()} == {"anna": 3, "bernd": 1}


def test_whoever_was_enrolled_after_the_switch_needs_the_old_model_for_the_way_back(
    catalog, gallery, enroll, prepare, switch, unit
):
    enroll("anna", 1)
    prepare()
    switch()
    with catalog.write() as tx:
        found = galleries.by_pk(tx, gallery.pk)
        given = faces.NewTemplate("e" * 64, unit(1, 5, NEW.dim)[0], 0.5, (0, 0, 1, 1), b"5")
        faces.add_to(tx, found, "bernd", [given], limit=9)
    with pytest.raises(ReindexingError, match=r"1 faces .* sface"):
        switch()
    with catalog.write() as tx:
        ((pk, crop),) = reindexing.pending(tx, gallery.pk, limit=9)
        assert crop == b"5"
        reindexing.keep(tx, gallery.pk, [pk], unit(1, 6))
        reindexing.fuse(tx, gallery.pk, reindexing.unfused(tx, gallery.pk, limit=9))
    switch()
    assert shown(catalog, gallery)["bernd"][0] == unit(1, 6).tolist()


class TestFacesWithoutACrop:
    @pytest.fixture(autouse=True)
    def some(self, enroll, prepare):
        enroll("anna", 1, 2)
        enroll("anna", 3, crop=False)
        enroll("bernd", 4, crop=False)
        prepare()

    def test_they_are_counted(self, catalog, gallery):
        with catalog.read() as reading:
            found = reindexing.progress(reading, gallery.pk)
        assert (found.faces, found.encoded, found.without, found.people_without) == (4, 2, 2, 1)
        assert (found.pending, found.unfused) == (0, 0)

    def test_they_block_the_switch(self, catalog, gallery, switch, everything):
        before = everything()
        with pytest.raises(WithoutCropsError, match=r"2 faces have no crop, and 1 people no other face \(bernd\)"):
            switch()
        assert everything() == before

    def test_told_to_they_are_set_aside_and_come_back(self, catalog, gallery, switch):
        before = shown(catalog, gallery)
        switch(leave_out=True)
        found = shown(catalog, gallery)
        assert {person: len(kept) for person, (kept, _) in found.items()} == {"anna": 2, "bernd": 0}
        assert found["bernd"][1] is None
        switch(leave_out=True)
        again = shown(catalog, gallery)
        assert {person: kept for person, (kept, _) in again.items()} == {
            person: kept for person, (kept, _) in before.items()
        }
        for person in before:
            np.testing.assert_allclose(again[person][1], before[person][1], atol=1e-6)

    def test_a_photo_that_was_enrolled_again_meanwhile_does_not_stand_in_the_way(
        self, catalog, gallery, switch, unit, template
    ):
        switch(leave_out=True)
        with catalog.write() as tx:
            found = galleries.by_pk(tx, gallery.pk)
            again = template(4, embedding=unit(1, 7, NEW.dim)[0], crop=b"4")
            faces.add_to(tx, found, "bernd", [again], limit=9)
            ((pk, _),) = reindexing.pending(tx, gallery.pk, limit=9)
            reindexing.keep(tx, gallery.pk, [pk], unit(1, 4))
            reindexing.fuse(tx, gallery.pk, reindexing.unfused(tx, gallery.pk, limit=9))
        switch(leave_out=True)
        assert shown(catalog, gallery)["bernd"][0] == unit(1, 4).tolist()

    def test_forgetting_a_person_forgets_them(self, catalog, gallery, switch):
        switch(leave_out=True)
        with catalog.write() as tx:
            for person in ("anna", "bernd"):
                forgetting.forget(tx, gallery.pk, person)
        assert left(catalog) == dict.fromkeys(PRIVATE, 0)

    def test_deleting_the_gallery_deletes_them(self, catalog, gallery, switch):
        switch(leave_out=True)
        with catalog.write() as tx:
            galleries.delete(tx, gallery.pk)
        assert left(catalog) == dict.fromkeys(PRIVATE, 0)


PRIVATE = ("templates", "crops", "versions", "fusions", "set_aside")


def left(catalog):
    with catalog.read() as reading:
        return {name: len(reading.connection.execute(select(schema.metadata.tables[name])).all()) for name in PRIVATE}


def test_forgetting_a_person_forgets_crops_and_both_models_vectors(catalog, gallery, enroll, prepare):
    enroll("anna", 1, 2)
    prepare()
    assert left(catalog) == {"templates": 2, "crops": 2, "versions": 4, "fusions": 2, "set_aside": 0}
    with catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, "anna")
    assert left(catalog) == dict.fromkeys(PRIVATE, 0)


def test_removing_a_face_removes_its_crop_and_both_models_vectors(catalog, gallery, enroll, prepare, switch):
    face = enroll("anna", 1, 2).outcomes[0].face
    prepare()
    with catalog.write() as tx:
        faces.remove(tx, gallery.pk, "anna", face)
    assert left(catalog) == {"templates": 1, "crops": 1, "versions": 2, "fusions": 2, "set_aside": 0}
    with pytest.raises(ReindexingError, match="1 people"):
        switch()


def test_a_gallery_that_keeps_no_crops_keeps_none(catalog, gallery, enroll):
    with catalog.write() as tx:
        galleries.update(tx, gallery.pk, {"keep_crops": False})
    enroll("anna", 1)
    assert left(catalog)["crops"] == 0


def test_crops_are_deleted_when_they_are_no_longer_kept(catalog, gallery, enroll):
    enroll("anna", 1)
    with catalog.write() as tx:
        galleries.update(tx, gallery.pk, {"keep_crops": False})
    assert left(catalog)["crops"] == 0


def test_an_end_leaves_the_gallery_as_it_is_and_nothing_of_the_other_model(catalog, gallery, enroll, prepare, switch):
    enroll("anna", 1)
    prepare()
    switch()
    found = shown(catalog, gallery)
    with catalog.write() as tx:
        reindexing.end(tx, gallery.pk)
    assert shown(catalog, gallery) == found
    assert left(catalog) == {"templates": 1, "crops": 1, "versions": 0, "fusions": 0, "set_aside": 0}
    with pytest.raises(ReindexingError):
        switch()


def test_a_move_to_the_gallerys_own_model_or_to_a_third_one_is_refused(catalog, gallery, prepare):
    with catalog.write() as tx, pytest.raises(ReindexingError, match="already"):
        reindexing.begin(tx, gallery.pk, OLD)
    prepare()
    with catalog.write() as tx, pytest.raises(ReindexingError, match="ended first"):
        reindexing.begin(tx, gallery.pk, Model("third", "d3", 8))


def test_an_index_of_the_old_model_never_takes_vectors_of_the_new_one(
    catalog, gallery, enroll, prepare, switch, tmp_path
):
    views = Views(catalog, LocalIndexes(tmp_path), snapshot_every=1000)
    enroll("anna", 1)
    old = views.of(gallery.pk)
    prepare()
    switch()
    with pytest.raises(GalleryModelError, match="second"):
        old.catch_up()
    views.drop(gallery.pk)
    assert len(views.of(gallery.pk)) == 1
    views.close()


def test_a_move_under_way_is_in_a_backup(catalog, gallery, enroll, prepare):
    from service.gallery import backup

    enroll("anna", 1, 2)
    prepare()
    file = io.BytesIO()
    rows = backup.write(catalog, file).rows
    assert (rows["crops"], rows["versions"], rows["reindexings"]) == (2, 4, 1)
