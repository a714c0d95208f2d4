"""The evaluation from end to end on photos that a tiny model can and cannot tell apart."""

import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from service.artifact.importing import Preprocessing, import_model
from service.artifact.manifest import Licence
from service.artifact.store import ModelStore
from service.vision import engines
from tests.training.models import tiny_model
from tests.training.photos import jpeg, people_folder
from training.embed import embed, of_onnx
from training.errors import DataError, EvaluationError
from training.evaluate import evaluate_pairs, main, open_model
from training.figures import Curve, identification_of_people
from training.records import PackedPairs, write_bin
from training.shards import write_shards
from training.verification import fold_accuracy


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def packed():
    photos = [jpeg(seed) for i in range(20) for seed in (i, i if i % 2 else i + 100)]
    return PackedPairs(photos, np.arange(20) % 2 == 1)


def records(seen):
    return [each for each in seen if not isinstance(each, Curve)]


def measured(model, pairs):
    return records(evaluate_pairs(partial(embed, of_onnx(model)), pairs))


def test_pairs_that_are_alike_or_not_are_told_apart(model):
    figures = {each["figure"]: each for each in measured(model, packed())}
    assert figures["accuracy"]["value"] == 100
    assert figures["accuracy"]["pairs"] == 20


def test_a_photo_of_several_pairs_is_embedded_once_and_counts_in_each(model):
    embedded, once = [], partial(embed, of_onnx(model))

    def noted(photos):
        embedded.extend(photos)
        return once(photos)

    pairs = packed()
    figures = records(evaluate_pairs(noted, pairs))
    assert sorted(embedded) == sorted(set(pairs.photos))
    vectors = once(pairs.photos)
    (accuracy,) = (each["value"] for each in figures if each["figure"] == "accuracy")
    assert accuracy == fold_accuracy((vectors[::2] * vectors[1::2]).sum(axis=1), pairs.same).mean


def test_a_photo_that_cannot_be_decoded_is_named(model, tmp_path, capsys):
    write_shards(tmp_path, [(jpeg(0), 0), (b"broken", 0)])
    assert main([str(model), "--people", str(tmp_path)]) == 1
    assert "shard-000000.tar, byte 4608: no readable photo: it has no known format" in capsys.readouterr().err
    write_bin(tmp_path / "broken.bin", PackedPairs([jpeg(0), b"broken"], np.array([True])))
    assert main([str(model), "--pairs", str(tmp_path / "broken.bin")]) == 1
    assert "photo 1: no readable photo" in capsys.readouterr().err


def test_rates_that_the_pairs_cannot_vouch_for_are_refused_by_name(model):
    tars = [each for each in measured(model, packed()) if each["figure"] == "tar"]
    assert [each["far"] for each in tars if "refused" in each] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    assert "needs at least 30 impostor pairs, there are 10" in tars[0]["refused"]


def test_the_command_prints_one_object_a_figure(model, tmp_path, capsys):
    write_bin(tmp_path / "made.bin", packed())
    people_folder(tmp_path / "people", people=12, each=8)
    given = ["--pairs", tmp_path / "made.bin", "--people", tmp_path / "people", "--out", tmp_path / "curves", "--flip"]
    assert main([str(model), *map(str, given)]) == 0
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    named = {each["figure"] for each in figures}
    assert named >= {"accuracy", "tar", "rank1", "fnir", "recall@1", "r_precision", "map@r", "nmi"}
    assert {each["set"] for each in figures} == {"made", "people"}
    assert [each["value"] for each in figures if each["figure"] == "rank1"] == [1.0, 1.0]
    intervals = {(each["set"], each["interval"]) for each in figures if "low" in each}
    assert intervals == {("people", "bootstrap over people")}
    names = {path.name for path in (tmp_path / "curves").iterdir()}
    curves = ("made-verification", "people-verification", "people-identification-1", "people-identification-2")
    assert names == {f"{curve}.{ending}" for curve in curves for ending in ("png", "json")}


def test_a_photo_and_a_mirrored_one_are_averaged_only_when_asked(model, tmp_path):
    plain, flipped = (open_model(str(model), flip=flip)([jpeg(1)]) for flip in (False, True))
    assert (plain == embed(of_onnx(model), [jpeg(1)])).all()
    assert (plain * flipped).sum() < 0.999


def test_a_service_that_is_not_there_is_said_in_one_line(capsys, tmp_path):
    write_bin(tmp_path / "made.bin", packed())
    assert main(["http://127.0.0.1:9", "--pairs", str(tmp_path / "made.bin")]) == 1
    assert "127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_an_artifact_is_measured_by_its_name_and_by_its_folder(model, tmp_path, capsys):
    store = ModelStore(tmp_path / "models")
    licence = Licence(spdx="Apache-2.0", commercial=True, source="https://example.org")
    manifest = import_model(
        store,
        model,
        name="mine",
        licence=licence,
        accepted=True,
        preprocessing=Preprocessing(),
        run=engines.reference,
    )
    expected = open_model(str(store.file(manifest)))([jpeg(1)])
    assert np.array_equal(open_model("mine", models=store.folder)([jpeg(1)]), expected)
    assert np.array_equal(open_model(str(store.folder / "mine"))([jpeg(1)]), expected)
    store.file(manifest).write_bytes(b"other")
    write_bin(tmp_path / "made.bin", packed())
    assert main(["mine", "--models", str(store.folder), "--pairs", str(tmp_path / "made.bin")]) == 1
    assert "has another digest than its manifest states" in capsys.readouterr().err


def test_a_service_is_not_asked_to_flip():
    with pytest.raises(EvaluationError, match="embeds photos as they are"):
        open_model("http://127.0.0.1:9", flip=True)


def test_nothing_to_measure_is_said_in_one_line(model, capsys):
    assert main([str(model)]) == 1
    assert (
        capsys.readouterr().err == "The evaluation cannot be made: give --pairs, --people, --ijb, or several of them\n"
    )


def test_open_set_search_needs_enough_people():
    with pytest.raises(EvaluationError, match="three people"):
        list(identification_of_people(np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])))


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
