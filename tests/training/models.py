"""A tiny ONNX model in the product's contract: crops in, unit vectors of 48 numbers out."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tiny_model(path):
    """Average colours of a 4 x 4 grid, centred and brought to unit length."""
    nodes = [
        helper.make_node("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["grid"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Sub", ["grid", "middle"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["embeddings"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", 112, 112, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 48])],
        [numpy_helper.from_array(np.float32(127.5), "middle")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
