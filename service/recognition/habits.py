"""Habits: fit the parameters of a gallery's prior to its own visits, and keep them with the gallery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

from service.errors import CalibrationError
from service.gallery import galleries
from service.gallery.catalog import WriteTransaction
from service.identify.habits import GRIDS, TRAVELS, FittedHabits, fit_habits
from service.identify.prior import Habits
from service.identify.travel import Gravity
from service.recognition.expectations import TRAVEL, gravity_of, habits_of
from service.recognition.product import Product

Remember = Callable[[WriteTransaction, FittedHabits], None]


def fit_prior(product: Product, gallery: str, remember: Remember) -> None:
    """Fit and keep the parameters; they hold from the next request on. Blocks, for up to some minutes.

    Args:
        product: the parts.
        gallery: name of the gallery.
        remember: called with what was found inside the transaction that keeps it.

    Raises:
        GalleryNotFoundError: there is no such gallery.
        CalibrationError: there are too few visits.
    """
    with product.catalog.read() as reading:
        record = galleries.get(reading, gallery)
    scenes, everybody = product.expectations.scenes(record.pk, now=datetime.now(UTC))
    try:
        fitted = fit_habits(scenes, everybody, habits_of(record, Habits()), gravity_of(record, Gravity()))
    except ValueError as error:
        raise CalibrationError(f"{error}; record visits with POST /v1/galleries/{gallery}/visits") from error
    names = {*GRIDS, *(TRAVEL + name for name in TRAVELS)}
    kept = {name: value for name, value in told(fitted).items() if name in names}
    with product.catalog.write() as tx:
        galleries.update(tx, record.pk, {"habits": kept})
        remember(tx, fitted)


def told(fitted: FittedHabits) -> dict[str, float]:
    """Every parameter by name, as they are kept and answered."""
    return asdict(fitted.habits) | {TRAVEL + name: value for name, value in asdict(fitted.gravity).items()}
