"""Crowds for the search bench: embeddings without end, in blocks that can be made again, and probes of known mates.

    isotropic   every direction is as likely as any other
    clustered   two thousand clusters of unequal size, in each of which impostors have a cosine of about 0.25
    lfw         the spread of impostors that SFace has on LFW: the eigenvalues of its embeddings of different people,
                stretched over the dimensions so that impostor cosines keep their mean and standard deviation
    mixed       a third of each, one after the other

Real LFW embeddings, first photos of people who have several, lie among those of `lfw`, turned into the same space; the
second photos of these people are probes too. A probe of stratum c has exactly the cosine c with its mate; the rest
of it points where another member of the crowd does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.lfw_data import Lfw, person_of
from tests.bench.loop import Loop
from tests.bench.report import note

Vectors = NDArray[np.float32]

BLOCK = 10_000
KINDS = ("isotropic", "clustered", "lfw")
STRATA = (0.35, 0.40, 0.45, 0.50, 0.60)
CLUSTERS = 2_000


@dataclass(frozen=True)
class Crowd:
    """Embeddings by their row, from 0 on.

    Attributes:
        kind: one of `KINDS`, or `mixed`.
        dim: of the embeddings.
        spectrum: standard deviations of the kind `lfw`, (dim,).
        centre: their mean, (dim,).
    """

    kind: str
    dim: int
    spectrum: Vectors
    centre: Vectors

    def kind_of(self, block: int) -> str:
        """The kind of a block."""
        return KINDS[block % len(KINDS)] if self.kind == "mixed" else self.kind

    def block(self, number: int) -> Vectors:
        """Block `number`, (BLOCK, dim)."""
        return self.drawn(self.kind_of(number), BLOCK, np.random.default_rng([7, number]))

    def drawn(self, kind: str, count: int, random: np.random.Generator) -> Vectors:
        """Members of a kind, (count, dim)."""
        vectors = random.standard_normal((count, self.dim), np.float32)
        if kind == "lfw":
            vectors = vectors * self.spectrum + self.centre
        elif kind == "clustered":
            # Zipf's law, so that the largest cluster holds an eighth of all.
            which = (np.exp(random.random(count) * np.log(CLUSTERS)) - 1).astype(np.int64)
            vectors = 0.5 * _clusters(self.dim)[which] + np.sqrt(0.75 / self.dim, dtype=np.float32) * vectors
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@functools.cache
def _clusters(dim: int) -> Vectors:
    centres = np.random.default_rng(3).standard_normal((CLUSTERS, dim), np.float32)
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Probes:
    """Probes whose mates are known.

    Attributes:
        vectors: (m, dim).
        mates: row of each one's mate, (m,).
        cosines: with the mate, (m,).
        kinds: where each comes from, (m,).
        rivals: the best cosine with anybody else, by an exact scan in float32, (m,).
    """

    vectors: Vectors
    mates: NDArray[np.int64]
    cosines: Vectors
    kinds: NDArray[np.str_]
    rivals: Vectors

    def watch(self, first: int, block: Vectors) -> None:
        """Let a block of the crowd, rows from `first` on, become rivals."""
        scores = self.vectors @ block.T
        own = np.flatnonzero((self.mates >= first) & (self.mates < first + len(block)))
        scores[own, self.mates[own] - first] = -1
        np.maximum(self.rivals, scores.max(axis=1), out=self.rivals)


def crowd_of(kind: str, dim: int, faces: Vectors) -> Crowd:
    """A crowd; `faces` are LFW's embeddings of different people, (n, d)."""
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(faces.T))[::-1], 0))
    stretched = np.interp(np.linspace(0, len(values) - 1, dim), np.arange(len(values)), values)
    # Cosines of pairs spread by sqrt(sum l^2) / sum l for eigenvalues l, here those of LFW and there the stretched ones
    # to some power: a flat spectrum over more dimensions would make impostors easier than they are.
    spread = np.sqrt(np.sum(values**4)) / np.sum(values**2)
    powers = np.linspace(0.5, 6, 500)
    spreads = [np.sqrt(np.sum(stretched ** (4 * p))) / np.sum(stretched ** (2 * p)) for p in powers]
    spectrum = stretched ** powers[int(np.argmin(np.abs(np.array(spreads) - spread)))]
    spectrum *= np.sqrt(np.sum(values**2) / np.sum(spectrum**2))
    centre = np.zeros(dim)
    centre[-1] = np.linalg.norm(faces.mean(axis=0))
    return Crowd(kind, dim, spectrum.astype(np.float32), centre.astype(np.float32))


