"""Rewriting ONNX graphs into the contract: uint8 RGB in, float32 out, a free batch, nothing left to fold.

Read top to bottom: `fold_constants` undoes block quantisation, `sface` and `yunet` bring the two default networks
into the contract, `fold_batch_norm` and `split_prelu` make a graph faster without changing what it computes, and
`serialise` writes bytes that are the same on every machine, so that their digest can be pinned.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from service.errors import ManifestError

Array = NDArray[Any]

OPSET = 21
"""Of the default models' files; a graph that comes with a newer one keeps its own."""
IR_VERSION = 10
CROP = 112
"""Side of an aligned crop in pixels."""


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    """The initialisers of a graph by name."""
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute, or the default."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def consumers(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def assemble(
    nodes: list[onnx.NodeProto],
    values: dict[str, Array],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    name: str,
    *,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A checked model of the product's opset, or a newer one, that holds only the initialisers its nodes use."""
    used = {item for node in nodes for item in node.input}
    kept = [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in values.items() if key in used]
    graph = helper.make_graph(nodes, name, inputs, outputs, kept)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION, producer_name="vultus"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of a graph after it was rewritten: its own, and the product's at least."""
    versions = [int(item.version) for item in model.opset_import if not item.domain]
    return max([OPSET, *versions])


def serialise(model: onnx.ModelProto) -> bytes:
    """The model's bytes, the same for the same model on every machine."""
    return bytes(model.SerializeToString(deterministic=True))


def load(path: Path) -> onnx.ModelProto:
    """Read a model file.

    Raises:
        ManifestError: the file is no ONNX model.
    """
    try:
        return onnx.load_model(path)
    except Exception as error:
        raise ManifestError(f"{path.name} is no ONNX model") from error


