"""Own calibration: measure a gallery on its own people, and keep what was found.

A probe is somebody's first template, its references are everybody else's vectors: the very comparison that identify
makes, each pair once. Neighbours are people whose homes lie in one region, or who come to one device.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.errors import CalibrationError
from service.gallery import calibrations, galleries
from service.gallery.calibrations import GalleryCalibration
from service.gallery.catalog import WriteTransaction
from service.gallery.people import vectors_after
from service.gallery.records import GalleryRecord
from service.gallery.view import GalleryView
from service.identify.calibration import RULE_OF_THREE, Calibration
from service.identify.figures import Figures, figures
from service.identify.impostors import MARGIN, SAMPLE, Tally
from service.identify.tail import FEWEST
from service.recognition.calibrated import to_json
from service.recognition.product import Product

Rows = NDArray[np.int64]

MOST_PAIRS: Final = 20_000_000_000
"""Pairs of a gallery; two minutes of one core."""

MOST_NEAR: Final = 300_000_000

PROBES: Final = 1_000
"""Probes that are read at once, and most of a region or device."""

BLOCK: Final = 100
"""Probes that are compared at once,"""

REFERENCES: Final = 10_000
"""with so many references: 4 MB of cosines, and three times that while they are counted. Blocks of a thousand probes
left a service that uses 450 MB with 170 MB more, and went no faster."""

DEVICES: Final = 50
"""Devices whose visitors count as neighbours."""

LEAST_PEOPLE: Final = 450
"""A gallery of fewer has fewer pairs than a tail needs."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What a measurement found: the version that was kept, and figures to plot, by tier."""

    kept: GalleryCalibration
    figures: dict[str, Figures]


Remember = Callable[[WriteTransaction, Measured], None]


def due(product: Product, gallery: GalleryRecord, growth: float) -> bool:
    """Whether a gallery has grown so much since it was measured that it is worth doing again. Blocks."""
    with product.catalog.read() as reading:
        own = product.calibrated.load(reading, gallery.pk)
    people = len(product.views.of(gallery.pk))
    return people >= max(LEAST_PEOPLE, (1 + growth) * own.people if own is not None else 0)


def measure(
    product: Product,
    gallery: GalleryRecord,
    *,
    rest: float = 0.0,
    seed: int | None = None,
    remember: Remember | None = None,
) -> Measured:
    """Measure a gallery and keep the calibration; it is used from the next request on. Blocks, for minutes at worst.

    Args:
        product: the parts.
        gallery: of this model.
        rest: how long to rest after each piece of work, as a share of what that took.
        seed: of the choice of people.
        remember: called with what was found inside the transaction that keeps it.

    Raises:
        CalibrationError: the gallery has too few people, or the model's calibration cannot lend its mates.
        NotReadyError: the service stops meanwhile.
    """
    view = product.views.of(gallery.pk)
    everybody = product.expectations.residents(gallery.pk)
    random = np.random.default_rng(seed)
    rate = gallery.fpir or product.policy.fpir
    tiers = {"all": _everybody(product, gallery, everybody.rows, rate, random, rest)}
    near = _neighbours(product, gallery, view, everybody.rows, everybody.home, rate, random, rest)
    if near is not None:
        tiers["near"] = near
    fitted: dict[str, Calibration] = {}
    for tier, tally in tiers.items():
        try:
            fitted[tier] = tally.fitted()
        except ValueError as error:
            if tier == "all":
                raise CalibrationError(f"{error} (the gallery has {everybody.people} people)") from error
    document: dict[str, Any] = {
        tier: {"calibration": to_json(made), "pairs": tiers[tier].total, "doubles": tiers[tier].doubles}
        for tier, made in fitted.items()
    }
    mates = np.array(product.calibration.mates)
    drawn = {tier: figures(made, mates, tiers[tier].sample) for tier, made in fitted.items()}
    with product.catalog.write() as tx:
        revision = galleries.by_pk(tx, gallery.pk).revision
        kept = calibrations.keep(tx, gallery.pk, revision=revision, people=everybody.people, tiers=document)
        measured = Measured(kept, drawn)
        if remember is not None:
            remember(tx, measured)
    with product.catalog.read() as reading:
        product.calibrated.load(reading, gallery.pk)
    log.info("gallery %s was measured on %d pairs, version %d", gallery.name, tiers["all"].total, kept.version)
    return measured


def measure_due(product: Product, growth: float, *, rest: float) -> int:
    """Measure every gallery of this model that is due; how many were. Blocks, for as long as it takes.

    Raises:
        VultusError: of the first gallery that could not be measured; the others wait for the next time.
    """
    measured = 0
    after: str | None = None
    while True:
        with product.catalog.read() as reading:
            found = galleries.page(reading, after=after)
        for gallery in found.items:
            if gallery.model_digest == product.model.digest and due(product, gallery, growth):
                measure(product, gallery, rest=rest)
                measured += 1
        if found.next is None:
            return measured
        after = found.next