def probes_of(crowd: Crowd, count: int, each: int, seed: int = 11) -> Probes:
    """`each` probes a stratum and kind, whose mates are among the first `count` members."""
    random = np.random.default_rng(seed)
    kinds = KINDS if crowd.kind == "mixed" else (crowd.kind,)
    blocks = count // BLOCK
    mates, cosines, names = [], [], []
    for kind in kinds:
        ours = np.array([number for number in range(blocks) if crowd.kind_of(number) == kind])
        for stratum in STRATA:
            mates.append(BLOCK * random.choice(ours, each) + random.integers(0, BLOCK, each))
            cosines.append(np.full(each, stratum, np.float32))
            names.append(np.full(each, kind))
    rows, wanted, named = np.concatenate(mates), np.concatenate(cosines), np.concatenate(names)
    vectors = np.empty((len(rows), crowd.dim), np.float32)
    for number in np.unique(rows // BLOCK).tolist():
        here = np.flatnonzero(rows // BLOCK == number)
        own = crowd.block(number)[rows[here] - BLOCK * number]
        rest = crowd.drawn(crowd.kind_of(number), len(here), random)
        rest -= np.einsum("nd,nd->n", rest, own)[:, None] * own
        rest /= np.linalg.norm(rest, axis=1, keepdims=True)
        vectors[here] = wanted[here, None] * own + np.sqrt(1 - wanted[here, None] ** 2) * rest
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Probes(vectors, rows, wanted, named, np.full(len(rows), -1, np.float32))


def with_faces(
    crowd: Crowd, probes: Probes, faces: dict[str, Vectors], first: int, most: int
) -> tuple[Probes, Vectors]:
    """Add probes of real faces; returns all probes, and the embeddings to be enrolled under rows from `first` on."""
    photos: dict[str, list[str]] = {}
    for name in sorted(faces):
        photos.setdefault(person_of(name), []).append(name)
    several = [names for names in photos.values() if len(names) > 1]
    turn = np.zeros((len(next(iter(faces.values()))), crowd.dim), np.float32)
    turn[np.arange(len(turn)), np.arange(len(turn))] = 1
    values, axes = np.linalg.eigh(np.cov(np.stack([faces[names[0]] for names in photos.values()]).T))
    turn = (axes[:, np.argsort(-values)] @ turn).astype(np.float32)
    several = several[:most]
    enrolled = np.stack([faces[names[0]] for names in several]) @ turn
    mates = np.array([place for place, names in enumerate(several) for _ in names[1:2]])
    vectors = np.stack([faces[name] for names in several for name in names[1:2]]) @ turn
    cosines = np.einsum("nd,nd->n", vectors, enrolled[mates])
    named = np.full(len(mates), "lfw faces")
    return (
        Probes(
            np.concatenate([probes.vectors, vectors]),
            np.concatenate([probes.mates, first + mates]),
            np.concatenate([probes.cosines, cosines]),
            np.concatenate([probes.kinds, named]),
            np.full(len(probes.mates) + len(mates), -1, np.float32),
        ),
        enrolled,
    )


def stratum_of(cosine: float) -> float | None:
    """The stratum that a cosine belongs to; None below the lowest."""
    return max((edge for edge in STRATA if cosine >= edge - 1e-4), default=None)


def faces_of(lfw: Lfw, kept: Path, *, most: int) -> dict[str, Vectors]:
    """Embeddings of LFW's photos, computed once and kept in a file; photos without a face are left out."""
    if not kept.exists():
        names = sorted(lfw.photos)[:: max(1, len(lfw.photos) // most)] if most < len(lfw.photos) else sorted(lfw.photos)
        note(f"embedding {len(names)} photos ...")
        loop = Loop(engine="auto", memory=kept.with_suffix(".json"))
        rows, _ = loop.embed([lfw.photos[name] for name in names])
        seen = [place for place, row in enumerate(rows) if row.any()]
        np.savez(kept, names=np.array(names)[seen], rows=np.stack(rows)[seen])
    held = np.load(kept)
    return dict(zip(held["names"].tolist(), held["rows"], strict=True))


def blocks(crowd: Crowd, count: int) -> Iterator[tuple[int, Vectors]]:
    """The first `count` members: the row of the first one of each block, and the block."""
    for number in range(count // BLOCK):
        yield BLOCK * number, crowd.block(number)
