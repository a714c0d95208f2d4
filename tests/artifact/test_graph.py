"""The rewritten graphs against the published ones, run by ONNX Runtime as they are, and against slow loops."""

import hashlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.artifact import graph
from service.artifact.sample import crops
from service.errors import ManifestError


def runner(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name
    names = [item.name for item in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(None, {entry: batch}), strict=True))


def untouched(published):
    """A published graph with no more changed than ONNX Runtime needs to run it at all.

    SFace lists its weights as inputs; YuNet gives a block size to weights that have a single scale.
    """
    model = onnx.load_model_from_string(published)
    weights = {item.name: item for item in model.graph.initializer}
    for entry in [entry for entry in model.graph.input if entry.name != model.graph.input[0].name]:
        model.graph.input.remove(entry)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and list(weights[node.input[1]].dims) in ([], [1]):
            del node.attribute[:]
    return runner(model)


@pytest.fixture(scope="module")
def sface(published):
    return graph.sface(onnx.load_model_from_string(published["sface"]))


@pytest.fixture(scope="module")
def yunet(published):
    return graph.yunet(onnx.load_model_from_string(published["yunet"]))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- folding ---


def dequantised(codes, scales, zeros, axis, block):
    """Element by element: (q - zero) * scale, with one scale and zero for each block along the axis."""
    out = np.empty(codes.shape, np.float32)
    for place in np.ndindex(codes.shape):
        owner = tuple(at // block if dim == axis else at for dim, at in enumerate(place))
        out[place] = np.float32(int(codes[place]) - int(zeros[owner])) * scales[owner]
    return out


@pytest.mark.parametrize(("axis", "length", "block"), [(0, 8, 4), (1, 6, 2), (1, 7, 3)])
def test_block_quantised_weights_are_folded_exactly(net, axis, length, block):
    draw = np.random.default_rng(1)
    shape = [4, 5]
    shape[axis] = length
    blocks = [-(-side // block) if dim == axis else side for dim, side in enumerate(shape)]
    codes, zeros = (draw.integers(-128, 128, size, dtype=np.int8) for size in (shape, blocks))
    scales = draw.uniform(0.01, 0.1, blocks).astype(np.float32)
    rows = shape[0]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=axis, block_size=block),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    values = {"q": codes, "s": scales, "z": zeros}
    model = net(nodes, values, ["n", rows], ["n", shape[1]])
    left, folded = graph.fold_constants(model)
    assert [node.op_type for node in left] == ["MatMul"]
    np.testing.assert_array_equal(folded["w"], dequantised(codes, scales, zeros, axis, block))


def test_constants_reshapes_dropouts_and_identities_leave_the_graph(net):
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=onnx.numpy_helper.from_array(np.array([2, 3], np.int64))),
        helper.make_node("Reshape", ["flat", "shape"], ["w"]),
        helper.make_node("Dropout", ["x"], ["dropped"]),
        helper.make_node("Identity", ["dropped"], ["same"]),
        helper.make_node("MatMul", ["same", "w"], ["y"]),
    ]
    model = net(nodes, {"flat": np.arange(6, dtype=np.float32)}, ["n", 2], ["n", 3])
    left, values = graph.fold_constants(model)
    assert [(node.op_type, list(node.input)) for node in left] == [("MatMul", ["x", "w"])]
    np.testing.assert_array_equal(values["w"], [[0, 1, 2], [3, 4, 5]])


# --- the default networks ---


def test_sface_gives_what_the_published_graph_gives_at_unit_length(published, sface):
    plain = untouched(published["sface"])
    sample = crops()
    expected = [next(iter(plain(crop[None].transpose(0, 3, 1, 2).astype(np.float32)).values()))[0] for crop in sample]
    given = runner(sface)(sample)["embeddings"]
    assert given.shape == (8, 128)
    np.testing.assert_allclose(given, unit(np.stack(expected)), atol=2e-5)


def test_sface_gives_a_batch_what_it_gives_each_crop(sface):
    run, sample = runner(sface), crops()
    singly = np.concatenate([run(crop[None])["embeddings"] for crop in sample])
    np.testing.assert_allclose(run(sample)["embeddings"], singly, atol=1e-6)


def test_sface_takes_red_first(sface):
    run, sample = runner(sface), crops()
    swapped = run(np.ascontiguousarray(sample[..., ::-1]))["embeddings"]
    assert np.abs(run(sample)["embeddings"] - swapped).max() > 0.05


