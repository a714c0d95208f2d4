import numpy as np
import pytest

from service.artifact.manifest import Sample
from service.artifact.store import ModelStore, decode_sample, encode_sample
from service.errors import ModelMissingError
from service.settings import CHECKOUT
from service.vision.survey import survey


@pytest.fixture(scope="module")
def store():
    return ModelStore(CHECKOUT / "models")


def test_the_reference_reproduces_the_sample_of_the_default_model(store):
    found = {each.engine: each for each in survey(store, store.manifest("yunet"), streams=1)}
    assert found["reference"].parity == pytest.approx(1, abs=1e-6)


def test_every_engine_of_this_machine_is_right_or_absent(store):
    assert [each for each in survey(store, store.manifest("yunet"), streams=1) if each.wrong] == []


def test_an_engine_that_the_machine_lacks_is_absent_and_not_wrong(store):
    found = {each.engine: each for each in survey(store, store.manifest("yunet"), streams=1)}
    cuda = found["cuda"]
    assert cuda.absent or cuda.fault is None


def test_an_engine_that_gives_other_embeddings_than_the_manifest_states_is_wrong(store):
    manifest = store.manifest("sface")
    stated = decode_sample(manifest.sample.embeddings, manifest.dim)
    other = Sample(crops="synthetic-1", embeddings=encode_sample(np.roll(stated, 1, axis=1)))
    found = survey(store, manifest.model_copy(update={"sample": other}), streams=1)
    assert found[0].wrong
    assert "cosine" in found[0].fault


def test_a_model_without_its_file_cannot_be_surveyed(store, tmp_path):
    with pytest.raises(ModelMissingError):
        survey(ModelStore(tmp_path), store.manifest("yunet"), streams=1)
