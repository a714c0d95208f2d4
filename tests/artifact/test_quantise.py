import hashlib

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.artifact import graph
from service.artifact.finish import derived
from service.artifact.quantise import observe, pointwise, quantise
from service.artifact.sample import crops
from service.errors import ManifestError


@pytest.fixture
def small(net):
    """uint8 crops -> float -> 1x1 conv (3 to 4), 3x3 conv (4 to 4), relu, 1x1 conv (4 to 2)."""
    draw = np.random.default_rng(1)
    values = {
        "first": draw.normal(0, 0.01, (4, 3, 1, 1)),
        "wide": draw.normal(0, 0.3, (4, 4, 3, 3)),
        "last": draw.normal(0, 1, (2, 4, 1, 1)),
        "bias": draw.normal(0, 1, 2),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "first"], ["a"]),
        helper.make_node("Conv", ["a", "wide"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "last", "bias"], ["y"]),
    ]
    values = {name: value.astype(np.float32) for name, value in values.items()}
    return net(nodes, values, ["n", 112, 112, 3], ["n", 2, 112, 112], kind=TensorProto.UINT8)


def run(model, batch, names):
    options = ort.SessionOptions()
    # As it is written: put together, a convolution of codes saturates on processors without VNNI.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, {"x": batch})


RANGES = {"t": (0.0, 255.0), "c": (0.0, 6.0)}


def test_only_plain_pointwise_convolutions_are_quantised(small):
    assert [node.output[0] for node in pointwise(small)] == ["a", "y"]


def test_weights_get_one_symmetric_scale_a_channel(small):
    given = graph.constants(quantise(small, RANGES))
    for name in ("first", "last"):
        weight = graph.constants(small)[name]
        for channel in range(len(weight)):
            scale = max(abs(float(value)) for value in weight[channel].ravel()) / 127
            assert given[f"{name}_scale"][channel] == pytest.approx(scale, rel=1e-6)
            codes = [round(float(value) / scale) for value in weight[channel].ravel()]
            assert given[f"{name}_codes"][channel].ravel().tolist() == codes
            assert given[f"{name}_zero"][channel] == 0


def test_inputs_get_one_range_a_tensor(small):
    given = graph.constants(quantise(small, {"t": (-10.0, 245.0), "c": (0.0, 6.0)}))
    assert given["t_scale"].item() == pytest.approx(1.0)
    assert (given["t_zero"].item(), given["t_zero"].dtype) == (10, np.uint8)
    assert given["c_scale"].item() == pytest.approx(6 / 255)
    assert given["c_zero"].item() == 0


def test_the_variant_computes_with_rounded_numbers(small):
    batch = crops()[:1]
    (c,) = run_inside(small, batch, "c")
    expected_input = np.clip(np.rint(c / np.float32(6 / 255)), 0, 255) * np.float32(6 / 255)
    values = graph.constants(quantise(small, RANGES))
    weight = values["last_codes"].astype(np.float32) * values["last_scale"].reshape(-1, 1, 1, 1)
    variant = quantise(small, RANGES)
    (given_c,) = run_inside(variant, batch, "c_rounded")
    (y,) = run(variant, batch, ["y"])
    slow = np.einsum("nchw,oc->nohw", given_c, weight[:, :, 0, 0]) + values["bias"].reshape(1, -1, 1, 1)
    np.testing.assert_allclose(y, slow, atol=1e-3)
    assert np.abs(given_c - expected_input).max() < 0.2  # what came before `c` was rounded too


def test_dense_layers_get_8_bit_weights_and_keep_their_inputs(net):
    draw = np.random.default_rng(2)
    values = {"w": draw.normal(size=(5, 3)).astype(np.float32), "b": draw.normal(size=5).astype(np.float32)}
    model = net([helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], values, ["n", 3], ["n", 5])
    batch = draw.normal(size=(4, 3)).astype(np.float32)
    expected = np.zeros((4, 5))
    for row, column in np.ndindex(4, 5):
        scale = max(abs(float(value)) for value in values["w"][column]) / 127
        rounded = [round(float(value) / scale) * scale for value in values["w"][column]]
        expected[row, column] = sum(a * b for a, b in zip(batch[row].tolist(), rounded, strict=True))
    (y,) = run(quantise(model, {}), batch, ["y"])
    np.testing.assert_allclose(y, expected + values["b"], atol=1e-5)


