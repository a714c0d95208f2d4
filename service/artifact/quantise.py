"""An int8 variant of a network: 8-bit weights and activations in its convolutions, float32 elsewhere.

Pointwise (1x1) convolutions hold nine tenths of the multiplications of a mobile network, 3x3 ones of a residual
network. Their weights get one symmetric scale an output channel, their inputs one asymmetric 8-bit range a tensor
(Jacob et al. 2018, eq. 1 and section 3). The dense layer at the end is bound by reading its weights, so these alone
are 8-bit there. Evening out channel ranges first (Nagel et al. 2019) was tried on SFace and made it worse.

`observe` measures the ranges on real crops, once, by whoever makes the variant; they are committed beside the
manifest, so that `quantise` is a pure function of the float32 graph and writes the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from service.artifact.graph import Array, assemble, attribute, constants, fold_batch_norm, opset_of, serialise

WEIGHT_LIMIT: Final = 127

Ranges = Mapping[str, tuple[float, float]]
"""Least and greatest value of each quantised tensor."""


def observe(
    model: onnx.ModelProto,
    batches: Iterable[NDArray[np.uint8]],
    *,
    quantiles: Sequence[float] = (1.0,),
    any_kernel: bool = False,
) -> list[dict[str, tuple[float, float]]]:
    """Measure the range of every tensor that `quantise` will quantise.

    Args:
        model: the float32 artifact.
        batches: crops, (n,112,112,3) uint8, of many people.
        quantiles: shares of the crops whose extremes a range must hold; 1 keeps all.
        any_kernel: measure for convolutions of any kernel; otherwise for pointwise ones alone.

    Returns:
        For each quantile the ranges of the convolutions' inputs.
    """
    prepared = fold_batch_norm(model)
    nodes = [*pointwise(prepared), *(_larger(prepared) if any_kernel else [])]
    names = list(dict.fromkeys(node.input[0] for node in nodes))
    for name in names:
        prepared.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(serialise(prepared), providers=["CPUExecutionProvider"])
    lows: dict[str, list[Array]] = {name: [] for name in names}
    highs: dict[str, list[Array]] = {name: [] for name in names}
    for crops in batches:
        for name, value in zip(names, session.run(names, {session.get_inputs()[0].name: crops}), strict=True):
            axes = tuple(range(1, value.ndim))
            lows[name].append(value.min(axis=axes))
            highs[name].append(value.max(axis=axes))
    return [
        {
            name: (
                min(0.0, float(np.quantile(np.concatenate(lows[name]), 1 - quantile))),
                max(0.0, float(np.quantile(np.concatenate(highs[name]), quantile))),
            )
            for name in names
        }
        for quantile in quantiles
    ]


def pointwise(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The pointwise convolutions: 1x1, one group, constant weights."""
    values = constants(model)
    return [node for node in _plain(model, values) if values[node.input[1]].shape[2:] == (1, 1)]


def _larger(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Those with larger kernels, but for one that reads the three colours: it costs little and the rest hangs on it."""
    values = constants(model)
    return [
        node
        for node in _plain(model, values)
        if values[node.input[1]].shape[2:] != (1, 1) and values[node.input[1]].shape[1] != 3
    ]


def _plain(model: onnx.ModelProto, values: dict[str, Array]) -> list[onnx.NodeProto]:
    """Convolutions of one group with constant weights."""
    return [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1 and node.input[1] in values
    ]


def quantise(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """The int8 variant of a float32 artifact: quantised convolutions, and 8-bit weights in dense layers.

    Those convolutions are quantised whose inputs' ranges are given; where a network bears it badly, leave some out.

    Raises:
        KeyError: the ranges were observed on another network.
    """
    prepared = fold_batch_norm(model)
    values = constants(prepared)
    able = [node for node in (*pointwise(prepared), *_larger(prepared)) if node.input[0] in ranges]
    chosen = {node.output[0] for node in able}
    if unknown := ranges.keys() - {node.input[0] for node in able}:
        raise KeyError(f"no convolution of the network reads {min(unknown)}")
    nodes: list[onnx.NodeProto] = []
    for node in prepared.graph.node:
        if node.output[0] in chosen:
            data = _quantised_input(nodes, values, node.input[0], ranges[node.input[0]])
            weight = _quantised_weight(nodes, values, node.input[1])
            fused = helper.make_node("Conv", [data, weight, *node.input[2:]], node.output[:])
            fused.attribute.extend(node.attribute)
            nodes.append(fused)
        elif _is_dense(node, values):
            weight = _quantised_weight(nodes, values, node.input[1])
            dense = helper.make_node("Gemm", [node.input[0], weight, *node.input[2:]], node.output[:])
            dense.attribute.extend(node.attribute)
            nodes.append(dense)
        else:
            nodes.append(node)
    entries, exits = list(prepared.graph.input), list(prepared.graph.output)
    return assemble(nodes, values, entries, exits, f"{model.graph.name}_int8", opset=opset_of(model))


def _is_dense(node: onnx.NodeProto, values: dict[str, Array]) -> bool:
    return node.op_type == "Gemm" and attribute(node, "transB", 0) == 1 and node.input[1] in values


def _quantised_input(
    nodes: list[onnx.NodeProto], values: dict[str, Array], name: str, bounds: tuple[float, float]
) -> str:
    if f"{name}_scale" in values:  # another convolution reads it too
        return f"{name}_rounded"
    low, high = bounds
    scale = np.float32(max(high - low, 1e-9) / 255)
    values[f"{name}_scale"] = np.array(scale)
    values[f"{name}_zero"] = np.array(np.uint8(round(-low / float(scale))))
    nodes += [
        helper.make_node("QuantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_codes"]),
        helper.make_node("DequantizeLinear", [f"{name}_codes", f"{name}_scale", f"{name}_zero"], [f"{name}_rounded"]),
    ]
    return f"{name}_rounded"


def _quantised_weight(nodes: list[onnx.NodeProto], values: dict[str, Array], name: str) -> str:
    weight = values[name]
    greatest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scale = np.maximum(greatest / np.float32(WEIGHT_LIMIT), np.float32(1e-12)).astype(np.float32)
    codes = np.rint(weight / scale.reshape(-1, *(1,) * (weight.ndim - 1))).astype(np.int8)
    values[f"{name}_codes"], values[f"{name}_scale"] = codes, scale
    values[f"{name}_zero"] = np.zeros(len(scale), np.int8)
    nodes.append(
        helper.make_node(
            "DequantizeLinear", [f"{name}_codes", f"{name}_scale", f"{name}_zero"], [f"{name}_rounded"], axis=0
        )
    )
    return f"{name}_rounded"
