"""Photos in, unit vectors out, from a trained network or an ONNX model, with the same code around both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.errors import DataError
from training.photos import decode
from training.sources import Source
from training.teacher import open_model

Embedder = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(n, 112, 112, 3) uint8 RGB crops -> (n, dim) float32 vectors."""


class Photos(Protocol):
    """Encoded photos by number; a list of them, or something that reads them when they are asked for."""

    def __len__(self) -> int:
        """Number of photos."""
        ...

    def __getitem__(self, index: int, /) -> bytes:
        """The bytes of a photo."""
        ...


Model = Callable[[Photos], NDArray[np.float32]]
"""Encoded photos -> (n, dim) float32 of unit length: a network, a file or a service, behind one call."""


class PhotosOf:
    """The photos of a data set, each read when it is asked for: a million of them need no memory."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> bytes:
        return self._source.read(index)

    def place(self, index: int) -> str:
        """Where a photo lies, for messages."""
        return self._source.place(index)


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


def embed(embedder: Embedder, photos: Photos, *, batch: int = 64, flip: bool = False) -> NDArray[np.float32]:
    """Embed encoded photos.

    Args:
        embedder: crops to vectors.
        photos: encoded crops.
        batch: crops at a time.
        flip: embed the mirrored crop too and add both vectors: a little better, twice the work, and not what the
            service does.

    Returns:
        (n, dim) float32 of unit length; beside them no more than a batch is held.

    Raises:
        DataError: a photo cannot be decoded.
    """
    embeddings = np.empty((0, 0), np.float32)
    for start in range(0, len(photos), batch):
        numbers = range(start, min(start + batch, len(photos)))
        crops = np.stack([crop(photos, number) for number in numbers])
        vectors = unit(embedder(crops))
        if flip:
            vectors = unit(vectors + unit(embedder(np.ascontiguousarray(crops[:, :, ::-1]))))
        if not start:
            embeddings = np.empty((len(photos), vectors.shape[1]), np.float32)
        embeddings[start : start + len(vectors)] = vectors
    return embeddings


def crop(photos: Photos, number: int) -> NDArray[np.uint8]:
    """(112, 112, 3) uint8 RGB of one of the photos.

    Raises:
        DataError: it cannot be decoded; the error says which it is.
    """
    try:
        return np.array(decode(photos[number]))
    except DataError as error:
        where = photos.place(number) if isinstance(photos, PhotosOf) else f"photo {number}"
        raise DataError(f"{where}: {error.detail}") from error


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, dim) vectors brought to unit length; one of no length stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    brought: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return brought
