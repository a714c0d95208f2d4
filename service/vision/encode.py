"""Crops to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import EngineError
from service.vision.engines import Engine

LENGTH_TOLERANCE: Final = 1e-3
"""How far from 1 the length of an embedding may lie before the engine counts as broken."""


class Encoder:
    """A recognition network as a function of crops.

    Args:
        engine: runs an artifact with one output, (n,dim), unit length.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Encode crops.

        Args:
            crops: n crops of (112,112,3) uint8 RGB; n of 0 is allowed.

        Returns:
            (n,dim) float32, rows of unit length, renormalised in float32.

        Raises:
            EngineError: the network gave values that are no embedding.
        """
        if not crops:
            return np.empty((0, 0), np.float32)
        (embeddings,) = self.engine(np.stack(crops)).values()
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        if not np.all(np.abs(lengths - 1) < LENGTH_TOLERANCE):
            raise EngineError(f"the engine {self.engine.name} gave vectors that are not of unit length")
        unit: NDArray[np.float32] = (embeddings / lengths).astype(np.float32)
        return unit
