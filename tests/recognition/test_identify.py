import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.errors import InvalidEmbeddingError, NoFaceError
from service.gallery import faces, forgetting, galleries, people
from service.gallery.records import NewTemplate, PersonFields
from service.recognition.identify import EXPIRED_MARGIN, identify
from tests.faces import saved, scene


def near(cosine, seed):
    """A unit vector at this cosine to the first axis."""
    other = np.random.default_rng(seed).standard_normal(128)
    other[0] = 0
    vector = np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)
    vector[0] = cosine
    return vector.astype(np.float32)


PROBE = near(1.0, 0)


@pytest.fixture
def put(service, gallery):
    """Puts a person with one face at a cosine to the probe."""

    def enrolled(person, cosine, *, seconds=None):
        expires = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        with service.product.catalog.write() as tx:
            pk = galleries.get(tx, gallery.name).pk
            people.put(tx, pk, person, PersonFields(expires_at=expires))
            digest = hashlib.sha256(person.encode()).digest()
            template = NewTemplate(digest.hex(), near(cosine, digest[0]), 0.5, (0, 0, 0, 0))
            faces.add(tx, pk, person, [template], limit=5)
        service.product.views.of(pk).catch_up()

    return enrolled


def test_candidates_come_by_similarity(call, gallery, put):
    for person, cosine in (("b", 0.5), ("a", 0.8), ("c", 0.1)):
        put(person, cosine)
    (face,) = call(lambda product: identify(product, gallery.name, None, PROBE)).faces
    assert [candidate.person for candidate in face.candidates] == ["a", "b", "c"]
    assert [candidate.similarity for candidate in face.candidates] == pytest.approx([0.8, 0.5, 0.1], abs=1e-5)


def test_the_expired_do_not_push_out_those_who_are_not(call, gallery, put):
    for number in range(EXPIRED_MARGIN):
        put(f"gone{number}", 0.99, seconds=-1)
    put("here", 0.8, seconds=3600)
    (face,) = call(lambda product: identify(product, gallery.name, None, PROBE, top=1)).faces
    assert (face.person, [candidate.person for candidate in face.candidates]) == ("here", ["here"])


def test_who_was_forgotten_since_the_index_was_read_is_not_answered(call, gallery, put):
    put("gone", 0.99)
    put("here", 0.8)

    class Stale:
        """A view that still shows the moment before, and the views that hold it."""

        def __init__(self, view):
            self.revision, self._count, self._matches = view.revision, len(view), view.search(PROBE[None], 10)

        def __len__(self):
            return self._count

        def search(self, _probes, _k):
            return self._matches

        def of(self, _gallery_pk):
            return self

    async def behind(product):
        record, view = product.gallery(gallery.name)
        stale = Stale(view)
        with product.catalog.write() as tx:
            forgetting.forget(tx, record.pk, "gone")
        return await identify(dataclasses.replace(product, views=stale), gallery.name, None, PROBE)

    (face,) = call(behind).faces
    assert face.person == "here"


def test_an_embedding_of_another_dimension_is_refused(call, gallery):
    with pytest.raises(InvalidEmbeddingError):
        call(lambda product: identify(product, gallery.name, None, np.eye(64, dtype=np.float32)[0]))


def test_a_photo_without_a_face_is_told(call, gallery):
    with pytest.raises(NoFaceError):
        call(lambda product: identify(product, gallery.name, saved(scene(), "PNG")))