def fold_constants(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Turn block-quantised weights into float32 initialisers.

    `DequantizeLinear` with `block_size` computes (q - zero_point) * scale with one scale a block (ONNX operator
    reference, version 21); ONNX Runtime would do so again at every run.

    Returns:
        The nodes that are left, in order, and all initialisers by name.
    """
    values = constants(model)
    left = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and all(name in values for name in node.input):
            codes, scales, zeros = (values[name] for name in node.input)
            axis, block = int(str(attribute(node, "axis", 1))), int(str(attribute(node, "block_size", 0)))
            length = codes.shape[axis]
            scale, zero = (np.repeat(item, block, axis=axis).take(range(length), axis=axis) for item in (scales, zeros))
            centred = codes.astype(np.int32) - zero.astype(np.int32)
            values[node.output[0]] = (centred.astype(np.float32) * scale).astype(np.float32)
        elif node.op_type == "Reshape" and all(name in values for name in node.input):
            values[node.output[0]] = values[node.input[0]].reshape(values[node.input[1]])
        elif node.op_type == "Constant" and attribute(node, "value") is not None:
            values[node.output[0]] = numpy_helper.to_array(attribute(node, "value"))
        elif node.op_type == "Dropout":
            left.append(helper.make_node("Identity", node.input[:1], node.output[:1]))
        else:
            left.append(node)
    return _without_identities(left), values


def _without_identities(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    renamed: dict[str, str] = {}
    left = []
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        if node.op_type == "Identity":
            renamed[node.output[0]] = node.input[0]
        else:
            left.append(node)
    return left


def _uint8_rgb(tensor: str, *, height: int | str, width: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor, onnx.TensorProto.UINT8, ["n", height, width, 3])


def sface(model: onnx.ModelProto) -> onnx.ModelProto:
    """SFace of OpenCV Zoo in the contract: `crops` (n,112,112,3) uint8 RGB to `embeddings` (n,128), unit length.

    The published graph takes (1,3,112,112) float32, RGB, 0 to 255, and subtracts 127.5 and scales by 1/128 itself.
    """
    nodes, values = fold_constants(model)
    entry, last = model.graph.input[0].name, model.graph.output[0].name
    dim = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    before = [
        helper.make_node("Cast", ["crops"], ["crops_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["crops_float"], [entry], perm=[0, 3, 1, 2]),
    ]
    after = [helper.make_node("LpNormalization", [last], ["embeddings"], axis=1, p=2)]
    return assemble(
        [*before, *nodes, *after],
        values,
        [_uint8_rgb("crops", height=CROP, width=CROP)],
        [helper.make_tensor_value_info("embeddings", onnx.TensorProto.FLOAT, ["n", dim])],
        "sface",
    )


def yunet(model: onnx.ModelProto) -> onnx.ModelProto:
    """YuNet of OpenCV Zoo in the contract: `photos` (n,H,W,3) uint8 RGB, H and W multiples of 32, to its twelve heads.

    The published graph takes one BGR photo of 640x640 as float32, 0 to 255. Its last reshapes merge the batch into
    the anchors; a leading 0 in their shape ("copy this dimension") keeps photos apart.
    """
    nodes, values = fold_constants(model)
    entry = model.graph.input[0].name
    heads = {item.name: item.type.tensor_type.shape.dim[2].dim_value for item in model.graph.output}
    for node in nodes:
        if node.op_type == "Reshape":
            width = values[node.input[1]].reshape(-1)[-1]
            node.input[1] = f"keep_batch_{width}"
            values[node.input[1]] = np.array([0, -1, width], np.int64)
    values["bgr"] = np.array([2, 1, 0], np.int64)
    before = [
        helper.make_node("Cast", ["photos"], ["photos_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["photos_float"], ["photos_rgb"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["photos_rgb", "bgr"], [entry], axis=1),
    ]
    return assemble(
        [*before, *nodes],
        values,
        [_uint8_rgb("photos", height="height", width="width")],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", f"anchors_{name}", width])
            for name, width in heads.items()
        ],
        "yunet",
    )


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold every BatchNormalization that alone follows a Conv into that convolution's weights and bias.

    y = g (Wx + b - mean) / sqrt(var + eps) + beta (Ioffe and Szegedy 2015, inference form), computed in float64.
    """
    nodes, values = list(model.graph.node), constants(model)
    readers = consumers(nodes)
    left: list[onnx.NodeProto] = []
    skip: set[str] = set()
    for node in nodes:
        if node.output[0] in skip:
            continue
        following = readers.get(node.output[0], [])
        if node.op_type == "Conv" and len(following) == 1 and following[0].op_type == "BatchNormalization":
            norm = following[0]
            gain, beta, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:5])
            scale = gain / np.sqrt(variance + float(str(attribute(norm, "epsilon", 1e-5))))
            weight = values[node.input[1]]
            bias = values[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(len(weight))
            name = node.output[0]
            shape = (-1,) + (1,) * (weight.ndim - 1)
            values[f"{name}_weight"] = (weight * scale.reshape(shape)).astype(np.float32)
            values[f"{name}_bias"] = ((bias - mean) * scale + beta).astype(np.float32)
            fused = helper.make_node("Conv", [node.input[0], f"{name}_weight", f"{name}_bias"], norm.output[:1])
            fused.attribute.extend(node.attribute)
            left.append(fused)
            skip.add(norm.output[0])
        else:
            left.append(node)
    entries, exits = list(model.graph.input), list(model.graph.output)
    return assemble(left, values, entries, exits, model.graph.name, opset=opset_of(model))


def split_prelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite PRelu so that ONNX Runtime's CPU kernels stay in their blocked layout.

    PRelu(x) = a x + (1 - a) relu(x). Where a depthwise convolution K alone follows, the two slopes go into its
    weights, K * PRelu(x) = (aK) * x + ((1 - a)K) * relu(x); elsewhere two depthwise 1x1 convolutions scale the
    terms. Both differ from PRelu by rounding only, and ONNX Runtime runs them about twice as fast.
    """
    folded = fold_batch_norm(model)
    nodes, values = list(folded.graph.node), constants(folded)
    readers = consumers(nodes)
    left: list[onnx.NodeProto] = []
    merged: dict[str, tuple[str, Array]] = {}
    for node in nodes:
        if node.op_type == "PRelu" and node.input[1] in values:
            x, y = node.input[0], node.output[0]
            slope = values[node.input[1]].reshape(-1)
            left.append(helper.make_node("Relu", [x], [f"{y}_relu"]))
            following = readers.get(y, [])
            if len(following) == 1 and _is_depthwise(following[0], values, len(slope)):
                merged[y] = (x, slope)
            else:
                _scaled_sum(left, values, x, y, slope)
        elif node.op_type == "Conv" and node.input[0] in merged:
            x, slope = merged[node.input[0]]
            weight, out = values[node.input[1]], node.output[0]
            column = slope.reshape(-1, 1, 1, 1)
            values[f"{out}_linear"], values[f"{out}_rest"] = weight * column, weight * (1 - column)
            linear = helper.make_node("Conv", [x, f"{out}_linear", *node.input[2:]], [f"{out}_a"])
            rest = helper.make_node("Conv", [f"{node.input[0]}_relu", f"{out}_rest"], [f"{out}_b"])
            for part in (linear, rest):
                part.attribute.extend(node.attribute)
            left += [linear, rest, helper.make_node("Add", [f"{out}_a", f"{out}_b"], [out])]
        else:
            left.append(node)
    entries, exits = list(model.graph.input), list(model.graph.output)
    return assemble(left, values, entries, exits, model.graph.name, opset=opset_of(model))


def _is_depthwise(node: onnx.NodeProto, values: dict[str, Array], channels: int) -> bool:
    return node.op_type == "Conv" and attribute(node, "group", 1) == channels and node.input[1] in values


def _scaled_sum(left: list[onnx.NodeProto], values: dict[str, Array], x: str, y: str, slope: Array) -> None:
    channels = len(slope)
    values[f"{y}_slope"] = slope.reshape(channels, 1, 1, 1)
    values[f"{y}_rest"] = (1 - slope).reshape(channels, 1, 1, 1)
    left += [
        helper.make_node("Conv", [x, f"{y}_slope"], [f"{y}_a"], group=channels, kernel_shape=[1, 1]),
        helper.make_node("Conv", [f"{y}_relu", f"{y}_rest"], [f"{y}_b"], group=channels, kernel_shape=[1, 1]),
        helper.make_node("Add", [f"{y}_a", f"{y}_b"], [y]),
    ]


def in_contract(model: onnx.ModelProto) -> bool:
    """Whether a graph takes (n,112,112,3) uint8 already and gives one matrix, as `training.export` writes it."""
    entries = _entries(model)
    if len(entries) != 1 or len(model.graph.output) != 1:
        return False
    entry = entries[0].type.tensor_type
    sides = [item.dim_value for item in entry.shape.dim]
    return bool(entry.elem_type == onnx.TensorProto.UINT8 and sides[1:] == [CROP, CROP, 3])


def wrap_recognition(model: onnx.ModelProto, *, colour: str, mean: float, scale: float) -> onnx.ModelProto:
    """Bring a foreign recognition network into the contract: its preprocessing before it, the L2 norm behind it.

    Args:
        model: takes (n or 1,3,112,112) float32 and gives (n,dim) float32.
        colour: order of the channels that the network wants, "rgb" or "bgr".
        mean: subtracted from the pixels, which are 0 to 255.
        scale: what the difference is divided by.

    Raises:
        ManifestError: the network has another shape of input or output.
    """
    entries = _entries(model)
    shape = [item.dim_value for item in entries[0].type.tensor_type.shape.dim] if len(entries) == 1 else []
    if shape[1:] != [3, CROP, CROP] or len(model.graph.output) != 1:
        raise ManifestError(
            f"a recognition network takes (n,3,{CROP},{CROP}) and gives one matrix; this one takes {shape}"
        )
    entry, last = entries[0].name, model.graph.output[0].name
    dim = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if dim <= 0:
        raise ManifestError("the network does not state the length of its embeddings")
    order = [2, 1, 0] if colour == "bgr" else [0, 1, 2]
    added = {
        "vultus_order": np.array(order, np.int64),
        "vultus_mean": np.array(mean, np.float32),
        "vultus_scale": np.array(scale, np.float32),
    }
    before = [
        helper.make_node("Cast", ["crops"], ["vultus_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["vultus_float"], ["vultus_planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["vultus_planes", "vultus_order"], ["vultus_ordered"], axis=1),
        helper.make_node("Sub", ["vultus_ordered", "vultus_mean"], ["vultus_centred"]),
        helper.make_node("Div", ["vultus_centred", "vultus_scale"], [entry]),
    ]
    after = [helper.make_node("LpNormalization", [last], ["embeddings"], axis=1, p=2)]
    constants_ = [*model.graph.initializer, *(numpy_helper.from_array(value, name) for name, value in added.items())]
    graph = helper.make_graph(
        [*before, *model.graph.node, *after],
        "recognition",
        [_uint8_rgb("crops", height=CROP, width=CROP)],
        [helper.make_tensor_value_info("embeddings", onnx.TensorProto.FLOAT, ["n", dim])],
        constants_,
    )
    wrapped = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        onnx.checker.check_model(wrapped, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ManifestError(f"the network cannot be brought into the contract: {error}") from error
    return wrapped


def _entries(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    known = {item.name for item in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in known]
