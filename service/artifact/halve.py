"""A bf16 variant of a network: its weights rounded to bfloat16, half the bytes.

What computes with them is up to the engine: OpenVINO multiplies in bfloat16 where the processor does, ONNX Runtime
widens the weights once, when it loads the file, and computes in float32.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from service.artifact.graph import IR_VERSION, Array, opset_of

LEAST: Final = 256
"""Tensors of fewer numbers stay as they are: they weigh nothing, and scales and slopes are among them."""


def rounded(values: Array) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to the nearest and to even: the bits of bfloat16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return upper


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """The bf16 variant of a float32 artifact: large weights in bfloat16, each behind a cast to float32."""
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    casts = []
    for tensor in halved.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST:
            continue
        name = tensor.name
        tensor.ClearField("float_data")
        tensor.name, tensor.data_type = f"{name}_bf16", onnx.TensorProto.BFLOAT16
        tensor.raw_data = rounded(values).astype("<u2").tobytes()
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    graph = helper.make_graph(
        [*casts, *halved.graph.node],
        f"{model.graph.name}_bf16",
        list(halved.graph.input),
        list(halved.graph.output),
        list(halved.graph.initializer),
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset_of(model))],
        ir_version=IR_VERSION,
        producer_name="vultus",
    )
    onnx.checker.check_model(made, full_check=True)
    return made
