"""From a checkpoint to an artifact that the service's own code takes."""

import dataclasses

import numpy as np
import pytest

from service.artifact.manifest import Licence
from service.artifact.store import ModelStore
from service.errors import ModelExistsError
from service.vision.survey import survey
from tests.training.photos import people_folder
from training.config import load
from training.embed import of_network, of_onnx
from training.errors import CheckpointError, ParityError
from training.export import Parity, check, export, parity
from training.records import PackedPairs
from training.restore import restore
from training.train import train

LICENCE = Licence(spdx="Apache-2.0", commercial=True, source="https://example.org")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run that kept a running average."""
    folder = tmp_path_factory.mktemp("run")
    people = people_folder(folder / "people", people=2, each=2)
    wanted = ["data.workers=0", "network.dim=16", "run.batch=4", "run.epochs=10", "run.device=cpu"]
    train(load(None, [f"data.train=['{people}']", f"run.folder={folder}", "optimiser.average=0.9", *wanted]))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    store = ModelStore(tmp_path_factory.mktemp("models"))
    photos = [path.read_bytes() for path in sorted((run / "people").glob("*/*.jpg"))]
    pairs = PackedPairs([photos[i] for i in (0, 1, 0, 2, 2, 3, 1, 3)], np.array([True, False, True, False]))
    return store, export(run, store, name="small", licence=LICENCE, commit="abc", pairs=pairs)


def test_an_exported_model_is_right_in_every_engine_of_the_service(exported):
    store, manifest = exported
    assert [each.name for each in survey(store, manifest, streams=1) if each.wrong] == []


def test_the_file_does_what_the_network_does_with_any_number_of_crops(exported, run):
    store, manifest = exported
    network, file = of_network(restore(run).network), of_onnx(store.file(manifest))
    for count in (1, 3, 64):
        crops = np.random.default_rng(count).integers(0, 256, (count, 112, 112, 3), np.uint8)
        np.testing.assert_allclose(file(crops), network(crops), atol=1e-4)


def test_the_manifest_says_how_the_model_was_made_and_measured(exported):
    _, manifest = exported
    assert manifest.dim == 16
    assert manifest.provenance.data == "people: 2 people"
    assert manifest.provenance.recipe.startswith("mobilefacenet, arcface")
    assert manifest.measured["parity_cosine"] > 0.9999
    assert "verification_accuracy" in manifest.measured
    assert manifest.sample is not None


def test_a_card_lies_beside_the_manifest(exported):
    store, manifest = exported
    card = (store.folder / "small" / "card.md").read_text()
    assert card.startswith(f"# small {manifest.version}")
    assert manifest.file.sha256 in card
    assert "not yet: `vultus calibrate`" in card


def test_a_name_that_is_taken_is_refused(exported, run):
    store, manifest = exported
    with pytest.raises(ModelExistsError):
        export(run, store, name="small", licence=LICENCE, commit="abc")
    assert store.manifest("small") == manifest


@pytest.mark.parametrize("fault", [{"difference": 2e-4}, {"cosine": 0.9998}, {"loss": 0.2}, {"cosine": float("nan")}])
def test_the_gate_closes_on_each_fault(fault):
    right = Parity(difference=1e-6, cosine=1.0, accuracy=90.0, loss=0.0)
    check(right)
    with pytest.raises(ParityError, match="differs by"):
        check(dataclasses.replace(right, **fault))


def test_another_network_does_not_pass_for_the_trained_one(exported, run):
    store, manifest = exported
    other = restore(run).network
    other.backbone.stem[0].weight.data.mul_(1.5)
    other.backbone.stem[1].running_mean.add_(0.5)
    found = parity(of_network(other), of_onnx(store.file(manifest)))
    with pytest.raises(ParityError):
        check(found)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore(tmp_path)
