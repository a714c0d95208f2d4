"""The best rising curve through noisy points: isotonic regression by pooling adjacent violators (PAV).

Ayer et al. 1955. Applied to the two classes of a calibration it gives the log-likelihood ratios that no other rising
function of the scores beats on the same data (Brummer and du Preez 2006, section 5).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def rising(values: Numbers, weights: Numbers) -> Numbers:
    """The rising sequence with the least weighted squared distance to `values`.

    Args:
        values: (n,).
        weights: (n,), positive.
    """
    means: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, size = value, weight, 1
        while means and means[-1] >= mean:
            mass_before = masses.pop()
            mean = (mean * mass + means.pop() * mass_before) / (mass + mass_before)
            mass, size = mass + mass_before, size + sizes.pop()
        means.append(mean)
        masses.append(mass)
        sizes.append(size)
    return np.repeat(means, sizes)


def likelihood_ratios(mated: Numbers, impostor: Numbers) -> Numbers:
    """Log-likelihood ratios of cells of the score axis, from the share of each class that falls into them.

    Args:
        mated: share of the mated pairs in each cell, from the least score to the greatest, (n,); sums to 1 at most.
        impostor: share of the impostor pairs.

    Returns:
        Natural logarithms, (n,), rising; -inf and inf where one class is absent.
    """
    both = mated + impostor
    share = rising(mated / both, both)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(share) - np.log1p(-share))
