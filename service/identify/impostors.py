"""A gallery measured on its own people: what the cosines of its impostors mean.

A model's calibration comes from other people and other cameras. A gallery holds millions of pairs of different people;
compared with each other they tell how alike its strangers look, everywhere and among neighbours. Mates it cannot tell:
their cosines are the model's.

A pair so much alike that it is sooner one person enrolled twice is left out and counted. So are twins: whoever must
tell them apart needs another factor than the face.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.identify.calibration import RULE_OF_THREE, Calibration, deepen, fit
from service.identify.tail import FEWEST

Scores = NDArray[np.float32]

SAMPLE: Final = 1_000_000
"""Cosines that are kept as they come, for the body of the fit."""

FAR_END: Final = 100_000
"""Cosines beyond them that are kept, about; the far end of all further pairs."""

MARGIN: Final = 10.0
"""How many times fewer errors than the rate allows everybody the pairs must be able to vouch for."""


@dataclass(eq=False)
class Tally:
    """Impostor cosines as they are counted, block by block.

    Attributes:
        model: the model's calibration.
        expected: pairs that will be counted, about.
        total: pairs counted so far.
        doubles: pairs left out because they look like one person enrolled twice.
    """

    model: Calibration
    expected: int
    total: int = 0
    doubles: int = 0
    _sample: list[Scores] = field(default_factory=list)
    _sampled: int = 0
    _above: list[Scores] = field(default_factory=list)
    _start: float | None = None

    def add(self, cosines: NDArray[np.floating[Any]]) -> None:
        """Count the cosines of pairs of two people, of any shape."""
        scores = cosines.ravel().astype(np.float32, copy=False)
        alike = int(np.count_nonzero(scores >= self._double))
        if alike:
            self.doubles += alike
            scores = scores[scores < self._double]
        if self._sampled < SAMPLE:
            taken = scores[: SAMPLE - self._sampled]
            self._sample.append(taken.copy())
            self._sampled += len(taken)
            self.total += len(taken)
            scores = scores[len(taken) :]
        if len(scores):
            if self._start is None:
                share = max(FAR_END / max(self.expected - SAMPLE, 1), 2 * RULE_OF_THREE / SAMPLE)
                self._start = float(np.quantile(np.concatenate(self._sample), max(1 - share, 0.9)))
            self._above.append(scores[scores >= self._start])
            self.total += len(scores)

    def fitted(self) -> Calibration:
        """The calibration of these pairs with the model's mates.

        Raises:
            ValueError: the model keeps no mates, or there are too few pairs for a tail.
        """
        sample = self.sample
        if not self.model.mates:
            raise ValueError("the model's own calibration is on too few photos to lend its mates")
        if len(sample) < FEWEST * 1000:
            raise ValueError(f"{len(sample):,} pairs of two people are too few; {FEWEST * 1000:,} are needed")
        made = fit(np.array(self.model.mates), sample, pairs=self.model.mated_pairs)
        above = np.concatenate(self._above) if self._above else np.empty(0, np.float32)
        beyond = self.total - len(sample)
        if beyond < len(sample) or len(above) < 2 * FEWEST or len(above) / beyond < made.least_fmr:
            return made
        return deepen(made, above, beyond)

    @property
    def sample(self) -> Scores:
        """The first of them, (n,)."""
        return np.concatenate(self._sample) if self._sample else np.empty(0, np.float32)

    @property
    def _double(self) -> float:
        return max(float(np.median(self.model.mates)) if self.model.mates else 1.0, self.model.thresholds[-1])


def suffices(own: Calibration, people: int, fpir: float) -> bool:
    """Whether a calibration can vouch for everybody's part of a rate with room to share it unevenly."""
    return own.least_fmr * MARGIN * people <= fpir


def looser(trusted: Calibration, own: Calibration) -> bool:
    """Whether the trusted calibration accepts strangers more often than it says, by what another one has seen.

    Compared at the strictest rate that both can vouch for; the interval of the one that has seen them decides.
    """
    rate = max(trusted.least_fmr, own.least_fmr) * 1.01
    low = own.thresholds_low or own.thresholds
    seen = float(np.interp(-np.log(rate), -np.log(own.fmr), low))
    return trusted.threshold(rate) < seen


def chosen(trusted: Calibration, own: Calibration | None, people: int, fpir: float) -> Calibration:
    """Which of two calibrations is to be used.

    The gallery's own, once it can vouch for what the gallery asks, or as soon as it shows that the other one accepts
    too many; rates that it cannot vouch for are then refused. Until then the other one.

    Args:
        trusted: of the model, or of the whole gallery where neighbours are concerned.
        own: of the gallery, or of neighbours; None where there is none.
        people: how many share the rate.
        fpir: the rate.
    """
    if own is None:
        return trusted
    return own if suffices(own, people, fpir) or looser(trusted, own) else trusted
