"""The bf16 variant: every weight rounded as written down by hand, the graph's answers near those of float32."""

import struct

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from service.artifact import graph
from service.artifact.halve import halve, rounded


def slowly(value):
    """The bfloat16 nearest to a float32, the even one of two, found by trying both neighbours."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    neighbours = [(bits >> 16) + step for step in (0, 1)]
    far = [abs(struct.unpack("<f", struct.pack("<I", each << 16))[0] - value) for each in neighbours]
    if far[0] == far[1]:
        return next(each for each in neighbours if each % 2 == 0)
    return neighbours[far.index(min(far))]


def test_numbers_are_rounded_to_the_nearest_and_to_even():
    values = np.random.default_rng(0).normal(0, 3, 500).astype(np.float32)
    values = np.append(values, np.float32([0.0, 1.0, -1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1e-30, -3e30]))
    assert rounded(values).tolist() == [slowly(float(value)) for value in values]


@pytest.fixture
def dense(net):
    draw = np.random.default_rng(1)
    values = {"w": draw.normal(size=(8, 64)).astype(np.float32), "b": draw.normal(size=8).astype(np.float32)}
    return net([helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], values, ["n", 64], ["n", 8])


def test_large_weights_are_halved_and_small_ones_kept(dense):
    whole, half = graph.constants(dense), halve(dense)
    assert {item.name for item in half.graph.initializer} == {"w_bf16", "b"}
    assert len(graph.serialise(dense)) - len(graph.serialise(half)) > 0.8 * whole["w"].nbytes / 2


def test_the_variant_computes_with_the_rounded_weights(dense):
    batch = np.random.default_rng(2).normal(size=(3, 64)).astype(np.float32)
    values = graph.constants(dense)
    weight = (rounded(values["w"]).astype(np.uint32) << 16).view(np.float32)
    session = ort.InferenceSession(graph.serialise(halve(dense)), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": batch})
    np.testing.assert_allclose(y, batch @ weight.T + values["b"], rtol=1e-5, atol=1e-5)
