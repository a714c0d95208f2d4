"""Coarse codes: a vector in 48 bytes or less, compared with a probe a thousand million times a second.

A vector is turned by a fixed random rotation, which spreads what it says evenly, and cut into pieces; each piece is
replaced by the nearest of 16 centroids (product quantisation in 4 bits; Jegou, Douze and Schmid 2011). FAISS compares
such codes from registers (fast scan; Andre, Kermarrec and Le Scouarnec 2015). A comparison gives

    coarse = slope * cosine + noise,  noise ~ spread

and both are measured on the vectors themselves (`Trust`), so that a search knows how far down a mate may have slipped.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray

from service.gallery.embeddings import Embeddings
from service.gallery.index.products import products
from service.gallery.index.rows import Positions, Vectors

Codes: TypeAlias = NDArray[np.uint8]
"""Shape (n, code_bytes)."""

Bits: TypeAlias = NDArray[np.uint8]
"""One bit a position, the lowest first, packed."""

CENTROIDS: Final = 16
MOST_PIECES: Final = 96

ROUNDS: Final = 10
TOGETHER: Final = 1024
"""Rounds of learning, and vectors looked at together in it."""

PART: Final = 1 << 19
"""Positions that one thread looks through at a time; smaller parts take longer together, for each begins anew to learn
which scores are high."""

MADV_HUGEPAGE: Final = 14
MADV_COLLAPSE: Final = 25
"""Linux' numbers: pages may be joined to large ones, and shall be at once."""

# FAISS' stubs describe the generated classes and not the Python ones that stand before them.
_selector_of: Final[Any] = faiss.IDSelectorBitmap
_parameters_of: Final[Any] = faiss.SearchParametersIVF
_invert: Final[Any] = faiss.IndexIVFPQ


