"""Enrolment below HTTP: what is committed together, what happens beside it, and what a failure leaves."""

import asyncio
import dataclasses

import numpy as np
import pytest

from service.errors import EngineError, GalleryNotFoundError, NothingEnrolledError, OverloadedError
from service.gallery import galleries, people
from service.recognition.enroll import ReadyEmbedding, enroll
from service.recognition.identify import identify
from tests.faces import orl_photo


class Refusing:
    """A reader that sees what another sees and cannot encode."""

    def __init__(self, reader, error):
        self._reader, self._error = reader, error

    async def see(self, *given):
        return await self._reader.see(*given)

    async def encode(self, _crops):
        raise self._error


def test_the_answer_is_remembered_in_the_transaction_of_the_faces(call, gallery):
    remembered = []

    def remember(tx, enrolment):
        found = people.get(tx, galleries.get(tx, gallery.name).pk, "anna")
        remembered.append((enrolment, found.faces))

    done = call(lambda product: enroll(product, gallery.name, "anna", [orl_photo(1, 1)], remember=remember))
    assert remembered == [(done, 1)]


def test_an_answer_that_cannot_be_remembered_leaves_no_face(call, gallery):
    def remember(*_):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        call(lambda product: enroll(product, gallery.name, "anna", [orl_photo(1, 1)], remember=remember))
    assert gallery.state() == (0, 0, 0)
    assert gallery.whose(orl_photo(1, 1)) is None


@pytest.mark.parametrize("error", [EngineError("out of order"), OverloadedError("full")], ids=["engine", "queue"])
def test_an_encoding_that_fails_leaves_nothing(call, gallery, error):
    def broken(product):
        unable = dataclasses.replace(product, reader=Refusing(product.reader, error))
        return enroll(unable, gallery.name, "anna", [orl_photo(1, 1), orl_photo(1, 2)])

    with pytest.raises(type(error)):
        call(broken)
    assert gallery.state() == (0, 0, 0)
    gallery.enrolled("anna", orl_photo(1, 1))


def test_people_enrolled_at_once_are_all_there(call, gallery):
    async def all_at_once(product):
        return await asyncio.gather(
            *(enroll(product, gallery.name, f"p{person}", [orl_photo(person, 1)]) for person in range(1, 13))
        )

    done = call(all_at_once)
    revisions = {enrolment.revision for enrolment in done}
    assert revisions == set(range(1, len(revisions) + 1))
    assert gallery.state() == (len(revisions), 12, 12)
    assert [gallery.whose(orl_photo(person, 1)) for person in range(1, 13)] == [f"p{person}" for person in range(1, 13)]


def test_photos_of_one_person_enrolled_at_once_are_all_kept(call, gallery):
    async def all_at_once(product):
        return await asyncio.gather(
            *(enroll(product, gallery.name, "anna", [orl_photo(1, number)]) for number in range(1, 7))
        )

    call(all_at_once)
    assert gallery.state()[1:] == (1, 6)


def test_one_photo_enrolled_twice_at_once_is_kept_once(call, gallery):
    async def twice(product):
        both = (enroll(product, gallery.name, "anna", [orl_photo(1, 1)]) for _ in range(2))
        return await asyncio.gather(*both, return_exceptions=True)

    outcomes = call(twice)
    assert sorted(isinstance(outcome, NothingEnrolledError) for outcome in outcomes) == [False, True]
    assert gallery.state() == (1, 1, 1)


def test_a_gallery_that_is_deleted_meanwhile_takes_nobody(service, call, gallery):
    async def deleted_meanwhile(product):
        reading = asyncio.create_task(enroll(product, gallery.name, "anna", [orl_photo(1, 1)]))
        await asyncio.sleep(0)
        await service.client.delete(gallery.path)
        return await asyncio.gather(reading, return_exceptions=True)

    (outcome,) = call(deleted_meanwhile)
    assert isinstance(outcome, GalleryNotFoundError) or outcome.enrolled
    assert service.get(gallery.path).status_code == 404
    assert service.get("/health/ready").status_code == 200


def test_an_embedding_is_kept_as_it_was_given(call, gallery):
    vector = np.zeros(128, np.float32)
    vector[3] = 1

    async def there_and_back(product):
        done = await enroll(product, gallery.name, "anna", [], [ReadyEmbedding(vector, 0.8)])
        return done, await identify(product, gallery.name, None, vector)

    done, found = call(there_and_back)
    (kept,) = done.enrolled
    assert (kept.photo, kept.box, kept.quality) == (0, None, 0.8)
    assert found.faces[0].person == "anna"
    assert found.faces[0].similarity == pytest.approx(1)


def test_photos_and_embeddings_are_numbered_together(call, gallery):
    vector = np.eye(128, dtype=np.float32)[0]
    photos, ready = [orl_photo(1, 1), b""], [ReadyEmbedding(vector, 0.8), ReadyEmbedding(vector, 0.8)]
    done = call(lambda product: enroll(product, gallery.name, "anna", photos, ready))
    assert [kept.photo for kept in done.enrolled] == [0, 2]
    assert [(refused.photo, refused.code) for refused in done.refused] == [(1, "photo_empty"), (3, "duplicate_photo")]
