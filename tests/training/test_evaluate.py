"""The evaluation from end to end on photos that a tiny model can and cannot tell apart."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.training.models import tiny_model
from tests.training.photos import jpeg, people_folder
from training.embed import embed, of_onnx
from training.errors import DataError, EvaluationError
from training.evaluate import evaluate, identification_of, main
from training.records import PackedPairs, write_bin


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def packed():
    photos = [jpeg(seed) for i in range(20) for seed in (i, i if i % 2 else i + 100)]
    return PackedPairs(photos, np.arange(20) % 2 == 1)


def test_pairs_that_are_alike_or_not_are_told_apart(model):
    figures = {each["figure"]: each for each in evaluate(of_onnx(model), pairs=packed())}
    assert figures["accuracy"]["value"] == 100
    assert figures["accuracy"]["pairs"] == 20


def test_rates_that_the_pairs_cannot_vouch_for_are_refused_by_name(model):
    tars = [each for each in evaluate(of_onnx(model), pairs=packed()) if each["figure"] == "tar"]
    assert [each["far"] for each in tars if "refused" in each] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
    assert "needs at least 30 impostor pairs, there are 10" in tars[0]["refused"]


def test_the_command_prints_one_object_a_figure(model, tmp_path, capsys):
    write_bin(tmp_path / "made.bin", packed())
    people_folder(tmp_path / "people", people=9, each=3)
    assert (
        main([str(model), "--pairs", str(tmp_path / "made.bin"), "--people", str(tmp_path / "people"), "--flip"]) == 0
    )
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    named = {each["figure"] for each in figures}
    assert named >= {"accuracy", "tar", "rank1", "fnir", "recall@1", "r_precision", "map@r", "nmi"}
    assert {each["set"] for each in figures} == {"made", "people"}
    assert [each["value"] for each in figures if each["figure"] == "rank1"] == [1.0, 1.0]


def test_nothing_to_measure_is_said_in_one_line(model, capsys):
    assert main([str(model)]) == 1
    assert capsys.readouterr().err == "The evaluation cannot be made: give --pairs, --people, or both\n"


def test_open_set_search_needs_enough_people():
    with pytest.raises(EvaluationError, match="three people"):
        list(identification_of(np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])))


def test_flip_averaging_gives_a_photo_and_its_mirror_image_one_vector(model):
    embedder = of_onnx(model)
    ahead = embed(embedder, [jpeg(1)], flip=True)

    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1))).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file, "PNG")
    assert (ahead * embed(embedder, [file.getvalue()], flip=True)).sum() == pytest.approx(1, abs=1e-4)
    assert (embed(embedder, [jpeg(1)]) * embed(embedder, [file.getvalue()])).sum() < 0.99


def test_the_vectors_do_not_depend_on_the_batch(model):
    photos = [jpeg(seed) for seed in range(7)]
    one, three = (embed(of_onnx(model), photos, batch=batch) for batch in (1, 3))
    np.testing.assert_allclose(one, three, atol=1e-6)


def test_a_photo_that_cannot_be_read_is_refused(model):
    with pytest.raises(DataError):
        embed(of_onnx(model), [b"nothing"])
