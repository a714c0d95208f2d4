"""What cosines mean in each gallery: by the model's calibration, or by the gallery's own once that knows better."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from service.gallery import calibrations
from service.gallery.catalog import Reading
from service.identify.calibration import Calibration
from service.identify.impostors import chosen


@dataclass(frozen=True)
class Own:
    """A gallery's own calibration: everybody, and neighbours where enough of them were measured."""

    version: int
    people: int
    all: Calibration
    near: Calibration | None


class Calibrated:
    """The calibrations of all galleries; safe to use from threads.

    Args:
        model: the model's calibration.
    """

    def __init__(self, model: Calibration) -> None:
        self.model = model
        self._own: dict[int, Own | None] = {}
        self._lock = threading.Lock()

    def load(self, reading: Reading, gallery_pk: int) -> Own | None:
        """Read a gallery's newest version, unless it is known already. Blocks."""
        version = calibrations.newest_version(reading, gallery_pk)
        known = self._own.get(gallery_pk)
        if known is None or known.version != version:
            known = None
            found = calibrations.newest(reading, gallery_pk) if version else None
            if found is not None:
                near = found.tiers.get("near")
                all_ = _of_json(found.tiers["all"]["calibration"])
                known = Own(found.version, found.people, all_, near and _of_json(near["calibration"]))
        with self._lock:
            self._own[gallery_pk] = known
        return known

    def version(self, gallery_pk: int) -> int:
        """The version that is in use, 0 where it is the model's alone."""
        own = self._own.get(gallery_pk)
        return 0 if own is None else own.version

    def far(self, gallery_pk: int, people: int, fpir: float) -> Calibration:
        """What a cosine with anybody means where so many people share a rate."""
        own = self._own.get(gallery_pk)
        return chosen(self.model, None if own is None else own.all, people, fpir)

    def near(self, gallery_pk: int, far: Calibration, neighbours: int, fpir: float) -> Calibration:
        """What a cosine with a neighbour means where so many neighbours share a rate."""
        own = self._own.get(gallery_pk)
        return chosen(far, None if own is None else own.near, neighbours, fpir)


@lru_cache(maxsize=64)
def excess(near: Calibration, far: Calibration) -> float:
    """The greater E[L] over impostors of two calibrations, and 1 at least."""
    return max(1.0, near.mean_likelihood(), far.mean_likelihood())


def to_json(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain JSON."""
    return asdict(calibration)


def _of_json(kept: Mapping[str, Any]) -> Calibration:
    fields: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in kept.items()}
    return Calibration(**fields)
