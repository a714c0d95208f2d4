"""A visitor who is photographed again: the looks share the rate, and each compares the mean of all photos so far."""

import json

import numpy as np
import pytest

from service.gallery import faces, galleries, people
from service.identify.decision import threshold
from service.identify.fusion import fuse
from tests.conftest import as_files, assert_problem
from tests.faces import orl_photo


@pytest.fixture
def anna(gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    return gallery


def again(gallery, photo, answer, **fields):
    context = json.dumps({"claims": {"answer": answer} | fields})
    return gallery.service.post(f"{gallery.path}/identify", files=as_files(photo), data={"context": context})


def test_two_looks_share_the_rate(service, anna):
    (face,) = anna.identify(orl_photo(2, 1), fpir=0.004, looks=2).json()["faces"]
    assert face["decision"] == "unknown"
    assert face["threshold"] == threshold(service.product.calibration, 1, 0.002, insist=True).similarity
    assert face["fpir"] == pytest.approx(0.004)


def test_a_further_photo_is_compared_together_with_those_before(service, anna):
    photos = [orl_photo(2, 1), orl_photo(2, 2)]
    (first,) = anna.identify(photos[0], looks=2).json()["faces"]
    (second,) = again(anna, photos[1], first["answer"]).json()["faces"]

    async def seen():
        shown = [(await service.product.reader.see(photo)).faces[0] for photo in photos]
        return await service.product.reader.encode([face.crop for face in shown]), [f.quality.score for f in shown]

    probes, quality = service.portal.call(seen)
    with service.product.catalog.read() as reading:
        pk = galleries.get(reading, anna.name).pk
        template = faces.fused(reading, people.get(reading, pk, "anna").pk)
    mean = fuse(np.stack(probes), np.array(quality))
    assert second["similarity"] == pytest.approx(float(mean @ template), abs=1e-5)
    assert second["threshold"] == first["threshold"]


def test_whoever_is_known_after_all_is_found(anna):
    (first,) = anna.identify(orl_photo(2, 1), looks=3).json()["faces"]
    (second,) = again(anna, orl_photo(1, 2), first["answer"]).json()["faces"]
    assert second["similarity"] > first["similarity"]
    assert (second["decision"], second["person"], "answer" in second) == ("match", "anna", False)


def test_no_look_is_left_after_the_last(anna):
    (first,) = anna.identify(orl_photo(2, 1), looks=2).json()["faces"]
    (second,) = again(anna, orl_photo(2, 2), first["answer"]).json()["faces"]
    assert "answer" not in second
    (alone,) = anna.identify(orl_photo(2, 1)).json()["faces"]
    assert "answer" not in alone


def test_looks_that_were_not_shared_out_are_refused(anna):
    (first,) = anna.identify(orl_photo(2, 1), looks=2, context='{"device": "gate"}').json()["faces"]
    assert again(anna, orl_photo(2, 2), first["answer"]).status_code == 200
    # The same answer twice would be a third photo of two.
    assert_problem(again(anna, orl_photo(2, 3), first["answer"]), 404, "answer_not_found")
    assert_problem(again(anna, orl_photo(2, 2), "a_0"), 404, "answer_not_found")


@pytest.mark.parametrize("looks", [0, 6, "many"])
def test_a_number_of_looks_that_cannot_be_is_refused(anna, looks):
    assert_problem(anna.identify(orl_photo(2, 1), looks=looks), 422, "invalid_request")


def test_a_photo_and_digits_at_once_are_refused(anna):
    (first,) = anna.identify(orl_photo(2, 1), looks=2).json()["faces"]
    assert_problem(again(anna, orl_photo(2, 2), first["answer"], digits="1234"), 422, "invalid_request")
