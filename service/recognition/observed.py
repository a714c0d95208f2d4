"""What observed attributes tell: fit the power of each to confirmed visitors, and say for whom it gains what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from service.errors import CalibrationError
from service.gallery import galleries, people
from service.gallery.catalog import WriteTransaction
from service.identify.attributes import Gain, Observable, fit_power
from service.recognition.product import Product

DECADE: Final = 10.0
"""Numbers are reported in groups this wide."""

MOST_COMPARED: Final = 20_000
"""People whom each case is compared with."""


@dataclass(frozen=True)
class Case:
    """A visitor who was confirmed, and what was observed of them."""

    person: str
    observed: Mapping[str, Any]


Remember = Callable[[WriteTransaction, dict[str, Gain]], None]


def fit_observed(product: Product, gallery: str, cases: Sequence[Case], remember: Remember) -> None:
    """Fit and keep the powers of the gallery's observable attributes. Blocks.

    Args:
        product: the parts.
        gallery: name of the gallery, which says what is observable.
        cases: half of them is fitted on, the other half tells what was gained.
        remember: called with what was found inside the transaction that keeps it.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        PersonNotFoundError: a case names nobody of it.
        InvalidRequestError: a number was observed as something else.
        CalibrationError: nothing is observable, or too few cases observed something.
    """
    with product.catalog.read() as reading:
        record = galleries.get(reading, gallery)
        keys = [people.get(reading, record.pk, case.person).pk for case in cases]
    everybody = product.expectations.everybody(record.pk)
    if not everybody.known:
        raise CalibrationError(f"gallery {gallery!r} names no attribute that may be observed")
    rows, values = everybody.rows, {name: known.of_everybody() for name, known in everybody.known.items()}
    some = np.random.default_rng(0).permutation(len(rows))[:MOST_COMPARED]
    found: dict[str, Gain] = {}
    for name, stored in values.items():
        compared = stored[some]
        known, groups = [], []
        for key, case in zip(keys, cases, strict=True):
            place = int(np.searchsorted(rows, key))
            if name in case.observed and place < len(rows) and rows[place] == key and not np.isnan(stored[place]):
                # Whoever has the same value on file stands for the visitor.
                alike = np.flatnonzero(compared == stored[place])
                if not len(alike):
                    continue
                known.append((int(alike[0]), *everybody.seen(name, case.observed[name])))
                groups.append(_group(everybody.categories.get(name), float(stored[place])))
        try:
            found[name] = fit_power(Observable(**everybody.observed[name]), compared, known, groups)
        except ValueError as error:
            raise CalibrationError(f"attribute {name!r}: {error}") from error
    with product.catalog.write() as tx:
        now = galleries.get(tx, gallery).observed or {}
        kept = {name: {**how, "power": found[name].power} if name in found else how for name, how in now.items()}
        galleries.update(tx, record.pk, {"observed": kept})
        remember(tx, found)
    product.known.forget(gallery)


def _group(categories: Mapping[str, int] | None, value: float) -> str:
    if categories is not None:
        return next(name for name, number in categories.items() if number == value)
    low = int(value // DECADE * DECADE)
    return f"{low} to {low + int(DECADE)}"