def _everybody(
    product: Product, gallery: GalleryRecord, rows: Rows, rate: float, random: np.random.Generator, rest: float
) -> Tally:
    """Probes chosen among everybody, each compared with all."""
    people = len(rows)
    every = people * (people - 1) // 2
    wanted = min(every, MOST_PAIRS, max(2 * SAMPLE, int(RULE_OF_THREE * MARGIN * people / rate)))
    tally = Tally(product.calibration, wanted)
    chosen = random.permutation(rows)[: people if wanted == every else int(np.ceil(wanted / people))]
    probes, vectors = _probes(product, gallery, chosen)
    for references, embeddings in _references(product, gallery):
        places = _places(probes, references)
        for first in range(0, len(probes), BLOCK):
            began = time.monotonic()
            _count(tally, vectors[first : first + BLOCK] @ embeddings.T, first, places)
            product.rest(rest * (time.monotonic() - began))
    return tally


def _neighbours(
    product: Product,
    gallery: GalleryRecord,
    view: GalleryView,
    rows: Rows,
    homes: NDArray[np.integer],
    rate: float,
    random: np.random.Generator,
    rest: float,
) -> Tally | None:
    """Probes chosen in each region and at each device, compared with those around them; None where there are few."""
    order = np.argsort(homes, kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(homes[order])) + 1)
    groups = [group for group in groups if len(group) and homes[np.searchsorted(rows, group[0])] > 0]
    with product.catalog.read() as reading:
        for device in product.visits.devices(reading, gallery.pk, limit=DEVICES):
            seen = np.unique(product.visits.at_place(reading, gallery.pk, "device", device).rows)
            groups.append(seen[np.isin(seen, rows)])
    groups = [group for group in groups if len(group) > 1]
    pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    if pairs < FEWEST * 1000:
        return None
    largest = max(len(group) for group in groups)
    wanted = min(pairs, MOST_NEAR, max(2 * SAMPLE, int(RULE_OF_THREE * MARGIN * largest / rate)))
    each = int(np.ceil(wanted / sum(len(group) for group in groups)))
    tally = Tally(product.calibration, wanted)
    for group in groups:
        began = time.monotonic()
        most = len(group) if wanted == pairs else min(each, PROBES)
        probes, vectors = _probes(product, gallery, random.permutation(group)[:most])
        if len(probes):
            _count(tally, view.score(vectors, group), 0, _places(probes, group))
        product.rest(rest * (time.monotonic() - began))
    return tally


def _probes(product: Product, gallery: GalleryRecord, chosen: Rows) -> tuple[Rows, NDArray[np.float32]]:
    keys, vectors = [np.empty(0, np.int64)], [np.empty((0, gallery.dim), np.float32)]
    for first in range(0, len(chosen), PROBES):
        with product.catalog.read() as reading:
            found = calibrations.one_template_each(reading, gallery.pk, chosen[first : first + PROBES], gallery.dim)
        keys.append(found[0])
        vectors.append(found[1])
    return np.concatenate(keys), np.concatenate(vectors)


def _references(product: Product, gallery: GalleryRecord) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    after = -1
    while True:
        # A transaction each, so that none holds up the catalog's log for as long as all of this takes.
        with product.catalog.read() as reading:
            rows, vectors = vectors_after(reading, gallery.pk, after, dim=gallery.dim, limit=REFERENCES)
        if not len(rows):
            return
        after = int(rows[-1])
        yield rows, vectors


def _places(probes: Rows, references: Rows) -> Rows:
    """Where among the probes each reference is, (r,); -1 where it is none of them."""
    if not len(probes):  # everybody chosen has gone meanwhile
        return np.full(len(references), -1)
    order = np.argsort(probes)
    places = np.minimum(np.searchsorted(probes[order], references), len(probes) - 1)
    return np.where(probes[order][places] == references, order[places], -1)


def _count(tally: Tally, cosines: NDArray[np.float32], first: int, places: Rows) -> None:
    """Count a block, each pair once: a reference that is a probe too only with the probes before it.

    Args:
        tally: where they are counted.
        cosines: (p, r), of probes with references; NaN where a person has gone meanwhile.
        first: the place of the first of these probes among all.
        places: of the references among all probes, (r,); -1 where it is none of them.
    """
    before = np.arange(first, first + len(cosines))[:, None] < places[None, :]
    tally.add(cosines[((places == -1) | before) & ~np.isnan(cosines)])