def test_yunet_gives_what_the_published_graph_gives(published, yunet):
    plain = untouched(published["yunet"])
    photo = np.random.default_rng(2).integers(0, 256, (1, 640, 640, 3), np.uint8)
    photo[0, 100:212, 100:212] = crops()[3]
    bgr = np.ascontiguousarray(photo[..., ::-1]).transpose(0, 3, 1, 2).astype(np.float32)
    expected, given = plain(bgr), runner(yunet)(photo)
    assert given.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(given[name], values, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (128, 128), (320, 32)])
def test_yunet_takes_any_multiple_of_32_and_keeps_photos_apart(yunet, height, width):
    run = runner(yunet)
    photos = np.random.default_rng(3).integers(0, 256, (3, height, width, 3), np.uint8)
    together = run(photos)
    for number, photo in enumerate(photos):
        for name, values in run(photo[None]).items():
            stride = int(name.rpartition("_")[2])
            assert values.shape[:2] == (1, height // stride * (width // stride))
            np.testing.assert_allclose(together[name][number], values[0], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["sface", "yunet"])
def test_the_bytes_are_the_same_every_time_and_those_that_the_manifest_pins(published, models, name):
    write = {"sface": graph.sface, "yunet": graph.yunet}[name]
    first, second = (graph.serialise(write(onnx.load_model_from_string(published[name]))) for _ in range(2))
    assert first == second
    pinned = models.manifest(name).file
    assert (hashlib.sha256(first).hexdigest(), len(first)) == (pinned.sha256, pinned.bytes)


@pytest.mark.parametrize("name", ["sface", "yunet"])
def test_nothing_is_left_that_was_to_be_folded(published, name):
    model = {"sface": graph.sface, "yunet": graph.yunet}[name](onnx.load_model_from_string(published[name]))
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"DequantizeLinear", "Identity", "Dropout", "Constant"}
    assert [item.name for item in model.graph.input] == [{"sface": "crops", "yunet": "photos"}[name]]


# --- faster forms ---


def test_folded_batch_norms_compute_the_same(sface):
    folded = graph.fold_batch_norm(sface)
    kinds = [[node.op_type for node in model.graph.node] for model in (sface, folded)]
    assert kinds[1].count("BatchNormalization") < kinds[0].count("BatchNormalization")
    difference = runner(folded)(crops())["embeddings"] - runner(sface)(crops())["embeddings"]
    assert np.abs(difference).max() < 1e-5


def test_split_prelus_compute_the_same(sface):
    split = graph.split_prelu(sface)
    assert "PRelu" in {node.op_type for node in sface.graph.node}
    assert "PRelu" not in {node.op_type for node in split.graph.node}
    difference = runner(split)(crops())["embeddings"] - runner(sface)(crops())["embeddings"]
    assert np.abs(difference).max() < 1e-5


def test_a_graph_without_prelus_is_left_as_it_is(yunet):
    photo = np.random.default_rng(4).integers(0, 256, (1, 64, 64, 3), np.uint8)
    before, after = runner(yunet)(photo), runner(graph.split_prelu(yunet))(photo)
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, atol=1e-5)


