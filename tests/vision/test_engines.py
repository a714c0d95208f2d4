from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import openvino
import pytest

from service.artifact.sample import crops
from service.artifact.store import decode_sample
from service.errors import EngineAbsentError, EngineError
from service.vision import engines

PIXELS = np.random.default_rng(1).integers(0, 256, (2, 96, 128, 3), np.uint8)
LOADERS = {
    "reference": engines.reference,
    "onnxruntime": engines.onnxruntime,
    "openvino": engines.openvino,
}


@pytest.fixture(scope="module")
def path(models):
    """Gives a model's file."""
    return lambda name: models.file(models.manifest(name))


@pytest.fixture(scope="module", params=LOADERS)
def loaded(request, path):
    """Recognition and detection in one of the engines, two streams each."""
    load = LOADERS[request.param]
    return load(path("sface"), streams=2), load(path("yunet"), streams=2)


def cosines(a, b):
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_recognition_reproduces_the_manifests_sample(loaded, models):
    manifest = models.manifest("sface")
    (given,) = loaded[0](crops()).values()
    assert (given.shape, given.dtype) == ((8, 128), np.float32)
    assert cosines(given, decode_sample(manifest.sample.embeddings, 128)).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-5)


def test_detection_gives_every_head_under_its_name(loaded, path):
    given, expected = loaded[1](PIXELS), engines.reference(path("yunet"))(PIXELS)
    assert given.keys() == expected.keys()
    assert len(given) == 12
    for name, values in expected.items():
        np.testing.assert_allclose(given[name], values, atol=1e-3, err_msg=name)


def test_shapes_may_change_from_call_to_call(loaded):
    for height, width in ((64, 64), (128, 96), (64, 64)):
        heads = loaded[1](np.zeros((1, height, width, 3), np.uint8))
        assert heads["cls_8"].shape == (1, height * width // 64, 1)


def test_calls_from_many_threads_give_what_calls_in_turn_give(loaded):
    sample = crops()
    pieces = [sample[first : first + size] for first in range(8) for size in (1, 2)]
    in_turn = [loaded[0](piece)["embeddings"] for piece in pieces]
    with ThreadPoolExecutor(6) as pool:
        at_once = list(pool.map(lambda piece: loaded[0](piece)["embeddings"], pieces))
    for first, second in zip(in_turn, at_once, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_an_answer_stays_as_it_is_when_the_engine_goes_on(loaded):
    sample = crops()
    first = loaded[0](sample[:1])["embeddings"]
    kept = first.copy()
    loaded[0](sample[1:2])
    np.testing.assert_array_equal(first, kept)


def test_a_batch_of_another_shape_is_an_error_and_the_engine_goes_on(loaded):
    with pytest.raises((RuntimeError, ValueError, ort.capi.onnxruntime_pybind11_state.InvalidArgument)):
        loaded[0](np.zeros((1, 64, 64, 3), np.uint8))
    assert len(loaded[0](crops()[:1])["embeddings"]) == 1


@pytest.mark.parametrize("load", [engines.reference, engines.openvino], ids=["onnxruntime", "openvino"])
def test_a_file_that_is_no_network_is_told(load, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no network")
    with pytest.raises(EngineError, match="cannot load the model"):
        load(tmp_path / "model.onnx")


def test_without_a_gpu_cuda_is_an_error_and_never_another_engine(path, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineAbsentError, match="onnxruntime-gpu"):
        engines.cuda(path("yunet"))


def test_a_cuda_that_does_not_start_is_an_error_and_never_another_engine(path, monkeypatch):
    # As where onnxruntime-gpu is installed and the driver is missing: the session starts on the CPU alone.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    plain = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda model, options, providers: plain(model, options, providers=providers[1:])
    )
    with pytest.raises(EngineError, match="GPU"):
        engines.cuda(path("yunet"))


def test_half_precision_runs_here_or_says_that_it_cannot(path, models):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EngineAbsentError, match="bf16"):
            engines.openvino(path("sface"), precision="bf16")
    else:
        given = engines.openvino(path("sface"), precision="bf16")(crops())["embeddings"]
        assert cosines(given, decode_sample(models.manifest("sface").sample.embeddings, 128)).min() > 0.998


def test_the_int8_variant_stays_near_the_reference(models):
    manifest = models.manifest("sface")
    engine = engines.openvino(models.file(manifest, manifest.variants[0]), name="openvino-int8")
    expected = decode_sample(manifest.sample.embeddings, 128)
    assert cosines(engine(crops())["embeddings"], expected).min() > 0.97
