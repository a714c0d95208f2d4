import pytest

from service.errors import FpirNotSupportedError, PersonWithoutFaceError
from service.recognition.verify import verify_person, verify_photos
from tests.faces import orl_photo


def test_a_photo_is_the_same_as_itself(call):
    done = call(lambda product: verify_photos(product, orl_photo(1, 1), orl_photo(1, 1)))
    assert done.same
    assert done.similarity == pytest.approx(1, abs=1e-5)
    assert -1 <= done.similarity <= 1


def test_the_largest_face_is_the_one_that_is_compared(call, gallery):
    gallery.enrolled("anna", orl_photo(1, 1))
    done = call(lambda product: verify_person(product, gallery.name, "anna", orl_photo(1, 2)))
    assert done.same
    assert len(done.faces) == 1


def test_a_rate_that_cannot_be_vouched_for_is_refused_before_any_photo_is_read(call):
    with pytest.raises(FpirNotSupportedError):
        call(lambda product: verify_photos(product, b"no photo", b"no photo", fmr=1e-12))


def test_a_person_without_a_face_is_told_before_the_photo_is_read(service, call, gallery):
    service.put(f"{gallery.people}/anna", json={})
    with pytest.raises(PersonWithoutFaceError):
        call(lambda product: verify_person(product, gallery.name, "anna", b"no photo"))
