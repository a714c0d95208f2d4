"""The choice of an engine, over the real detection model and a small recognition model that is quick to load."""

import hashlib
import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.artifact import graph, sample
from service.artifact.manifest import Manifest, manifest_text
from service.artifact.store import ModelStore, encode_sample
from service.errors import EngineAbsentError, EngineError, ModelDamagedError
from service.vision import choice, engines
from service.vision.choice import choose

HERE = {"onnxruntime", "openvino"}
"""Engines that every installation of the tests has."""


def network(seed):
    """Crops shrunk to 4 x 4, a dense layer, unit length: uint8 (n,112,112,3) to float32 (n,16)."""
    weights = np.random.default_rng(seed).normal(size=(48, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["crops"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["small"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("Sub", ["flat", "grey"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["dense"]),
        helper.make_node("LpNormalization", ["dense"], ["embeddings"], axis=1, p=2),
    ]
    model = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("crops", onnx.TensorProto.UINT8, ["n", 112, 112, 3])],
        [helper.make_tensor_value_info("embeddings", onnx.TensorProto.FLOAT, ["n", 16])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array(127.5, np.float32), "grey"),
        ],
    )
    return graph.serialise(helper.make_model(model, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def entry(name, data):
    return {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@pytest.fixture
def tiny(tmp_path, models):
    """Makes a store with the small model; its sample may come from other weights, and it may have a variant."""

    def make(*, sample_of=1, variant=None, lfw=99.4, precision="int8"):
        data = network(1)
        document = json.loads(manifest_text(models.manifest("sface"))) | {"name": "tiny", "variants": []}
        document["file"] = entry("model.onnx", data)
        document["outputs"][0]["shape"] = ["n", 16]
        document["measured"] = {"lfw_accuracy": lfw}
        folder = tmp_path / "models" / "tiny"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(data)
        (tmp_path / "sample.onnx").write_bytes(network(sample_of))
        (embeddings,) = engines.reference(tmp_path / "sample.onnx")(sample.crops()).values()
        document["sample"]["embeddings"] = encode_sample(embeddings)
        if variant is not None:
            name = f"{precision}.onnx"
            document["variants"] = [{"precision": precision, "file": entry(name, variant[0]), "measured": variant[1]}]
            (folder / name).write_bytes(variant[0])
        (folder / "manifest.json").write_text(manifest_text(Manifest.model_validate(document)))
        return ModelStore(tmp_path / "models")

    return make


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "engines.json"


@pytest.fixture
def pick(memory):
    """Chooses an engine for the small model."""
    return lambda store, wanted="auto": choose(store, store.manifest("tiny"), wanted=wanted, streams=1, memory=memory)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(choice, "TURN_SECONDS", 0.005)


def remember(memory, name):
    """Make the file say that another engine was the fastest."""
    memory.write_text(json.dumps(dict.fromkeys(json.loads(memory.read_text()), name)))


def test_the_fastest_engine_that_is_right_is_taken_and_told(tiny, pick):
    chosen = pick(tiny())
    assert chosen.reason == "fastest"
    assert chosen.rates[chosen.engine.name] >= choice.ABOUT_AS_FAST * max(chosen.rates.values())
    assert chosen.rates.keys() >= HERE
    assert chosen.parity >= choice.PARITY[chosen.precision]
    assert not chosen.rates.keys() & chosen.refused.keys()
    assert all(rate > 0 for rate in chosen.rates.values())


@pytest.mark.parametrize(("exact", "taken"), [(92, "onnxruntime"), (85, "openvino")], ids=["about as fast", "slower"])
def test_of_engines_about_as_fast_the_one_nearest_to_the_reference_is_taken(tiny, pick, monkeypatch, exact, taken):
    rates = {"onnxruntime": exact, "openvino": 100.0}
    monkeypatch.setattr(choice, "rate", lambda engine, *_: rates.get(engine.name, 1.0))
    check = choice.Probe.check

    def less_exact(probe, candidate):
        engine, parity = check(probe, candidate)
        return engine, parity - 0.0005 if candidate.name == "openvino" else parity

    monkeypatch.setattr(choice.Probe, "check", less_exact)
    assert pick(tiny()).engine.name == taken


def test_what_was_chosen_is_remembered(tiny, pick):
    store = tiny()
    first, again = pick(store), pick(store)
    assert (again.engine.name, again.reason, again.rates) == (first.engine.name, "remembered", {})
    assert again.parity == pytest.approx(first.parity)


def test_what_is_remembered_is_taken_though_another_may_be_faster(tiny, pick, memory):
    store = tiny()
    pick(store)
    for name in sorted(HERE):
        remember(memory, name)
        assert (pick(store).engine.name, pick(store).reason) == (name, "remembered")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 7}', '"text"'])
def test_a_damaged_memory_is_measured_anew(tiny, pick, memory, content):
    memory.write_text(content)
    assert pick(tiny()).reason == "fastest"
    assert json.loads(memory.read_text())


@pytest.mark.parametrize("name", ["cuda", "engine-of-a-later-release"])
def test_a_remembered_engine_that_no_longer_runs_is_replaced(tiny, pick, memory, name):
    store = tiny()
    pick(store)
    remember(memory, name)
    again = pick(store)
    assert (again.reason, again.engine.name != name) == ("fastest", True)
    assert pick(store).reason == "remembered"


def test_a_remembered_engine_that_is_no_longer_right_is_replaced(tiny, pick, memory):
    # The variant is accurate by its own figures, and its weights are others.
    store = tiny(variant=(network(2), {"lfw_accuracy": 99.4}))
    pick(store)
    remember(memory, "openvino-int8")
    again = pick(store)
    assert again.reason == "fastest"
    assert "openvino-int8" in again.refused
    assert "cosine" in again.refused["openvino-int8"]


def test_an_engine_that_is_told_is_taken(tiny, pick, memory):
    store = tiny()
    for name in sorted(HERE):
        chosen = pick(store, name)
        assert (chosen.engine.name, chosen.reason, chosen.rates) == (name, "told", {})
    assert not memory.exists()


def test_a_wrong_engine_is_refused_even_when_told(tiny, pick):
    store = tiny(variant=(network(2), {"lfw_accuracy": 99.4}))
    with pytest.raises(EngineError, match="openvino-int8 reproduces the sample at a cosine of"):
        pick(store, "openvino-int8")


def test_when_no_engine_is_right_the_start_is_refused_with_every_reason(tiny, pick, memory):
    with pytest.raises(EngineError) as error:
        pick(tiny(sample_of=2))
    assert all(name in error.value.detail for name in HERE)
    assert not memory.exists()


def test_an_engine_that_the_model_does_not_have_is_told(tiny, pick):
    with pytest.raises(EngineError, match="has no engine 'openvino-int8'"):
        pick(tiny(), "openvino-int8")


def test_cuda_that_is_told_is_never_replaced_by_another(tiny, pick, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineAbsentError, match="cuda"):
        pick(tiny(), "cuda")


@pytest.mark.parametrize(
    ("measured", "taken"), [({"lfw_accuracy": 99.35}, True), ({"lfw_accuracy": 99.34}, False), ({}, False)], ids=str
)
def test_a_variant_comes_into_question_when_it_was_measured_to_be_accurate(tiny, measured, taken):
    store = tiny(variant=(network(1), measured))
    assert ("openvino-int8" in choice.candidates(store, store.manifest("tiny"), 1)) == taken


@pytest.mark.parametrize(
    ("measured", "taken"), [({"lfw_accuracy": 99.35}, True), ({"lfw_accuracy": 99.34}, False), ({}, True)], ids=str
)
def test_a_bf16_file_is_run_unless_it_was_measured_to_lose(tiny, measured, taken):
    store = tiny(variant=(network(1), measured), precision="bf16")
    found = choice.candidates(store, store.manifest("tiny"), 1)
    assert ("openvino-bf16" in found) == taken
    if taken:
        (store.folder / "tiny" / "bf16.onnx").write_bytes(b"damaged")
        with pytest.raises(ModelDamagedError, match=r"bf16\.onnx"):
            found["openvino-bf16"].load()


def test_a_damaged_variant_is_refused_and_the_others_go_on(tiny, pick):
    store = tiny(variant=(network(1), {"lfw_accuracy": 99.4}))
    (store.folder / "tiny" / "int8.onnx").write_bytes(b"damaged")
    chosen = pick(store)
    assert chosen.engine.name in chosen.rates
    assert "int8.onnx" in chosen.refused["openvino-int8"]
    with pytest.raises(ModelDamagedError):
        pick(store, "openvino-int8")


def test_a_damaged_model_is_told(tiny, pick):
    store = tiny()
    (store.folder / "tiny" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelDamagedError):
        pick(store)


def test_the_memory_tells_models_and_streams_apart(tiny, models, memory):
    store = tiny()
    choose(store, store.manifest("tiny"), wanted="auto", streams=1, memory=memory)
    assert choose(store, store.manifest("tiny"), wanted="auto", streams=2, memory=memory).reason == "fastest"
    assert choose(models, models.manifest("yunet"), wanted="auto", streams=1, memory=memory).reason == "fastest"
    assert len(json.loads(memory.read_text())) == 3


def test_a_detector_without_a_sample_is_held_to_the_reference(models, tmp_path, memory):
    shutil.copytree(models.folder / "yunet", tmp_path / "m" / "yunet")
    store = ModelStore(tmp_path / "m")
    chosen = choose(store, store.manifest("yunet"), wanted="auto", streams=1, memory=memory)
    assert chosen.precision == "float32"
    assert chosen.parity > 0.9999
    assert chosen.rates.keys() <= {"cuda", "onnxruntime", "openvino"}


def test_the_default_models_first_choice_reproduces_the_manifests_sample(models, memory):
    chosen = choose(models, models.manifest("sface"), wanted="auto", streams=1, memory=memory)
    assert chosen.rates.keys() >= HERE
    assert chosen.parity >= choice.PARITY[chosen.precision]
