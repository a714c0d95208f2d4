import numpy as np
import pytest

from service.errors import GalleryNotFoundError
from service.gallery import changes, faces, forgetting, galleries, people
from service.gallery.records import PersonFields


@pytest.fixture
def since(catalog, gallery):
    def step(revision, **other):
        with catalog.read() as reading:
            return changes.since(reading, gallery.pk, revision, **other)

    return step


@pytest.fixture
def busy(catalog, gallery, template):
    """Thirty transactions of all kinds; returns the rows and vectors that are right in the end."""
    draw = np.random.default_rng(5)
    for number in range(30):
        person = f"p{draw.integers(8)}"
        with catalog.write() as tx:
            if draw.random() < 0.2 and people.find(tx, gallery.pk, person):
                forgetting.forget(tx, gallery.pk, person)
            elif draw.random() < 0.2:
                people.put(tx, gallery.pk, person, PersonFields(name="x"))
            else:
                faces.add(tx, gallery.pk, person, [template(number)], limit=50)
                faces.add(tx, gallery.pk, f"q{number % 5}", [template(number)], limit=50)
    with catalog.read() as reading:
        found = people.page(reading, gallery.pk).items
        return {each.pk: faces.fused(reading, each.pk).tobytes() for each in found if each.faces}


def apply(state, step):
    return {
        row: vector
        for row, vector in (
            state | {r: v.tobytes() for r, v in zip(step.rows.tolist(), step.embeddings, strict=True)}
        ).items()
        if row not in step.removed.tolist()
    }


def follow(since, state, revision, limit):
    while True:
        step = since(revision, limit=limit)
        state, revision = apply(state, step), step.revision
        if revision == step.head:
            return state


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_following_from_the_start_gives_the_gallery(since, busy, limit):
    assert follow(since, {}, 0, limit) == busy


@pytest.mark.parametrize("start", [0, 3, 10, 29])
def test_steps_applied_again_change_nothing(since, busy, start):
    assert follow(since, busy, start, 2) == busy


def test_no_row_is_changed_and_removed_in_one_step(since, busy):
    step = since(0)
    assert not set(step.rows.tolist()) & set(step.removed.tolist())


def test_a_step_never_splits_a_revision(catalog, gallery, since, template):
    with catalog.write() as tx:
        for number in range(5):
            faces.add(tx, gallery.pk, f"p{number}", [template(number)], limit=5)
    step = since(0, limit=2)
    assert (len(step.rows), step.revision, step.head) == (5, 1, 1)


def test_a_step_of_limited_size_reaches_the_revision_it_fills(catalog, gallery, since, template):
    for number in range(5):
        with catalog.write() as tx:
            faces.add(tx, gallery.pk, f"p{number}", [template(number)], limit=5)
    step = since(1, limit=2)
    assert (len(step.rows), step.revision, step.head) == (2, 3, 5)


def test_a_change_without_rows_still_reaches_its_revision(catalog, gallery, since):
    with catalog.write() as tx:
        galleries.update(tx, gallery.pk, {"fpir": 0.5})
    step = since(0)
    assert (step.revision, step.rows.size, step.removed.size, step.embeddings.shape) == (1, 0, 0, (0, 16))


def test_a_person_without_a_face_is_removed(catalog, gallery, since, template):
    with catalog.write() as tx:
        added = faces.add(tx, gallery.pk, "anna", [template(1)], limit=5)
    with catalog.write() as tx:
        faces.remove(tx, gallery.pk, "anna", added.outcomes[0].face)
    assert since(1).removed.tolist() == [added.person.pk]


def test_a_forgotten_person_is_removed(catalog, gallery, since, template):
    with catalog.write() as tx:
        faces.add(tx, gallery.pk, "anna", [template(1)], limit=5)
    with catalog.write() as tx:
        left = forgetting.forget(tx, gallery.pk, "anna").person_pk
    assert since(0).removed.tolist() == since(1).removed.tolist() == [left]
    assert since(2).removed.size == 0


def test_other_galleries_do_not_show(catalog, gallery, since, template):
    with catalog.write() as tx:
        other = galleries.create(tx, "guests", model="sface", model_digest="d1", dim=16)
        faces.add(tx, other.pk, "bert", [template(1)], limit=5)
        forgetting.forget(tx, other.pk, "bert")
    step = since(0)
    assert (step.revision, step.rows.size, step.removed.size) == (0, 0, 0)


def test_changes_of_no_gallery_are_refused(catalog):
    with pytest.raises(GalleryNotFoundError), catalog.read() as reading:
        changes.since(reading, 12, 0)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_all_vectors_come_in_chunks(catalog, gallery, busy, chunk):
    with catalog.read() as reading:
        parts = list(changes.fused_vectors(reading, gallery.pk, chunk=chunk))
    assert all(1 <= len(rows) <= chunk and vectors.shape == (len(rows), 16) for rows, vectors in parts)
    rows = [row for part, _ in parts for row in part.tolist()]
    assert dict(zip(rows, (v.tobytes() for _, part in parts for v in part), strict=True)) == busy
