"""Many faces at once: the same as one after the other, on either database."""

import numpy as np
import pytest
from sqlalchemy import select

from service.errors import GalleryNotFoundError, InvalidEmbeddingError
from service.gallery import bulk, changes, faces, forgetting, galleries, people
from service.gallery.bulk import Addition, Newcomers, Owner, Refusal
from service.gallery.records import PersonFields
from service.gallery.schema import refusals
from service.gallery.sqlite import AT_ONCE

ODD = 'Zoë\\ "quoted"\ttab\nline\r\\N'


@pytest.fixture
def add(catalog, gallery):
    """Adds templates in bulk, as (person, template) or (person, template, fields)."""

    def some(*rows):
        with catalog.write() as tx:
            record = galleries.by_pk(tx, gallery.pk)
            owners = bulk.read(tx, gallery.pk, {row[0] for row in rows}, record.dim)
            given = []
            for number, (person, template, *fields) in enumerate(rows):
                owner = owners.setdefault(person, Owner())
                owner.photos[template.photo_digest] = f"f_{person}{number}"
                owner.embeddings.append(template.embedding)
                owner.quality.append(template.quality)
                face = f"f_{person}_{template.photo_digest[:12]}"
                given.append(Addition(person, face, template, fields[0] if fields else PersonFields()))
            return bulk.add(tx, record, owners, given)

    return some


def everything(catalog, gallery_pk):
    with catalog.read() as reading:
        return {
            each.person: (
                each.faces,
                each.revision,
                [(t.photo_digest, t.embedding.tobytes(), t.quality, t.box) for t in faces.of_person(reading, each.pk)],
                faces.fused(reading, each.pk).tobytes(),
            )
            for each in people.page(reading, gallery_pk).items
        }


def test_what_is_added_in_bulk_is_what_single_additions_would_have_left(catalog, gallery, add, template):
    rows = [("anna", template(1, 0.4)), ("bert", template(2, 0.9)), ("anna", template(3, 0.8)), ("carl", template(4))]
    add(*rows[:2])
    add(*rows[2:])
    with catalog.write() as tx:
        other = galleries.create(tx, "other", model="sface", model_digest="d1", dim=16)
    for part in (rows[:2], rows[2:]):
        with catalog.write() as tx:
            for person, each in part:
                faces.add(tx, other.pk, person, [each], limit=5)
    assert everything(catalog, gallery.pk) == everything(catalog, other.pk)


def test_newcomers_are_written_as_those_who_are_added_one_by_one(catalog, gallery, add, template):
    first, *rest = given = [template(1, 0.4), template(2, 0.9), template(3)]
    names, fields = ["anna", "bert", "carl"], [PersonFields(name=name) for name in ("A", ODD, "C")]
    columns = zip(*((each.photo_digest, each.embedding, each.quality, each.box) for each in rest), strict=True)
    digests, embeddings, quality, boxes = map(list, columns)
    with catalog.write() as tx:
        owners = {"anna": Owner(None, {first.photo_digest: "f_a"}, [first.embedding], [first.quality])}
        newcomers = Newcomers(names[1:], fields[1:], ["f_b", "f_c"], digests, embeddings, quality, boxes)
        record = galleries.by_pk(tx, gallery.pk)
        added = bulk.add(tx, record, owners, [Addition("anna", "f_a", first, fields[0])], newcomers)
        other = galleries.create(tx, "other", model="sface", model_digest="d1", dim=16)
    with catalog.write() as tx:
        for person, each, said in zip(names, given, fields, strict=True):
            people.create(tx, other.pk, person, said)
            faces.add(tx, other.pk, person, [each], limit=5)
    assert everything(catalog, gallery.pk) == everything(catalog, other.pk)
    with catalog.read() as reading:
        found = [people.get(reading, gallery.pk, person) for person in names]
        assert [each.name for each in found] == ["A", ODD, "C"]
        shown = {pk: vector.tobytes() for pk, vector in zip(added.rows.tolist(), added.embeddings, strict=True)}
        assert shown == {each.pk: faces.fused(reading, each.pk).tobytes() for each in found}


def test_one_transaction_is_one_revision_and_an_index_can_follow(catalog, gallery, add, template):
    assert add(("anna", template(1)), ("bert", template(2))).revision == 1
    assert add(("anna", template(3))).revision == 2
    with catalog.read() as reading:
        step = changes.since(reading, gallery.pk, 1)
        assert (step.revision, step.head, len(step.rows), len(step.removed)) == (2, 2, 1, 0)


