import numpy as np
import pytest

from service.errors import (
    FaceNotFoundError,
    GalleryFullError,
    GalleryNotFoundError,
    InvalidEmbeddingError,
    PersonNotFoundError,
)
from service.gallery import faces, galleries, people
from service.gallery.records import PersonFields
from service.identify.fusion import fuse


@pytest.fixture
def add(catalog, gallery):
    def some(person, *templates, limit=5, **other):
        with catalog.write() as tx:
            return faces.add(tx, gallery.pk, person, templates, limit=limit, **other)

    return some


def stored(catalog, person):
    with catalog.read() as reading:
        return faces.of_person(reading, person.pk), faces.fused(reading, person.pk)


def test_templates_are_read_as_they_were_added(catalog, add, template):
    first, second = template(1, quality=0.4), template(2, box=(0, 0, 7, 8))
    added = add("anna", first, second)
    kept, _ = stored(catalog, added.person)
    assert [each.face for each in kept] == [outcome.face for outcome in added.outcomes]
    assert all(each.face.startswith("f_") and len(each.face) >= 18 for each in kept)
    for each, given in zip(kept, (first, second), strict=True):
        np.testing.assert_array_equal(each.embedding, given.embedding)
        assert (each.photo_digest, each.quality, each.box) == (given.photo_digest, given.quality, given.box)
        assert (each.person_pk, each.revision) == (added.person.pk, 1)


def test_an_absent_person_is_created_with_the_fields_given(add, template):
    added = add("anna", template(1), fields=PersonFields(name="Anna"))
    assert (added.created, added.person.name, added.person.faces, added.revision) == (True, "Anna", 1, 1)


def test_a_person_who_is_there_keeps_the_fields(add, template):
    add("anna", template(1), fields=PersonFields(name="Anna"))
    added = add("anna", template(2), fields=PersonFields(name="Other"))
    assert (added.created, added.person.name, added.person.faces, added.revision) == (False, "Anna", 2, 2)


def test_the_fused_vector_is_made_from_all_templates_and_their_quality(catalog, add, template):
    add("anna", template(1, quality=0.9))
    added = add("anna", template(2, quality=0.3), template(3, quality=0.5))
    kept, fused = stored(catalog, added.person)
    again = fuse(np.stack([each.embedding for each in kept]), np.array([0.9, 0.3, 0.5], dtype=np.float32))
    np.testing.assert_array_equal(fused, again)


def test_a_photo_that_the_person_has_is_told_and_not_added(catalog, add, template):
    first = add("anna", template(1))
    again = add("anna", template(2), template(1))
    assert [outcome.added for outcome in again.outcomes] == [True, False]
    assert again.outcomes[1].face == first.outcomes[0].face
    assert len(stored(catalog, again.person)[0]) == 2


def test_a_photo_given_twice_at_once_is_added_once(catalog, add, template):
    added = add("anna", template(1), template(1))
    assert [outcome.added for outcome in added.outcomes] == [True, False]
    assert added.outcomes[0].face == added.outcomes[1].face
    assert len(stored(catalog, added.person)[0]) == 1


def test_an_addition_without_anything_new_is_no_revision(add, template, revision):
    add("anna", template(1))
    again = add("anna", template(1))
    assert (again.revision, again.person.revision, revision()) == (1, 1, 1)


def test_an_addition_of_nothing_tells_the_gallerys_revision(add, template):
    add("anna", template(1))
    add("bert", template(2))
    assert add("anna", template(1)).revision == 2


def test_more_faces_than_the_limit_are_refused_as_a_whole(catalog, gallery, add, template, revision):
    add("anna", template(1), limit=2)
    with pytest.raises(GalleryFullError) as refused:
        add("anna", template(2), template(3), limit=2)
    assert refused.value.extra == {"limit": 2}
    assert revision() == 1
    assert add("anna", template(2), template(1), limit=2).person.faces == 2


def test_a_person_over_a_lowered_limit_may_still_repeat_a_photo(add, template):
    add("anna", template(1), template(2))
    assert not add("anna", template(1), limit=1).outcomes[0].added


@pytest.mark.parametrize(
    "bad",
    [np.zeros(16), np.full(16, np.nan), np.ones(16), np.eye(8)[0], np.eye(17)[0], np.float32(1)],
    ids=["zero", "nan", "long", "short-dimension", "large-dimension", "scalar"],
)
def test_an_embedding_that_does_not_fit_stores_nothing(catalog, gallery, add, template, bad):
    with pytest.raises(InvalidEmbeddingError):
        add("anna", template(1), template(2, embedding=np.asarray(bad, dtype=np.float32)))
    with catalog.read() as reading:
        assert galleries.by_pk(reading, gallery.pk).revision == 0
        assert people.find(reading, gallery.pk, "anna") is None


def test_a_face_in_no_gallery_is_refused(catalog, template):
    with pytest.raises(GalleryNotFoundError), catalog.write() as tx:
        faces.add(tx, 12, "anna", [template(1)], limit=5)


def test_removing_a_face_fuses_what_is_left(catalog, gallery, add, template):
    added = add("anna", template(1), template(2))
    with catalog.write() as tx:
        removed = faces.remove(tx, gallery.pk, "anna", added.outcomes[0].face)
    assert (removed.revision, removed.person.faces) == (2, 1)
    _, fused = stored(catalog, added.person)
    np.testing.assert_allclose(fused, template(2).embedding, atol=1e-6)


def test_a_person_whose_last_face_is_removed_stays_without_a_vector(catalog, gallery, add, template):
    added = add("anna", template(1))
    with catalog.write() as tx:
        faces.remove(tx, gallery.pk, "anna", added.outcomes[0].face)
    kept, fused = stored(catalog, added.person)
    assert (kept, fused) == ((), None)


def test_a_removed_photo_may_be_added_again(catalog, gallery, add, template):
    first = add("anna", template(1)).outcomes[0].face
    with catalog.write() as tx:
        faces.remove(tx, gallery.pk, "anna", first)
    again = add("anna", template(1)).outcomes[0]
    assert again.added
    assert again.face != first


def test_a_face_of_somebody_else_is_not_found(catalog, gallery, add, template, revision):
    theirs = add("bert", template(1)).outcomes[0].face
    add("anna", template(2))
    with pytest.raises(FaceNotFoundError), catalog.write() as tx:
        faces.remove(tx, gallery.pk, "anna", theirs)
    assert revision() == 2


def test_a_face_of_nobody_is_not_found(catalog, gallery):
    with pytest.raises(PersonNotFoundError), catalog.write() as tx:
        faces.remove(tx, gallery.pk, "anna", "f_0")
    with pytest.raises(PersonNotFoundError), catalog.read() as reading:
        faces.fused(reading, 12)


def test_everybody_with_the_same_photo_is_told(catalog, gallery, add, template):
    anna, bert = add("anna", template(1)), add("bert", template(2), template(1))
    with catalog.read() as reading:
        held = faces.holders(reading, gallery.pk, template(1).photo_digest)
        assert faces.holders(reading, gallery.pk + 1, template(1).photo_digest) == ()
    assert held == (faces.Holder("anna", anna.outcomes[0].face), faces.Holder("bert", bert.outcomes[1].face))
