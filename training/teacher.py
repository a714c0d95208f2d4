"""Learning from another network: its embeddings of the training photos, and the losses towards them.

The teacher sees each photo once, as it is; the student sees it changed in every epoch and is asked for the same
embedding, so that what the augmentation does is learnt not to matter. Any ONNX model in the product's contract, such as
`models/sface`, can teach.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.data import Source, decode
from training.errors import ConfigError


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


def embed_photos(path: Path, source: Source, kept: Path, *, batch: int = 64, threads: int = 0) -> NDArray[np.float32]:
    """The teacher's embeddings of all photos, computed once and kept on disk.

    Args:
        path: the ONNX model.
        source: the photos.
        kept: where the embeddings are kept (.npy); a whole file that is there already is used.
        batch: photos at a time.
        threads: of the runtime; 0 takes one a core.

    Returns:
        (n, dim) unit vectors, mapped from the file.
    """
    if kept.exists():
        found: NDArray[np.float32] = np.load(kept, mmap_mode="r")
        if len(found) == len(source):
            return found
    session = open_model(path, threads=threads)
    name = session.get_inputs()[0].name
    partial = kept.with_suffix(".partial.npy")
    embeddings: NDArray[np.float32] | None = None
    for start in range(0, len(source), batch):
        numbers = range(start, min(start + batch, len(source)))
        crops = np.stack([np.array(decode(source.read(number))) for number in numbers])
        (answer,) = session.run(None, {name: crops})
        if embeddings is None:
            embeddings = open_memmap(partial, "w+", np.float32, (len(source), answer.shape[1]))
        embeddings[start : start + len(answer)] = answer
    assert embeddings is not None, "a source is never empty"  # noqa: S101 - tells the type checker
    embeddings.flush()  # type: ignore[attr-defined]  # a memory map, which numpy's types call an array
    partial.replace(kept)
    taught: NDArray[np.float32] = np.load(kept, mmap_mode="r")
    return taught
