import asyncio
import dataclasses

import pytest

from service.errors import GalleryModelError, ModelError, NoFaceError
from service.identify.calibration import Calibration
from service.recognition.known import KnownGalleries
from service.recognition.product import calibration_of, largest
from service.vision.see import SeenPhoto


def test_the_calibration_is_the_manifests(models):
    manifest = models.manifest("sface")
    given = calibration_of(manifest)
    assert isinstance(given, Calibration)
    assert dataclasses.asdict(given) == manifest.calibration.model_dump(exclude={"data", "date", "people"})


def test_the_committed_calibration_keeps_its_promises(models):
    given = calibration_of(models.manifest("sface"))
    assert list(given.fmr) == sorted(given.fmr, reverse=True)
    assert list(given.thresholds) == sorted(given.thresholds)
    assert list(given.fnmr) == sorted(given.fnmr)
    assert given.fmr[-1] == pytest.approx(given.least_fmr)
    assert given.least_fmr == pytest.approx(3 / given.impostor_pairs)


def test_a_model_without_a_calibration_says_how_to_make_one(models):
    manifest = models.manifest("sface").model_copy(update={"calibration": None})
    with pytest.raises(ModelError, match="vultus calibrate sface"):
        calibration_of(manifest)


def test_a_photo_without_faces_has_no_largest_one():
    with pytest.raises(NoFaceError):
        largest(SeenPhoto("0" * 64, 100, 100, ()))


def test_vectors_of_two_models_are_never_compared(service, gallery):
    product = service.product
    next_model = product.model.model_copy(update={"version": "next"})
    other = dataclasses.replace(product, model=next_model, known=KnownGalleries())
    asyncio.run(product.gallery(gallery.name))
    with pytest.raises(GalleryModelError) as refusal:
        asyncio.run(other.gallery(gallery.name))
    assert refusal.value.extra == {"bound_to": product.model.digest, "loaded": other.model.digest}