def run_inside(model, batch, name):
    copy = type(model)()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_empty_tensor_value_info(name))
    return run(copy, batch, [name])


def test_observed_ranges_are_the_extremes_and_hold_zero(small):
    batches = [crops()[:3], crops()[3:]]
    (ranges,) = observe(small, batches)
    assert ranges.keys() == {"t", "c"}
    pixels = crops().astype(float)
    assert ranges["t"] == (0.0, pixels.max())
    (c,) = run_inside(small, crops(), "c")
    assert ranges["c"][0] == 0.0
    assert ranges["c"][1] == pytest.approx(c.max(), rel=1e-5)


def test_a_quantile_leaves_out_the_crops_that_reach_farthest(small):
    (c,) = run_inside(small, crops(), "c")
    highs = [float(of_one_crop.max()) for of_one_crop in c]
    half, whole = observe(small, [crops()[:3], crops()[3:]], quantiles=(0.5, 1.0))
    assert half["c"][1] == pytest.approx(np.median(highs), rel=1e-5)
    assert whole["c"][1] == pytest.approx(max(highs), rel=1e-5)


def test_larger_kernels_are_quantised_where_their_ranges_were_observed(small):
    (ranges,) = observe(small, [crops()], any_kernel=True)
    assert ranges.keys() == {"t", "a", "c"}
    (y,) = run(quantise(small, ranges), crops(), ["y"])
    (exact,) = run(small, crops(), ["y"])
    assert 0 < np.abs(y - exact).max() < 0.1 * np.ptp(exact)
    assert "a_codes" not in {name for node in quantise(small, RANGES).graph.node for name in node.output}


def test_two_convolutions_share_the_codes_of_one_input(net):
    draw = np.random.default_rng(3)
    values = {name: draw.normal(size=(2, 4, 1, 1)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Conv", ["x", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model = net(nodes, values, ["n", 4, 5, 5], ["n", 2, 5, 5])
    batch = draw.normal(size=(1, 4, 5, 5)).astype(np.float32)
    (exact,), (y,) = run(model, batch, ["y"]), run(quantise(model, {"x": (-4.0, 4.0)}), batch, ["y"])
    assert np.abs(y - exact).max() < 0.2


def test_a_newer_opset_is_kept(net):
    model = net(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"w": np.ones((1, 1, 1, 1), np.float32)},
        ["n", 1, 2, 2],
        ["n", 1, 2, 2],
        opset=23,
    )
    assert quantise(model, {"x": (0.0, 1.0)}).opset_import[0].version == 23


def test_ranges_of_another_network_are_refused(small):
    with pytest.raises(KeyError):
        quantise(small, {"elsewhere": (0.0, 1.0)})


def test_a_convolution_without_a_range_stays_as_it_is(small):
    (a,) = run_inside(quantise(small, {"c": (0.0, 6.0)}), crops(), "a")
    (exact,) = run_inside(small, crops(), "a")
    np.testing.assert_allclose(a, exact, atol=1e-5)


def test_the_pinned_variant_is_what_comes_out(models):
    manifest = models.manifest("sface")
    (variant,) = manifest.variants
    data = derived(models.folder / manifest.name, manifest, variant)
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (variant.file.sha256, variant.file.bytes)


def test_a_variant_without_ranges_is_refused(models):
    manifest = models.manifest("sface")
    variant = manifest.variants[0].model_copy(update={"ranges": None})
    with pytest.raises(ManifestError, match="ranges"):
        derived(models.folder / manifest.name, manifest, variant)
