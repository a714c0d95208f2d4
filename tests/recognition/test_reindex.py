import numpy as np
import pytest

from service.gallery import faces, galleries, reindexing
from service.gallery.catalog import Catalog
from service.gallery.records import NewTemplate
from service.identify.fusion import fuse
from service.recognition.reindex import compare, encode_pending
from service.vision.crops import pack

ANNA, BERT = (1, 0), (0, 1)
TWO = 2


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog.open(tmp_path / "catalog.sqlite", secret=b"s", fuse=fuse)
    yield opened
    opened.close()


def moving(catalog, in_use, other):
    """A gallery of two people with two faces each that moves: vectors of two numbers by either model, by face.

    The other model tells faces apart by their crops: that of face n is of the grey 10 n.
    """
    with catalog.write() as tx:
        gallery = galleries.create(tx, "staff", model="one", model_digest="d1", dim=TWO, keep_crops=True)
        for owner, person in enumerate(("anna", "bert")):
            numbers = range(2 * owner, 2 * owner + 2)
            templates = [
                NewTemplate(
                    str(n), np.array(in_use[n], np.float32), 1.0, {}, pack(np.full((112, 112, 3), 10 * n, np.uint8))
                )
                for n in numbers
            ]
            faces.add(tx, gallery.pk, person, templates, limit=9)
        reindexing.begin(tx, gallery.pk, reindexing.Model("two", "d2", TWO))
    encode_pending(
        catalog, gallery.pk, lambda crops: np.array([other[round(each.mean() / 10)] for each in crops], np.float32)
    )
    return gallery.pk


@pytest.mark.parametrize(
    ("in_use", "other", "expected"),
    [
        ([ANNA, ANNA, BERT, BERT], [ANNA, BERT, ANNA, BERT], (1.0, 0.0, 0.0)),
        ([ANNA, BERT, ANNA, BERT], [ANNA, ANNA, BERT, BERT], (0.0, 1.0, 0.0)),
        ([ANNA, ANNA, BERT, BERT], [ANNA, ANNA, BERT, BERT], (1.0, 1.0, 1.0)),
    ],
)
def test_each_models_share_is_of_its_own_vectors(catalog, in_use, other, expected):
    found = compare(catalog, moving(catalog, in_use, other))
    assert (found.people, found.faces) == (2, 4)
    assert (found.in_use, found.other, found.both) == expected
