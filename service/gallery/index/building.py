"""Sealed segments are made here, out of what was growing or out of smaller ones, while all else goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.gallery.embeddings import Embeddings, Rows
from service.gallery.index.codes import Book, Codes, Layout, turned
from service.gallery.index.protocol import Owner
from service.gallery.index.rows import Numbers, Positions, Rests, number_type, quantised, restored
from service.gallery.index.sealed import Sealed
from service.gallery.index.segment import Segment, Taken, write

Order: TypeAlias = Callable[[int, Rows], NDArray[Any]]
"""A gallery and some of its rows (n,) -> where each belongs (n,), anything that can be sorted: a region of the map.
Rows of one region lie together in a segment, so that they are scored faster."""

SAMPLE: Final = 8_192
"""Vectors that a book is learnt from,"""
TRIED: Final = 4_096
"""and those that tell what it is worth."""

WORSE: Final = 1.1
"""A book is used for new vectors as long as its spread is no more than this many times what it was."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Vectors to be sealed, by their number from 0 on.

    Attributes:
        rows: shape (n,).
        take: numbers, shape (m,) -> whole numbers, scales and rests.
        codes: the same to codes of `book`; None where they must be made.
        book: what `codes` point to, or what might serve; None where there is none.
        spread: that of the book where it was learnt.
    """

    rows: Rows
    take: Callable[[Positions], tuple[Numbers, NDArray[np.float32], Rests]]
    codes: Callable[[Positions], Codes] | None
    book: Book | None
    spread: float


def growing(owner: Owner, rows: Rows, vectors: Embeddings, last: Sealed | None) -> Source:
    """What was growing; `last` is the newest segment, whose book may still serve."""
    numbers, scales, rests = quantised(turned(vectors, Layout.of(owner.dim)), number_type(owner.dim))
    return Source(
        rows,
        lambda which: (numbers[which], scales[which], rests[which]),
        None,
        None if last is None else last.segment.book,
        0.0 if last is None else last.segment.trust.spread,
    )


def living(parts: Sequence[Sealed]) -> tuple[Source, NDArray[np.int64], Positions]:
    """The living of some segments; for each, the number of its segment and its position there."""
    places = [np.flatnonzero(each.alive) for each in parts]
    segments = np.repeat(np.arange(len(parts)), [len(each) for each in places])
    together = np.concatenate(places)
    first = parts[0].segment

    def gathered(which: Positions, of: Callable[[Segment, Positions], NDArray[Any]]) -> NDArray[Any]:
        like = of(first, which[:0])
        found = np.empty((len(which), *like.shape[1:]), like.dtype)
        for number, each in enumerate(parts):
            here = segments[which] == number
            found[here] = of(each.segment, together[which[here]])
        return found

    same = all(np.array_equal(each.segment.book.centroids, first.book.centroids) for each in parts)
    everyone = np.arange(len(together))
    source = Source(
        gathered(everyone, lambda segment, places: segment.rows[places]),
        lambda which: (
            gathered(which, lambda segment, places: segment.numbers[places]),
            gathered(which, lambda segment, places: segment.scales[places]),
            gathered(which, Segment.rests),
        ),
        (lambda which: gathered(which, lambda segment, places: segment.codes[places])) if same else None,
        max(parts, key=lambda each: each.living).segment.book,
        max(each.segment.trust.spread for each in parts),
    )
    return source, segments, together


def build(
    path: Path, owner: Owner, source: Source, places: NDArray[Any] | None, go_on: Callable[[], None]
) -> tuple[Segment, Positions]:
    """Write a segment and open it.

    Args:
        path: where it shall lie.
        owner: whose it is.
        source: what it shall hold.
        places: where each row belongs; None keeps them in order.
        go_on: called now and then; what it raises ends the work.

    Returns:
        The segment, and the number that each of its positions had in the source.

    Raises:
        StorageError: it cannot be written.
    """
    count = len(source.rows)
    order = np.arange(count) if places is None else np.argsort(places, kind="stable")
    sample = restored(*source.take(np.sort(np.random.default_rng(count).permutation(count)[:SAMPLE])))
    tried = sample[:: max(1, len(sample) // TRIED)]
    book, codes = source.book, source.codes
    trust = None if book is None else book.trust(tried)
    if book is None or trust is None or trust.spread > WORSE * source.spread:
        book, codes = Book.trained(Layout.of(owner.dim), sample), None
        trust = book.trust(tried)
    chosen = book

    def take(some: slice) -> Taken:
        go_on()
        which = order[some]
        numbers, scales, rests = source.take(which)
        coded = chosen.encoded(restored(numbers, scales)) if codes is None else codes(which)
        return source.rows[which], coded, scales, numbers, rests

    write(path, owner, chosen, trust, count, take)
    return Segment(path, owner), order
