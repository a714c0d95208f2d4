"""Which way to the nearest of some given rows is the quickest, by what each way was measured to cost here.

direct     score exactly the rows given: by the row, and nothing else
filtered   look through all codes, those of others masked out: by the size of the index
full       look through all codes, and pass over the few who are not among the given
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

Way = Literal["direct", "filtered", "full"]

FEW: Final = 64
"""Most rows that a full search passes over."""

WEIGHT: Final = 0.1
"""Of a new measurement against those before it."""


@dataclass(slots=True)
class Costs:
    """Seconds a row of each way, learnt from searches as they run; an index goes each way once before it chooses.

    Attributes:
        seconds: cost of a row given (direct), or of a row of the index (the others).
    """

    seconds: dict[Way, float] = field(default_factory=lambda: {"direct": 4e-7, "filtered": 5e-9, "full": 5e-9})

    def learn(self, way: Way, seconds: float, rows: int) -> None:
        """Take a measurement into account, one that came about by waiting for others the less."""
        if rows:
            before = self.seconds[way]
            self.seconds[way] = before + WEIGHT * (min(seconds / rows, 4 * before) - before)

    def choose(self, given: int, total: int) -> Way:
        """The quickest way to the nearest of `given` rows among `total`."""
        costs: dict[Way, float] = {
            "direct": given * self.seconds["direct"],
            "filtered": total * self.seconds["filtered"],
        }
        if total - given <= FEW:
            costs["full"] = total * self.seconds["full"]
        return min(costs, key=lambda way: costs[way])
