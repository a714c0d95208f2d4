"""Learning from another network: the losses pair by pair, and the embeddings that are kept."""

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tests.training.models import tiny_model
from tests.training.photos import jpeg, people_folder
from training.augment import Augmentation
from training.batches import Crops, batches
from training.embed import of_onnx
from training.errors import ConfigError
from training.folder import Folder
from training.photos import decode
from training.samplers import RandomPlan
from training.shards import write_shards
from training.sources import open_source
from training.teacher import Watching, dimension, embed_photos, open_model, relations, towards


def cosine(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_towards_is_the_mean_of_one_minus_the_cosine():
    a, b = torch.randn(2, 5, 7, dtype=torch.float64)
    expected = sum(1 - cosine(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)) / 5
    assert towards(a, b).item() == pytest.approx(expected)


def test_relations_compare_distances_pair_by_pair():
    student, teacher = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    distances = []
    for vectors in (student.tolist(), teacher.tolist()):
        pairs = [math.sqrt(2 - 2 * cosine(vectors[i], vectors[j])) for i in range(4) for j in range(i + 1, 4)]
        distances.append([each / (sum(pairs) / 6) for each in pairs])
    expected = 0.0
    for x, y in zip(*distances, strict=True):
        apart = abs(x - y)
        expected += (0.5 * apart**2 if apart < 1 else apart - 0.5) / 6
    assert relations(student, teacher).item() == pytest.approx(expected)


def test_both_losses_are_zero_for_a_student_that_equals_its_teacher_up_to_length():
    vectors = torch.randn(5, 8, dtype=torch.float64)
    assert towards(3 * vectors, vectors).item() == pytest.approx(0, abs=1e-12)
    assert relations(3 * vectors, vectors).item() == pytest.approx(0, abs=1e-12)


def test_equal_embeddings_give_finite_gradients():
    student = torch.ones(4, 8, requires_grad=True)
    relations(student, torch.randn(4, 8)).backward()
    assert torch.isfinite(student.grad).all()


def test_the_teacher_sees_every_photo_once_as_it_is(tmp_path):
    source = Folder(people_folder(tmp_path / "people", people=3, each=3))
    model = tiny_model(tmp_path / "model.onnx")
    taught = embed_photos(model, source, tmp_path / "taught.npy", batch=4)
    for number in range(len(source)):
        crop = np.array(decode(source.read(number)))[None]
        np.testing.assert_allclose(taught[number], of_onnx(model)(crop)[0], atol=1e-6)


def test_a_watching_teacher_sees_the_very_crops_that_the_student_sees(tmp_path):
    source = Folder(people_folder(tmp_path / "people", people=3, each=3))
    model = tiny_model(tmp_path / "model.onnx")
    crops = Crops(source, Augmentation(crop=1, erase=0.5), 5, mix=0.5, teach=Watching(model))
    found = list(batches(crops, RandomPlan(len(source), 4).epoch(0), first_draw=0, workers=1))
    assert found
    for batch in found:
        # In bfloat16 where the processor has it.
        np.testing.assert_allclose(batch.taught, of_onnx(model)(batch.crops.numpy()), atol=0.02)


def test_a_photo_that_cannot_be_decoded_has_no_embedding_and_leaves_the_others_theirs(tmp_path):
    write_shards(tmp_path, [(jpeg(0), 0), (b"broken", 0), (jpeg(2), 1)])
    model = tiny_model(tmp_path / "model.onnx")
    taught = embed_photos(model, open_source(tmp_path), tmp_path / "taught.npy")
    assert np.isnan(taught[1]).all()
    np.testing.assert_allclose(taught[2], of_onnx(model)(np.array(decode(jpeg(2)))[None])[0], atol=1e-6)


@pytest.fixture
def kept(tmp_path):
    """A teacher, photos, and embeddings that say to be that teacher's of those photos, while every number is 7."""
    source = Folder(people_folder(tmp_path / "people", people=2, each=2))
    model = tiny_model(tmp_path / "teacher.onnx")
    embed_photos(model, source, tmp_path / "taught.npy")
    np.save(tmp_path / "taught.npy", np.full((4, 48), 7, np.float32))
    return model, source, tmp_path / "taught.npy"


def test_kept_embeddings_are_used_again(kept):
    assert (embed_photos(*kept) == 7).all()


def test_kept_embeddings_of_another_teacher_are_made_anew(kept):
    model, source, path = kept
    model.write_bytes(model.read_bytes() + b"\x12\x05other")  # the producer's name, which changes no vector
    assert not (embed_photos(model, source, path) == 7).any()


def test_kept_embeddings_of_as_many_other_photos_are_made_anew(kept, tmp_path):
    model, _, path = kept
    (tmp_path / "people" / "person-000" / "0.jpg").write_bytes(jpeg(99))
    source = Folder(tmp_path / "people")
    taught = embed_photos(model, source, path)
    np.testing.assert_allclose(taught[0], of_onnx(model)(np.array(decode(jpeg(99)))[None])[0], atol=1e-6)


def test_embeddings_that_do_not_say_whose_they_are_are_made_anew(kept):
    kept[2].with_suffix(".json").unlink()
    assert not (embed_photos(*kept) == 7).any()


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="cannot be opened as an ONNX model"):
        open_model(tmp_path / "bad.onnx")


def test_a_model_that_takes_no_crops_is_refused(tmp_path):
    planes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 112, 112])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [planes], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ConfigError, match="does not take"):
        open_model(tmp_path / "other.onnx")


def test_a_model_whose_vectors_have_no_certain_length_is_refused(tmp_path):
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", 112, 112, 3])
    out = helper.make_tensor_value_info("places", TensorProto.INT64, [4, "count"])
    graph = helper.make_graph([helper.make_node("NonZero", ["crops"], ["places"])], "other", [crops], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "any.onnx")
    with pytest.raises(ConfigError, match="does not say how many numbers"):
        dimension(tmp_path / "any.onnx")
    assert dimension(tiny_model(tmp_path / "model.onnx")) == 48