def test_nothing_given_is_no_revision(add):
    assert add() is None


def test_fields_are_kept_whatever_characters_they_hold(catalog, gallery, add, template):
    fields = PersonFields(name=ODD, attributes={"note": ODD, "list": [1, None, {"a": True}]})
    add(("anna", template(1), fields), ("bert", template(2)), ("anna", template(3), PersonFields(name="too late")))
    with catalog.read() as reading:
        anna, bert = (people.get(reading, gallery.pk, person) for person in ("anna", "bert"))
    assert (anna.name, anna.attributes, anna.consent, anna.expires_at) == (ODD, fields.attributes, None, None)
    assert (bert.name, bert.attributes) == (None, {})


def test_an_embedding_that_is_none_keeps_nothing(catalog, gallery, add, template):
    with pytest.raises(InvalidEmbeddingError):
        add(("anna", template(1)), ("bert", template(2, embedding=np.zeros(16, np.float32))))
    assert everything(catalog, gallery.pk) == {}


def test_a_gallery_that_is_gone_is_told(catalog, gallery, template):
    owner = Owner(None, {}, [template(1).embedding], [0.5])
    given = [Addition("anna", "f_1", template(1), PersonFields())]
    with catalog.write() as tx:
        galleries.delete(tx, gallery.pk)
    with pytest.raises(GalleryNotFoundError), catalog.write() as tx:
        bulk.add(tx, gallery, {"anna": owner}, given)


def test_who_has_which_photo_and_who_has_enough_is_told_for_many_at_once(catalog, gallery, add, template):
    add(("anna", template(1)), ("anna", template(2)), ("bert", template(1)))
    digest = template(1).photo_digest
    with catalog.read() as reading:
        assert set(bulk.enrolled(reading, gallery.pk, [digest, "0" * 64])) == {(digest, "anna"), (digest, "bert")}
        assert bulk.full(reading, gallery.pk, ["anna", "bert", "carl"], 2) == {"anna"}
        assert bulk.keys_of(reading, gallery.pk, ["bert", "carl"]).keys() == {"bert"}


class TestOfRefusals:
    def test_the_last_refusal_of_a_photo_counts_and_only_under_its_rule(self, catalog, gallery):
        with catalog.write() as tx:
            bulk.remember(tx, gallery.pk, [Refusal("d", "", "r", "no_face", "no_face", "none")])
            bulk.remember(tx, gallery.pk, [Refusal("d", "", "s", "low_quality", "low_quality", "blurred")])
        with catalog.read() as reading:
            assert bulk.refused(reading, gallery.pk, ["d"], "r") == {}
            assert bulk.refused(reading, gallery.pk, ["d"], "s")["d", ""].outcome == "low_quality"

    def test_they_leave_with_whom_they_speak_of(self, catalog, gallery, add, template):
        add(("anna", template(1)), ("bert", template(2)))
        with catalog.write() as tx:
            rival = bulk.keys_of(tx, gallery.pk, ["anna"])["anna"]
            like_anna = Refusal("d", "bert", "r", "another_person", "resembles_another", "like anna", rival, 0.7)
            of_anna = Refusal("e", "anna", "r", "another_person", "resembles_another", "like bert", None, 0.7)
            bulk.remember(tx, gallery.pk, [like_anna, of_anna])
            forgetting.forget(tx, gallery.pk, "anna")
        with catalog.read() as reading:
            assert reading.connection.execute(select(refusals)).all() == []


def test_more_newcomers_than_a_statement_takes_are_all_kept_in_their_order(catalog, gallery, template):
    count, one = 2 * AT_ONCE + 3, template(1)
    people_, made = [f"p{number}" for number in range(count)], [f"f_{number}" for number in range(count)]
    digests, quality = [f"{number:064x}" for number in range(count)], [number / count for number in range(count)]
    with catalog.write() as tx:
        record = galleries.by_pk(tx, gallery.pk)
        vectors = [one.embedding] * count
        newcomers = Newcomers(people_, [PersonFields()] * count, made, digests, vectors, quality, [one.box] * count)
        bulk.add(tx, record, {}, [], newcomers)
    with catalog.read() as reading:
        kept = bulk.read(reading, gallery.pk, people_, gallery.dim)
    assert {person: (owner.photos, owner.quality) for person, owner in kept.items()} == {
        person: ({digest: face}, [seen])
        for person, face, digest, seen in zip(people_, made, digests, quality, strict=True)
    }
