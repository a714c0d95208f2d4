"""One vector for a person from several templates: the mean, each weighted by how well its face was seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOW, HIGH = 0.05, 0.95
"""Quality is clipped to this range, so that no template is worth nothing and none is worth all."""

CANCELLED = 1e-6
"""A mean this short has no direction: its templates point away from each other."""


def fuse(embeddings: NDArray[np.floating], quality: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the quality-weighted mean direction of a person's templates.

    The weight q / (1 - q^2) is the maximum-likelihood one where a template is q times the true direction plus noise of
    variance 1 - q^2 (PRIORS.md, "Several templates"). Where the templates cancel each other out, the best one stands
    for the person.

    Args:
        embeddings: unit vectors, shape (n, d), n >= 1; or of many people with as many templates each, (people, n, d).
        quality: of each face, in [0, 1], shape (n,) or (people, n).

    Returns:
        A unit vector, shape (d,), or one a person, (people, d); float32. A person's is the same either way.

    Raises:
        ValueError: no templates, or shapes that do not belong together.
    """
    if embeddings.ndim not in {2, 3} or embeddings.shape[-2] == 0 or quality.shape != embeddings.shape[:-1]:
        raise ValueError(f"embeddings {embeddings.shape} and quality {quality.shape} do not belong together")
    if embeddings.shape[-2] == 1:
        # What the rest comes to, digit for digit, and of many at once: most people of a large import have one.
        alone = embeddings[..., 0, :].astype(np.float64)
        return np.asarray(alone / np.sqrt(np.vecdot(alone, alone))[..., np.newaxis], np.float32)
    if embeddings.ndim == 3:
        return np.stack([fuse(theirs, weights) for theirs, weights in zip(embeddings, quality, strict=True)])
    q = np.clip(quality.astype(np.float64), LOW, HIGH)
    w = q / (1 - q**2)
    mean = (w / w.sum()) @ embeddings.astype(np.float64)
    length = np.linalg.norm(mean)
    if length < CANCELLED:
        mean = embeddings[int(np.argmax(q))].astype(np.float64)
        length = np.linalg.norm(mean)
    fused: NDArray[np.float32] = (mean / length).astype(np.float32)
    return fused
