"""A running service measured by the code that measures networks and files."""

import json

import numpy as np
import pytest

from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from tests.cli.running import serving, vultus
from tests.faces import orl_photo
from tests.training.photos import jpeg
from training.embed import embed, of_onnx
from training.errors import EvaluationError
from training.evaluate import main, open_model
from training.records import PackedPairs, write_bin


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service with keys, and a key that may embed."""
    data = tmp_path_factory.mktemp("service") / "data"
    made = vultus("keys", "create", "--label", "evaluation", "--scope", "embed", data=data)
    assert made.returncode == 0, made.stderr
    with serving(data, min_quality=0, threads=1) as running:
        yield running.url, made.stdout.strip()


def test_a_service_s_vectors_are_those_of_its_model(served):
    url, key = served
    photos = [orl_photo(person, photo) for person in (1, 2, 3) for photo in (1, 2)]
    vectors = open_model(url, key=key)(photos)
    assert vectors.shape == (6, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    mates = [vectors[i] @ vectors[i + 1] for i in (0, 2, 4)]
    others = vectors[::2] @ vectors[::2].T - np.eye(3)
    assert min(mates) > others.max() + 0.1


def test_the_command_measures_a_service_and_says_which_photos_it_saw_no_face_in(served, tmp_path, capsys, monkeypatch):
    url, key = served
    photos, same = [], []
    for person in range(1, 11):
        photos += [orl_photo(person, 1), orl_photo(person, 2), orl_photo(person, 3), orl_photo(person + 20, 1)]
        same += [True, False]
    photos[3] = jpeg(1)  # a photo without a face, in a pair of two people
    write_bin(tmp_path / "orl.bin", PackedPairs(photos, np.array(same)))
    monkeypatch.setenv("VULTUS_KEY", key)
    assert main([url, "--pairs", str(tmp_path / "orl.bin")]) == 0
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert figures[0]["figure"] == "accuracy"
    assert figures[0]["value"] >= 95
    assert figures[-1] == {
        "set": "orl",
        "figure": "photos_without_embedding",
        "value": 1,
        "reasons": {"no_face": 1},
    }


def test_a_service_and_its_file_tell_the_same_people_apart(served):
    url, key = served
    store = ModelStore(CHECKOUT / "models")
    file = of_onnx(store.file(store.manifest("sface")), threads=1)
    photos = [orl_photo(person, 1) for person in range(1, 9)]
    remote, local = open_model(url, key=key)(photos), embed(file, photos)
    assert ((remote @ remote.T).argmax(axis=1) == (local @ local.T).argmax(axis=1)).all()


def test_a_key_that_may_not_embed_is_refused_with_the_service_s_words(served):
    url, _ = served
    with pytest.raises(EvaluationError, match="answers 401"):
        open_model(url)([orl_photo(1, 1)])


def test_photos_without_any_face_are_refused(served):
    url, key = served
    with pytest.raises(EvaluationError, match="no embedding for any of 2 photos: no_face"):
        open_model(url, key=key)([jpeg(1), jpeg(2)])
