"""Which photos make up which batch: plans that can be asked for any epoch and so need no saved position.

A plan's `epoch(number)` is an array (steps, batch) of photo numbers over all ranks, the same on every rank and for any
number of ranks; a rank takes its slice of each row. A run that stopped after a step goes on with the next row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError


class Plan(Protocol):
    """The batches of every epoch."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(steps, batch) numbers of photos."""
        ...


@dataclass(frozen=True)
class RandomPlan:
    """Every photo at most once an epoch, in random order; a last batch that would be smaller is left out."""

    count: int
    batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        _enough(self.count, self.batch)

    @property
    def steps(self) -> int:
        """Full batches in an epoch."""
        return self.count // self.batch

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(steps, batch) numbers of photos."""
        order = np.random.default_rng([self.seed, number]).permutation(self.count)
        return order[: self.steps * self.batch].reshape(self.steps, self.batch)


@dataclass(frozen=True, eq=False)
class PeoplePlan:
    """Batches of `people` people with `each` photos of each (P x K); a person with fewer photos shows some again.

    People come in random order, each as often as every other; their photos are drawn without repetition where there
    are enough.
    """

    labels: NDArray[np.int64]
    people: int
    each: int
    seed: int = 0

    def __post_init__(self) -> None:
        _enough(len(np.unique(self.labels)), self.people, "people")
        _enough(len(self.labels), self.people * self.each)

    @property
    def steps(self) -> int:
        """Batches that together show as many photos as there are."""
        return len(self.labels) // (self.people * self.each)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(steps, people * each) numbers of photos; a person's photos lie together."""
        random = np.random.default_rng([self.seed, number])
        by_person = np.argsort(self.labels, kind="stable")
        _, starts, counts = np.unique(self.labels[by_person], return_index=True, return_counts=True)
        batches = np.empty((self.steps, self.people, self.each), np.int64)
        order = random.permutation(len(starts))
        for step in range(self.steps):
            if len(order) < self.people:
                order = random.permutation(len(starts))
            chosen, order = order[: self.people], order[self.people :]
            for row, person in enumerate(chosen):
                picked = random.choice(counts[person], self.each, replace=bool(counts[person] < self.each))
                batches[step, row] = by_person[starts[person] + picked]
        return batches.reshape(self.steps, -1)


@dataclass(frozen=True)
class MixedPlan:
    """Every batch holds a fixed share of each data set; a data set begins anew, in another order, when it is used up.

    Attributes:
        counts: photos of each data set; their numbers follow one another.
        weights: how large a share of the batch each gets.
        batch: photos in a batch.
        seed: start of the orders.
    """

    counts: Sequence[int]
    weights: Sequence[float]
    batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.weights) or min(self.weights) <= 0 or min(self.counts) <= 0:
            raise DataError("a mix needs one weight above 0 for each data set, and no data set may be empty")
        _enough(sum(self.counts), self.batch)
        _enough(self.batch, len(self.counts), "places in a batch")

    @property
    def steps(self) -> int:
        """Batches that together show as many photos as there are."""
        return sum(self.counts) // self.batch

    def shares(self) -> list[int]:
        """Places of each data set in a batch: by largest remainder, at least one."""
        exact = [weight / sum(self.weights) * self.batch for weight in self.weights]
        places = [max(1, int(each)) for each in exact]
        by_need = sorted(range(len(exact)), key=lambda i: places[i] - exact[i])
        for i in range(self.batch - sum(places)):
            places[by_need[i % len(places)]] += 1
        while sum(places) > self.batch:
            places[places.index(max(places))] -= 1
        return places

    def epoch(self, number: int) -> NDArray[np.int64]:
        """(steps, batch) numbers of photos."""
        columns, first = [], 0
        for which, (count, places) in enumerate(zip(self.counts, self.shares(), strict=True)):
            start, wanted = number * self.steps * places, self.steps * places
            rounds = range(start // count, (start + wanted - 1) // count + 1)
            orders = [np.random.default_rng([self.seed, which, each]).permutation(count) for each in rounds]
            stream = np.concatenate(orders)[start - rounds.start * count :][:wanted]
            columns.append(stream.reshape(self.steps, places) + first)
            first += count
        return np.concatenate(columns, axis=1)


def _enough(have: int, need: int, what: str = "photos") -> None:
    if have < need or need < 1:
        raise DataError(f"a batch needs {need} {what}, there are {have}")
