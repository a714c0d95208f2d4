"""Inference engines: one artifact file, run by ONNX Runtime or OpenVINO, all behind the same small protocol.

ONNX Runtime on the unchanged float32 file is the reference. An engine may be called from several threads at once:
each call runs on one of `streams` streams of one thread each, which on a CPU gives more faces a second than one
stream of many threads.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import EngineAbsentError, EngineError

if TYPE_CHECKING:
    import onnxruntime as ort

Outputs = dict[str, NDArray[np.float32]]


class Engine(Protocol):
    """A loaded network."""

    @property
    def name(self) -> str:
        """How the engine is called in settings and answers."""
        ...

    def __call__(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run a batch.

        Args:
            batch: (n,...) uint8, as the artifact's manifest describes its input.

        Returns:
            Every output by name, float32, (n,...).
        """
        ...


@dataclass(frozen=True)
class OnnxRuntimeEngine:
    """A network in an ONNX Runtime session."""

    name: str
    session: ort.InferenceSession

    def __call__(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run a batch on the calling thread."""
        names = [item.name for item in self.session.get_outputs()]
        values = self.session.run(names, {self.session.get_inputs()[0].name: batch})
        return dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class OpenVinoEngine:
    """A network compiled by OpenVINO, with a pool of infer requests."""

    name: str
    outputs: tuple[str, ...]
    requests: queue.SimpleQueue[Any]

    def __call__(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run a batch on the first free request."""
        request = self.requests.get()
        try:
            values = request.infer({0: batch}, share_inputs=True)
            return {name: np.array(values[place]) for place, name in enumerate(self.outputs)}
        finally:
            self.requests.put(request)


def load(name: str, path: Path, *, streams: int = 1) -> Engine:
    """An engine by its name.

    Args:
        name: `reference`, `cuda`, `onnxruntime`, `openvino`, `openvino-bf16` or `openvino-int8`.
        path: the file that it runs.
        streams: calls that may run at once.

    Raises:
        EngineError: it does not load.
    """
    if name.startswith("openvino"):
        return openvino(path, streams=streams, name=name, precision="bf16" if name == "openvino-bf16" else "f32")
    return {"reference": reference, "cuda": cuda, "onnxruntime": onnxruntime}[name](path, streams=streams)


def reference(path: Path, *, streams: int = 1) -> Engine:
    """ONNX Runtime's default CPU session over the file as it is, one thread a call."""
    return reference_of(path.read_bytes(), streams=streams)


def reference_of(model: bytes, *, streams: int = 1) -> Engine:
    """The same over the bytes of a file."""
    return OnnxRuntimeEngine("reference", _session(model, ["CPUExecutionProvider"], streams))


def onnxruntime(path: Path, *, streams: int = 1) -> Engine:
    """ONNX Runtime over the file with its PRelus, if it has any, rewritten (`graph.split_prelu`)."""
    model = path.read_bytes()
    if b"PRelu" in model:
        from service.artifact import graph  # noqa: PLC0415 - the onnx package is large, and most starts need none of it

        model = graph.serialise(graph.split_prelu(graph.load(path)))
    return OnnxRuntimeEngine("onnxruntime", _session(model, ["CPUExecutionProvider"], streams))


def cuda(path: Path, *, streams: int = 1) -> Engine:
    """ONNX Runtime on the first NVIDIA GPU; never a silent fall-back to the CPU.

    Raises:
        EngineError: this ONNX Runtime has no CUDA, or the session did not start on it.
    """
    import onnxruntime as ort  # noqa: PLC0415 - large, and not every process needs it

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise EngineAbsentError("the engine cuda needs onnxruntime-gpu and an NVIDIA driver (the extra `gpu`)")
    ort.preload_dlls()  # CUDA and cuDNN come as wheels, which the loader does not look into
    session = _session(path.read_bytes(), ["CUDAExecutionProvider", "CPUExecutionProvider"], streams)
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise EngineError("ONNX Runtime could not start on the GPU")
    return OnnxRuntimeEngine("cuda", session)


def _session(model: bytes, providers: list[str], streams: int) -> ort.InferenceSession:
    import onnxruntime as ort  # noqa: PLC0415 - as above

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Codes are computed as the file says: put together, their products saturate on processors without VNNI, and what
    # is chosen or judged by this engine would be another network there.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if streams > 1:
        # Concurrent runs would all fight for one arena's high-water mark after a burst of large photos.
        options.enable_mem_pattern = False
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises a family of its own without a common public root
        raise EngineError(f"ONNX Runtime cannot load the model: {error}") from error


def openvino(path: Path, *, streams: int = 1, name: str = "openvino", precision: str = "f32") -> Engine:
    """OpenVINO over a file.

    Args:
        path: the artifact's float32 or int8 file.
        streams: calls that may run at once, each on one thread.
        name: how the engine is called in answers.
        precision: "f32" or "bf16", for what is not quantised.

    Raises:
        EngineError: OpenVINO is not installed, cannot load the file, or the CPU lacks the precision.
    """
    try:
        import openvino as ov  # noqa: PLC0415 - an optional engine, loaded when it is asked for
    except ImportError as error:
        raise EngineAbsentError("the engine openvino is not installed (the extra `cpu`)") from error
    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineAbsentError("this CPU does not compute in bf16")
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": streams,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,
        "PERFORMANCE_HINT": "THROUGHPUT",
    }
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", config)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot load the model: {error}") from error
    # A tensor may carry several names; the result's own node keeps the graph's.
    names = tuple(item.get_node().get_friendly_name().removesuffix("/sink_port_0") for item in compiled.outputs)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(streams):
        requests.put(compiled.create_infer_request())
    return OpenVinoEngine(name, names, requests)
