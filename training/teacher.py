"""Learning from another network: its embeddings of the training photos, and the losses towards them.

Either the teacher sees each photo once, as it is (`embed_photos`), and the student, who sees it changed in every epoch,
is asked for the same embedding: what the augmentation does is learnt not to matter. Or the teacher sees the very crops
that the student sees (`Watching`), mixed ones too, and is copied as the function that it is, which takes patience and
few photos (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent"). Any ONNX model in
the product's contract, such as `models/sface`, can teach.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from service.artifact.files import sha256, write_atomic
from service.errors import EngineAbsentError
from service.vision import engines
from training.errors import ConfigError, DataError
from training.photos import decode
from training.sources import Source


def towards(student: Tensor, teacher: Tensor) -> Tensor:
    """() mean of 1 - cosine between (n, dim) embeddings of student and teacher."""
    return (1.0 - functional.cosine_similarity(student, teacher, dim=1)).mean()


def relations(student: Tensor, teacher: Tensor) -> Tensor:
    """() how much the distances within a batch differ (Park et al. 2019, equations 3 and 4).

    Both networks' distances, each divided by their mean over the batch, compared by the Huber loss; the embeddings may
    be of different lengths and dimensions.
    """
    return functional.smooth_l1_loss(_distances(student), _distances(teacher))


def _distances(embeddings: Tensor) -> Tensor:
    """(n (n - 1) / 2,) distances between unit vectors, divided by their mean."""
    distances = functional.pdist(functional.normalize(embeddings))
    return distances / distances.mean().clamp_min(1e-12)


class Watching:
    """A teacher that sees what the student sees, on one thread of the process that makes the batches.

    It opens its network when it is first asked, in each process by itself: a network's threads do not survive the fork
    of a loader.

    Args:
        path: the ONNX model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine: engines.Engine | None = None

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, dim) unit vectors of (n, 112, 112, 3) uint8 crops."""
        self._engine = self._engine or quickest(self.path)
        (vectors,) = self._engine(crops).values()
        return np.asarray(vectors, np.float32)

    def __reduce__(self) -> tuple[type[Watching], tuple[Path]]:
        return Watching, (self.path,)


def quickest(path: Path) -> engines.Engine:
    """The quickest way to run a model on one thread: in bfloat16, where OpenVINO is installed and the CPU has it."""
    try:
        return engines.openvino(path, precision="bf16")
    except EngineAbsentError:
        return engines.onnxruntime(path)


def dimension(path: Path) -> int:
    """Length of a model's vectors.

    Raises:
        ConfigError: the file is no model of the contract.
    """
    shape = open_model(path).get_outputs()[0].shape
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise ConfigError(f"{path} does not say how many numbers its vectors have: its output is {shape}")
    return shape[1]


def open_model(path: Path, *, threads: int = 0) -> ort.InferenceSession:
    """Open a recognition model of the contract: (n, 112, 112, 3) uint8 in, (n, dim) unit vectors out.

    Raises:
        ConfigError: the file is no such model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(path, options, providers=ort.get_available_providers())
    except Exception as error:  # the runtime's own errors share no public type
        raise ConfigError(f"{path} cannot be opened as an ONNX model: {error}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or list(inputs[0].shape[1:]) != [112, 112, 3]:
        raise ConfigError(f"{path} does not take (n, 112, 112, 3) uint8 crops")
    return session


NOTHING = np.zeros((112, 112, 3), np.uint8)


def _crop(source: Source, number: int) -> NDArray[np.uint8] | None:
    try:
        return np.array(decode(source.read(number)))
    except (DataError, OSError):
        return None


def embed_photos(path: Path, source: Source, kept: Path, *, batch: int = 64, threads: int = 0) -> NDArray[np.float32]:
    """The teacher's embeddings of all photos, computed once and kept on disk.

    Args:
        path: the ONNX model.
        source: the photos.
        kept: where the embeddings are kept (.npy), and beside them (.json) whose they are: what is there already is
            used if this teacher made it of these photos.
        batch: photos at a time.
        threads: of the runtime; 0 takes one a core.

    Returns:
        (n, dim) unit vectors, mapped from the file; NaN for a photo that cannot be decoded, which no step shows.
    """
    session = open_model(path, threads=threads)
    note, made = kept.with_suffix(".json"), {"teacher": sha256(path), "photos": source.digest()}
    if kept.exists() and note.exists() and json.loads(note.read_text("utf-8")) == made:
        found: NDArray[np.float32] = np.load(kept, mmap_mode="r")
        return found
    note.unlink(missing_ok=True)  # a kill before the end then leaves none that are taken for others
    name = session.get_inputs()[0].name
    partial = kept.with_suffix(".partial.npy")
    embeddings: NDArray[np.float32] | None = None
    for start in range(0, len(source), batch):
        numbers = range(start, min(start + batch, len(source)))
        decoded = [_crop(source, number) for number in numbers]
        (answer,) = session.run(None, {name: np.stack([NOTHING if each is None else each for each in decoded])})
        answer[[each is None for each in decoded]] = np.nan
        if embeddings is None:
            embeddings = open_memmap(partial, "w+", np.float32, (len(source), answer.shape[1]))
        embeddings[start : start + len(answer)] = answer
    assert embeddings is not None, "a source is never empty"  # noqa: S101 - tells the type checker
    embeddings.flush()  # type: ignore[attr-defined]  # a memory map, which numpy's types call an array
    partial.replace(kept)
    write_atomic(note, json.dumps(made).encode())
    taught: NDArray[np.float32] = np.load(kept, mmap_mode="r")
    return taught
