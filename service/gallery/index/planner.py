"""What the ways to the nearest were measured to cost here, and which one is the quickest.

direct     score some rows, each by its number: a tier of candidates, where `identify.planner` finds that worth it
full       look through all codes
passed     look for so many more than are wanted, and pass over those found who do not count
filtered   look through all codes, those who do not count masked out
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

Way = Literal["direct", "filtered", "full", "passed"]

ENOUGH: Final = 256
"""Rows that must be scored together to tell what one costs: fewer tell of what every call costs."""

GUESSED: Final[dict[Way, float]] = {"direct": 4e-7, "filtered": 1.2e-7, "full": 1e-7, "passed": 4e-7}
"""What a small gallery takes, before anything was measured."""

WEIGHT: Final = 0.1
"""Of a new measurement against those before it."""


@dataclass(slots=True)
class Costs:
    """Seconds a row of each way, learnt from searches as they run; an index goes each way once before it chooses.

    Attributes:
        seconds: cost of a row that is scored (direct) or passed over (passed), or of a row of the index (the others).
    """

    seconds: dict[Way, float] = field(default_factory=lambda: dict(GUESSED))

    @property
    def scan_share(self) -> float:
        """See `VectorIndex.scan_share`."""
        return self.seconds["full"] / self.seconds["direct"]

    def learn(self, way: Way, seconds: float, rows: int) -> None:
        """Take a measurement into account, one that came about by waiting for others the less."""
        if rows >= (ENOUGH if way == "direct" else 1):
            before = self.seconds[way]
            self.seconds[way] = before + WEIGHT * (min(seconds / rows, 4 * before) - before)

    def past(self, without: int, living: int) -> Way:
        """The quickest way to the nearest of so many living rows, so many not counting: `passed` or `filtered`."""
        passing = self.seconds["full"] * living + self.seconds["passed"] * without
        return "passed" if passing <= self.seconds["filtered"] * living else "filtered"
