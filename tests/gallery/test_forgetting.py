import pytest

from service.errors import NotFoundError, PersonNotFoundError
from service.gallery import faces, forgetting, people


@pytest.fixture
def forgotten(catalog, gallery, template):
    with catalog.write() as tx:
        faces.add(tx, gallery.pk, "anna", [template(1), template(2)], limit=5)
        faces.add(tx, gallery.pk, "bert", [template(1)], limit=5)
    with catalog.write() as tx:
        return forgetting.forget(tx, gallery.pk, "anna")


def test_nothing_of_the_person_is_left_and_others_stay(catalog, gallery, forgotten):
    with catalog.read() as reading:
        assert people.find(reading, gallery.pk, "anna") is None
        assert faces.of_person(reading, forgotten.person_pk) == ()
        assert people.get(reading, gallery.pk, "bert").faces == 1


def test_the_receipt_tells_when_where_and_how_much(gallery, forgotten, revision):
    receipt = forgotten.receipt
    assert (receipt.gallery_pk, receipt.gallery, receipt.faces) == (gallery.pk, "staff", 2)
    assert receipt.revision == revision() == 2


def test_a_receipt_can_be_read_again(catalog, forgotten):
    with catalog.read() as reading:
        assert forgetting.receipt_of(reading, forgotten.receipt.receipt) == forgotten.receipt


def test_who_knows_the_id_can_check_the_receipt(catalog, gallery, forgotten):
    assert forgotten.receipt.person_hash == catalog.person_hash(gallery.pk, "anna")
    assert forgotten.receipt.person_hash != catalog.person_hash(gallery.pk, "bert")


def test_the_id_is_in_no_table_any_more(catalog, gallery, template, everything):
    with catalog.write() as tx:
        faces.add(tx, gallery.pk, "zacharias-1815", [template(1)], limit=5)
    with catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, "zacharias-1815")
    assert "staff" in everything()
    assert "zacharias" not in everything()


def test_nobody_is_forgotten_twice(catalog, gallery, forgotten):
    with pytest.raises(PersonNotFoundError), catalog.write() as tx:
        forgetting.forget(tx, gallery.pk, "anna")


def test_an_unknown_receipt_is_not_found(catalog):
    with pytest.raises(NotFoundError), catalog.read() as reading:
        forgetting.receipt_of(reading, "r_0")
