import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.artifact import graph
from service.artifact.importing import Preprocessing, import_model
from service.artifact.manifest import Licence
from service.artifact.sample import crops
from service.artifact.store import ModelStore, decode_sample
from service.errors import LicenseNotAcceptedError, ManifestError, ModelError, ModelExistsError
from service.vision import engines

DIM = 6
FREE = Licence(spdx="MIT", commercial=True, source="https://example.org/net")
BOUND = Licence(spdx="CC-BY-NC-4.0", commercial=False, source="https://example.org/net")
USUAL = Preprocessing()
WEIGHTS = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)


def network(path, *, batch="n", flat=(0, -1), weights=WEIGHTS, side=112):
    """Write a network that averages each channel and mixes the three numbers: (n,3,112,112) to (n,6)."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Reshape", ["mean", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["y"]),
    ]
    values = {"flat": np.array(flat, np.int64), "weights": weights}
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


@pytest.fixture
def bring(store, tmp_path):
    def run(path=None, *, name="net", licence=FREE, accepted=False, preprocessing=USUAL):
        return import_model(
            store,
            path or network(tmp_path / "net.onnx"),
            name=name,
            licence=licence,
            accepted=accepted,
            preprocessing=preprocessing,
            run=engines.reference,
        )

    return run


def by_hand(colour, mean, scale):
    """The embeddings of the sample, one crop and one channel at a time."""
    rows = []
    for crop in crops().astype(np.float64):
        order = (0, 1, 2) if colour == "rgb" else (2, 1, 0)
        means = [(crop[:, :, channel].mean() - mean) / scale for channel in order]
        row = sum(value * weights for value, weights in zip(means, WEIGHTS.astype(np.float64), strict=True))
        rows.append(row / np.sqrt((row**2).sum()))
    return np.array(rows)


@pytest.mark.parametrize("given", [("rgb", 127.5, 127.5), ("bgr", 127.5, 128.0), ("rgb", 0.0, 255.0)])
def test_an_imported_network_sees_what_its_preprocessing_says(bring, given):
    sample = bring(preprocessing=Preprocessing(*given)).sample
    np.testing.assert_allclose(decode_sample(sample.embeddings, DIM), by_hand(*given), atol=1e-4)


def test_an_imported_model_is_whole_in_the_store(bring, store):
    manifest = bring()
    assert store.manifest("net") == manifest
    assert [state.state for state in store.states(manifest)] == ["whole"]


def test_an_imported_model_has_no_calibration(bring):
    assert bring().calibration is None


def test_a_network_in_the_contract_is_taken_as_it_is(bring, store):
    file = store.folder / "net" / bring().file.name
    again = bring(file, name="again", preprocessing=Preprocessing("bgr", 1.0, 2.0))
    assert again.sample == store.manifest("net").sample


def test_a_licence_without_commercial_use_must_be_accepted(bring, store):
    with pytest.raises(LicenseNotAcceptedError, match="CC-BY-NC"):
        bring(licence=BOUND)
    assert store.names() == []


def test_an_accepted_licence_is_in_the_manifest(bring):
    assert bring(licence=BOUND, accepted=True).licence == BOUND


def test_a_name_that_is_taken_is_refused(bring):
    bring()
    with pytest.raises(ModelExistsError):
        bring()


@pytest.mark.parametrize("name", ["Net", "../net", "a/b", ""])
def test_a_name_that_is_no_folder_is_refused(bring, name, tmp_path):
    with pytest.raises(ManifestError):
        bring(name=name)
    assert list(tmp_path.iterdir()) == [tmp_path / "net.onnx"]


def test_a_file_that_is_no_network_is_refused(bring, tmp_path):
    file = tmp_path / "text.onnx"
    file.write_text("no network")
    with pytest.raises(ManifestError):
        bring(file)


def test_a_network_of_another_size_of_crop_is_refused(bring, tmp_path):
    with pytest.raises(ManifestError, match="112"):
        bring(network(tmp_path / "net.onnx", side=160))


def test_a_network_that_takes_one_crop_only_is_refused(bring, tmp_path):
    with pytest.raises(ModelError, match="batch"):
        bring(network(tmp_path / "net.onnx", batch=1, flat=(1, 3)))


def test_a_network_that_says_the_same_of_every_face_is_refused(bring, tmp_path):
    one_direction = np.outer(np.ones(3), np.arange(1, DIM + 1)).astype(np.float32)
    with pytest.raises(ModelError, match="same embedding"):
        bring(network(tmp_path / "net.onnx", weights=one_direction), preprocessing=Preprocessing("rgb", 0.0, 255.0))


def test_a_network_that_gives_no_numbers_is_refused(bring, tmp_path):
    with pytest.raises(ModelError, match="finite"):
        bring(network(tmp_path / "net.onnx", weights=np.full((3, DIM), np.nan, np.float32)))


def test_a_scale_of_zero_is_refused(bring):
    with pytest.raises(ManifestError, match="scale"):
        bring(preprocessing=Preprocessing("rgb", 0.0, 0.0))


def test_what_was_imported_is_in_the_contract(bring, store):
    manifest = bring()
    assert graph.in_contract(graph.load(store.file(manifest)))
