"""How much a log-likelihood ratio tells, in bits: Cllr, and what the same scores could tell at best, minCllr.

Cllr is 0 for a perfect answer, 1 for one that always says "no idea", and more for one that misleads (Brummer and
du Preez 2006, equation 8). The difference of the two is the loss that the calibration itself causes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.identify.isotonic import likelihood_ratios

Numbers = NDArray[np.float64]


def cllr(mated: NDArray[np.floating[Any]], impostor: NDArray[np.floating[Any]]) -> float:
    """The cost of log-likelihood ratios (natural logarithms) given to mated pairs, (m,), and to impostors, (n,)."""
    missed = np.mean(np.logaddexp(0, -mated.astype(np.float64)))
    taken = np.mean(np.logaddexp(0, impostor.astype(np.float64)))
    return float((missed + taken) / (2 * np.log(2)))


def min_cllr(mated: NDArray[np.floating[Any]], impostor: NDArray[np.floating[Any]]) -> float:
    """The least Cllr that any rising function of these scores reaches on them: that of PAV."""
    scores, cell = np.unique(np.concatenate([mated, impostor]), return_inverse=True)
    shares = [
        np.bincount(cells, minlength=len(scores)) / len(cells) for cells in (cell[: len(mated)], cell[len(mated) :])
    ]
    ratios = likelihood_ratios(shares[0], shares[1])
    return float((shares[0] @ _cost(-ratios) + shares[1] @ _cost(ratios)) / (2 * np.log(2)))


def _cost(ratios: Numbers) -> Numbers:
    # Where a class is absent its infinite cost is weighed with zero, so it may be any number.
    return np.logaddexp(0, np.minimum(ratios, 700.0))
