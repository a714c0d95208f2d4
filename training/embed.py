"""Photos in, unit vectors out, from a trained network or an ONNX model, with the same code around both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.data import decode
from training.teacher import open_model

Embedder = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(n, 112, 112, 3) uint8 RGB crops -> (n, dim) float32 vectors."""


def of_network(network: nn.Module, device: torch.device | None = None) -> Embedder:
    """Embed with a `training.backbones.Recogniser`, in float32 and in evaluation mode."""
    place = device or torch.device("cpu")

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        training = network.training
        network.eval()
        with torch.inference_mode():
            embeddings: NDArray[np.float32] = network(torch.from_numpy(crops).to(place)).float().cpu().numpy()
        network.train(training)
        return embeddings

    return run


def of_onnx(path: Path, *, threads: int = 0) -> Embedder:
    """Embed with an ONNX model of the product's contract."""
    session = open_model(path, threads=threads)
    name = session.get_inputs()[0].name

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        embeddings: NDArray[np.float32] = session.run(None, {name: crops})[0]
        return embeddings

    return run


def embed(embedder: Embedder, photos: Sequence[bytes], *, batch: int = 64, flip: bool = False) -> NDArray[np.float32]:
    """Embed encoded photos.

    Args:
        embedder: crops to vectors.
        photos: encoded crops.
        batch: crops at a time.
        flip: embed the mirrored crop too and add both vectors: a little better, twice the work, and not what the
            service does.

    Returns:
        (n, dim) float32 of unit length.

    Raises:
        DataError: a photo cannot be decoded.
    """
    parts = []
    for start in range(0, len(photos), batch):
        crops = np.stack([np.array(decode(photo)) for photo in photos[start : start + batch]])
        vectors = unit(embedder(crops))
        if flip:
            vectors = unit(vectors + unit(embedder(np.ascontiguousarray(crops[:, :, ::-1]))))
        parts.append(vectors)
    return np.concatenate(parts)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, dim) vectors brought to unit length; one of no length stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    brought: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return brought