@dataclass(frozen=True, slots=True)
class Layout:
    """How vectors of a dimension are cut.

    FAISS wants pieces of one length, so that shorter ones end with a zero: 512 numbers are 32 pieces of six and 64
    of five.

    Attributes:
        dim: of the vectors.
        width: of the turned vectors: `dim` and some zeros, so that bytes come out even.
        pieces: how many a vector has.
        piece: numbers of the longest.
    """

    dim: int
    width: int
    pieces: int
    piece: int

    @classmethod
    def of(cls, dim: int) -> Layout:
        """The layout for a dimension: pieces of two numbers, or longer ones where they would be too many."""
        width = -(-dim // 8) * 8
        pieces = -(-dim // (16 * max(2, -(-dim // MOST_PIECES)))) * 16
        return cls(dim, width, pieces, -(-width // pieces))

    @property
    def code_bytes(self) -> int:
        """Bytes of a code."""
        return self.pieces // 2

    @property
    def spread(self) -> int:
        """Numbers of a vector whose pieces are of one length."""
        return self.pieces * self.piece

    @property
    def long(self) -> int:
        """How many pieces, the first ones, have `piece` numbers; the others have one less."""
        return self.width - self.pieces * (self.piece - 1)

    def cut(self, vectors: Vectors) -> Vectors:
        """Turned vectors, shape (n, width), with pieces of one length, (n, spread)."""
        pieces = np.zeros((len(vectors), self.pieces, self.piece), np.float32)
        first = self.long * self.piece
        pieces[:, : self.long] = vectors[:, :first].reshape(len(vectors), self.long, self.piece)
        rest = vectors[:, first:].reshape(len(vectors), self.pieces - self.long, self.piece - 1)
        pieces[:, self.long :, : self.piece - 1] = rest
        return pieces.reshape(len(vectors), self.spread)

    def joined(self, vectors: Vectors) -> Vectors:
        """What `cut` was given."""
        pieces = vectors.reshape(len(vectors), self.pieces, self.piece)
        first, rest = pieces[:, : self.long], pieces[:, self.long :, : self.piece - 1]
        return np.concatenate([first.reshape(len(vectors), -1), rest.reshape(len(vectors), -1)], axis=1)


@functools.cache
def rotation(layout: Layout) -> NDArray[np.float32]:
    """The rotation of all vectors of a layout, shape (width, dim), the same on every machine up to rounding."""
    # RandomState's stream is frozen, which that of the newer generators is not.
    drawn = np.random.RandomState(layout.width).standard_normal((layout.width, layout.width))
    turned, triangle = np.linalg.qr(drawn)
    return np.ascontiguousarray((turned * np.sign(np.diag(triangle)))[:, : layout.dim], np.float32)


def turned(vectors: Embeddings, layout: Layout) -> Vectors:
    """Vectors (n, dim) in the space of codes and rows, (n, width); cosines stay as they are."""
    if len(vectors) < TOGETHER:
        return products(vectors, rotation(layout))
    across: Vectors = np.concatenate(
        [vectors[low : low + TOGETHER] @ rotation(layout).T for low in range(0, len(vectors), TOGETHER)]
    )
    return across


@dataclass(frozen=True, slots=True)
class Trust:
    """What a coarse score says of a cosine.

    Attributes:
        slope: coarse score over cosine, on average.
        spread: standard deviation of coarse / slope - cosine.
    """

    slope: float
    spread: float


class Book:
    """The centroids that codes point to.

    Args:
        layout: how vectors are cut.
        centroids: shape (pieces, 16, piece).
    """

    def __init__(self, layout: Layout, centroids: NDArray[np.float32]) -> None:
        self.layout = layout
        self.centroids = centroids
        self._quantiser: Any = faiss.ProductQuantizer(layout.spread, layout.pieces, 4)
        faiss.copy_array_to_vector(np.ascontiguousarray(centroids, np.float32).ravel(), self._quantiser.centroids)

    @classmethod
    def trained(cls, layout: Layout, sample: Vectors) -> Book:
        """Learn centroids from some thousand vectors, shape (n, width): Lloyd's algorithm on all pieces at once.

        FAISS' own takes ten times as long here, through the BLAS of its wheel.
        """
        random = np.random.default_rng(0)
        cut = np.ascontiguousarray(layout.cut(sample).reshape(len(sample), layout.pieces, -1).transpose(1, 0, 2))
        first = random.choice(len(sample), CENTROIDS, replace=len(sample) < CENTROIDS)
        centroids = cut[:, first].copy()
        for _ in range(ROUNDS):
            sums, counts = np.zeros_like(centroids), np.zeros(centroids.shape[:2], np.float32)
            for low in range(0, len(sample), TOGETHER):
                some = cut[:, low : low + TOGETHER]
                likeness = some @ centroids.transpose(0, 2, 1) - np.square(centroids).sum(axis=2)[:, None] / 2
                nearest = (likeness.argmax(axis=2)[..., None] == np.arange(CENTROIDS)).astype(np.float32)
                sums += nearest.transpose(0, 2, 1) @ some
                counts += nearest.sum(axis=1)
            # A centroid that nothing is nearest to stays where it is.
            centroids = np.where(counts[..., None] > 0, sums / np.maximum(counts, 1)[..., None], centroids)
        return cls(layout, centroids)

    def encoded(self, vectors: Vectors) -> Codes:
        """The codes of vectors, shape (n, width)."""
        found: Codes = self._quantiser.compute_codes(self.layout.cut(vectors))
        return found

    def decoded(self, codes: Codes) -> Vectors:
        """The vectors that codes stand for."""
        found: Vectors = self._quantiser.decode(np.ascontiguousarray(codes))
        return self.layout.joined(found)

    def trust(self, sample: Vectors) -> Trust:
        """Measure what coarse scores of this book are worth for vectors like the sample's, shape (n, width).

        Probes are made as a real one comes about: a vector of the sample, and a rest that points where others point.
        """
        coarse = self.decoded(self.encoded(sample))
        others = np.roll(sample, 1, axis=0)
        rest = others - np.einsum("nd,nd->n", others, sample)[:, None] * sample
        lengths = np.linalg.norm(rest, axis=1)
        # Somebody who is there twice has no rest.
        apart = lengths > 1e-3
        if not apart.any():
            return Trust(1.0, 0.0)
        probes = 0.5 * sample[apart] + np.sqrt(0.75) * rest[apart] / lengths[apart, None]
        found = np.einsum("nd,nd->n", probes, coarse[apart])
        slope = max(float(found.mean()) / 0.5, 0.05)
        return Trust(slope, float(np.sqrt(np.mean((found / slope - 0.5) ** 2))))


class Part(Protocol):
    """Some of a segment's codes, to be looked through by one thread.

    Attributes:
        first: position of its first code; a multiple of 8.
        count: how many there are.
        trust: what its coarse scores are worth.
    """

    first: int
    count: int
    trust: Trust

    def nearest(self, probes: Vectors, depth: int, wanted: Bits | None) -> tuple[NDArray[np.float32], Positions]:
        """Find the `depth` highest coarse scores of each probe, shape (m, width), the best first.

        Args:
            probes: turned.
            depth: how many.
            wanted: the positions that count, one bit each of this part's; None counts all.

        Returns:
            Coarse scores and the segment's positions, (m, depth), padded with -1 where there are fewer.
        """

    def above(self, probe: Vectors, least: float, wanted: Bits | None) -> tuple[NDArray[np.float32], Positions]:
        """Find everybody whose coarse score is higher than this.

        Args:
            probe: turned, shape (1, width).
            least: the score.
            wanted: as in `nearest`.

        Returns:
            Coarse scores and the segment's positions, (n,), in no order.
        """


class FastScan:
    """Codes in main memory; see `Part`.

    Args:
        book: what the codes point to.
        codes: shape (count, code_bytes).
        first: position of the first one.
        trust: what they are worth.
    """

    def __init__(self, book: Book, codes: Codes, first: int, trust: Trust) -> None:
        layout = book.layout
        self.first, self.count, self.trust = first, len(codes), trust
        self._layout = layout
        # With one list and no residuals this is the plain scan; unlike IndexPQFastScan it takes selectors. It must be
        # converted from an index that is filled: adding to it afterwards spoils it.
        quantiser = faiss.IndexFlatIP(layout.spread)
        quantiser.add(np.zeros((1, layout.spread), np.float32))
        filled = _invert(quantiser, layout.spread, 1, layout.pieces, 4, faiss.METRIC_INNER_PRODUCT)
        filled.by_residual = False
        faiss.copy_array_to_vector(np.ascontiguousarray(book.centroids, np.float32).ravel(), filled.pq.centroids)
        filled.is_trained = True
        numbers, codes = np.arange(self.count), np.ascontiguousarray(codes)
        filled.invlists.add_entries(0, self.count, faiss.swig_ptr(numbers), faiss.swig_ptr(codes))
        filled.ntotal = self.count
        self._index: Any = faiss.IndexIVFPQFastScan(filled)
        # Its wrapper would keep the index that it was converted from, and with it all codes once more.
        vars(self._index)["referenced_objects"] = []
        self._quantiser = quantiser
        lists: Any = self._index.invlists
        _in_huge_pages(int(lists.get_codes(0)), self.count * layout.code_bytes)

    def nearest(self, probes: Vectors, depth: int, wanted: Bits | None) -> tuple[NDArray[np.float32], Positions]:
        """See `Part.nearest`."""
        parameters = None if wanted is None else _parameters_of(sel=_selector_of(wanted), nprobe=1)
        found, positions = self._index.search(self._layout.cut(probes), min(depth, self.count), params=parameters)
        positions[positions >= 0] += self.first
        return found, positions

    def above(self, probe: Vectors, least: float, wanted: Bits | None) -> tuple[NDArray[np.float32], Positions]:
        """See `Part.above`."""
        _, found, positions = self._index.range_search(self._layout.cut(probe), least)
        if wanted is not None:
            counts = (wanted[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1 == 1
            found, positions = found[counts], positions[counts]
        return found, positions + self.first


def _in_huge_pages(address: int, size: int) -> None:
    """Ask for large pages under memory that FAISS holds, where the system knows them: a scan is a third faster."""
    first, last = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is not None and last > first:
        for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
            advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)
