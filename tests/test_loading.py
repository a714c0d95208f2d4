"""Engines that are loaded while others are at work: the same that would be loaded after them."""

import json
import shutil

import pytest

from service.errors import ModelMissingError
from service.loading import load_ahead, load_models
from service.settings import Settings


@pytest.fixture
def settings(tmp_path, models, monkeypatch):
    """Makes settings over the default models and a data folder of its own."""
    for name in ("VULTUS_ENGINE", "VULTUS_DATA"):
        monkeypatch.delenv(name, raising=False)
    return lambda **other: Settings(**{"data": tmp_path, "models": models.folder, "threads": 1} | other)


def test_an_engine_that_is_told_is_loaded_once(settings):
    given = settings(engine="onnxruntime")
    ahead = load_ahead(given)
    recognition, detection = load_models(given, ahead)
    assert recognition.chosen is ahead.result()["sface"]
    assert (recognition.chosen.engine.name, recognition.chosen.reason) == ("onnxruntime", "told")
    assert (recognition.manifest.name, detection.manifest.name) == ("sface", "yunet")


def test_nothing_is_measured_ahead_and_what_was_measured_is_loaded_ahead_the_next_time(settings, tmp_path):
    given = settings(engine="onnxruntime")
    assert list(load_ahead(given).result()) == ["sface"]
    assert not (tmp_path / "engines.json").exists()
    _, measured = load_models(given)
    assert measured.chosen.reason == "fastest"
    assert list(json.loads((tmp_path / "engines.json").read_text()).values()) == [measured.chosen.engine.name]
    ahead = load_ahead(given).result()
    assert ahead["yunet"].engine.name == measured.chosen.engine.name
    assert ahead["yunet"].reason == "remembered"


def test_what_cannot_be_loaded_ahead_is_told_where_it_is_asked_for(settings, models, tmp_path):
    for name in ("sface", "yunet"):
        (tmp_path / "bare" / name).mkdir(parents=True)
        shutil.copy(models.folder / name / "manifest.json", tmp_path / "bare" / name)
    given = settings(engine="onnxruntime", models=tmp_path / "bare")
    ahead = load_ahead(given)
    assert ahead.result() == {}
    with pytest.raises(ModelMissingError):
        load_models(given, ahead)