@pytest.fixture
def layers(net):
    """Conv, BatchNormalization, PRelu, and a depthwise Conv if asked for, over 3 channels."""

    def build(*, depthwise, bias):
        draw = np.random.default_rng(6)
        values = {
            "w": draw.normal(size=(4, 3, 1, 1)),
            "b": draw.normal(size=4),
            "gain": draw.uniform(0.5, 2, 4),
            "beta": draw.normal(size=4),
            "mean": draw.normal(size=4),
            "var": draw.uniform(0.5, 2, 4),
            "slope": draw.uniform(-0.5, 0.5, (4, 1, 1)),
            "k": draw.normal(size=(4, 1, 3, 3)),
        }
        values = {name: value.astype(np.float32) for name, value in values.items()}
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["c"], kernel_shape=[1, 1]),
            helper.make_node("BatchNormalization", ["c", "gain", "beta", "mean", "var"], ["d"], epsilon=1e-3),
            helper.make_node("PRelu", ["d", "slope"], ["e" if depthwise else "y"]),
        ]
        if depthwise:
            nodes.append(helper.make_node("Conv", ["e", "k"], ["y"], group=4, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        return net(nodes, values, ["n", 3, 5, 5], ["n", 4, 5, 5]), values

    return build


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("depthwise", [True, False])
def test_both_forms_of_a_split_prelu_follow_the_formula(layers, depthwise, bias):
    model, values = layers(depthwise=depthwise, bias=bias)
    x = np.random.default_rng(7).normal(size=(2, 3, 5, 5)).astype(np.float32)
    expected = slowly(x.astype(np.float64), values, depthwise=depthwise, bias=bias)
    np.testing.assert_allclose(runner(graph.split_prelu(model))(x)["y"], expected, atol=1e-5)
    np.testing.assert_allclose(runner(graph.fold_batch_norm(model))(x)["y"], expected, atol=1e-5)


def slowly(x, values, *, depthwise, bias):
    n, _, h, w = x.shape
    out = np.zeros((n, 4, h, w))
    for at in np.ndindex(n, 4, h, w):
        i, c, row, column = at
        z = sum(float(values["w"][c, k, 0, 0]) * x[i, k, row, column] for k in range(3))
        z += float(values["b"][c]) if bias else 0
        z = (z - values["mean"][c]) / np.sqrt(values["var"][c] + 1e-3) * values["gain"][c] + values["beta"][c]
        out[at] = z if z > 0 else z * values["slope"][c, 0, 0]
    if not depthwise:
        return out
    padded, smooth = np.pad(out, ((0, 0), (0, 0), (1, 1), (1, 1))), np.zeros_like(out)
    for i, c, row, column in np.ndindex(n, 4, h, w):
        smooth[i, c, row, column] = np.sum(padded[i, c, row : row + 3, column : column + 3] * values["k"][c, 0])
    return smooth


# --- foreign networks ---


@pytest.fixture
def means(net):
    """A network that takes (1,3,112,112) and gives six figures: the mean of each channel, plain and halved."""

    def build(entry=(1, 3, 112, 112), dim=6):
        nodes = [
            helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["three"]),
            helper.make_node("MatMul", ["three", "spread"], ["y"]),
        ]
        spread = np.concatenate([np.eye(3), np.eye(3) / 2], axis=1).astype(np.float32)
        return net(nodes, {"spread": spread}, list(entry), [entry[0], dim])

    return build


@pytest.mark.parametrize(("colour", "order"), [("rgb", [0, 1, 2]), ("bgr", [2, 1, 0])])
def test_a_foreign_network_gets_its_preprocessing_and_unit_length(means, colour, order):
    wrapped = graph.wrap_recognition(means(), colour=colour, mean=127.5, scale=128.0)
    sample = crops()
    channels = ((sample.astype(np.float64) - 127.5) / 128.0).mean(axis=(1, 2))[:, order]
    expected = unit(np.concatenate([channels, channels / 2], axis=1))
    given = runner(wrapped)(sample)
    np.testing.assert_allclose(given["embeddings"], expected, atol=1e-5)


def test_a_wrapped_network_is_in_the_contract(means, sface, yunet):
    assert not graph.in_contract(means())
    assert graph.in_contract(graph.wrap_recognition(means(), colour="rgb", mean=0.0, scale=1.0))
    assert graph.in_contract(sface)
    assert not graph.in_contract(yunet)


def test_a_network_of_another_shape_is_refused(means, net):
    with pytest.raises(ManifestError, match="112"):
        graph.wrap_recognition(means((1, 3, 96, 96)), colour="rgb", mean=0.0, scale=1.0)
    without_length = net([helper.make_node("Flatten", ["x"], ["y"])], {}, [1, 3, 112, 112], [1, "dim"])
    with pytest.raises(ManifestError, match="length"):
        graph.wrap_recognition(without_length, colour="rgb", mean=0.0, scale=1.0)


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a network")
    with pytest.raises(ManifestError, match=r"x\.onnx"):
        graph.load(tmp_path / "x.onnx")


def test_the_constants_of_a_dead_branch_are_dropped(net):
    values = {"w": np.eye(2, dtype=np.float32), "unused": np.zeros(1000, np.float32)}
    model = net([helper.make_node("MatMul", ["x", "w"], ["y"])], values, ["n", 2], ["n", 2])
    assert graph.constants(graph.fold_batch_norm(model)).keys() == {"w"}


def test_a_batch_norm_that_others_read_too_is_not_folded(net):
    values = {"w": np.ones((2, 2, 1, 1), np.float32)} | {
        name: np.ones(2, np.float32) for name in ("gain", "beta", "mean", "var")
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "gain", "beta", "mean", "var"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    model = net(nodes, values, ["n", 2, 3, 3], ["n", 2, 3, 3])
    x = np.random.default_rng(8).normal(size=(1, 2, 3, 3)).astype(np.float32)
    folded = graph.fold_batch_norm(model)
    assert "BatchNormalization" in {node.op_type for node in folded.graph.node}
    np.testing.assert_allclose(runner(folded)(x)["y"], runner(model)(x)["y"], atol=1e-6)


def test_the_opset_and_kind_of_input_are_the_contracts(sface, yunet):
    for model in (sface, yunet):
        assert [(item.domain, item.version) for item in model.opset_import] == [("", graph.OPSET)]
        assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
