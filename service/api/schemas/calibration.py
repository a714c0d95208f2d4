"""Bodies about what a gallery is measured to be: its calibration, its habits, what attributes tell."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.api.schemas.common import FreeJson, Id, example


class HabitsOut(BaseModel):
    """A fitted prior: what it tells of a visit over an even one, in bits, with the parameters before and now."""

    model_config = example(
        {"bits": 4.2, "bits_before": 3.9, "visits": 812, "habits": {"tau": 30.0, "theta": 5.0, "travel_beta": 1.5}}
    )

    bits: float
    bits_before: float
    visits: int
    habits: dict[str, float]


class CaseIn(BaseModel):
    """A confirmed visitor, and what was observed of them."""

    model_config = example({"person": "anna", "observed": {"height": [168, 172]}})

    person: Id
    observed: FreeJson


class CasesIn(BaseModel):
    """Confirmed visitors."""

    model_config = example({"cases": [{"person": "anna", "observed": {"height": [168, 172]}}]})

    cases: Annotated[list[CaseIn], Field(max_length=10_000)]


class GainOut(BaseModel):
    """What an attribute tells: the fitted power, and the bits gained on held-out cases, for all and by group."""

    power: float
    bits: float
    groups: dict[str, float]
    cases: int


class GainsOut(BaseModel):
    """What every observable attribute tells."""

    model_config = example(
        {"gains": {"gender": {"power": 0.7, "bits": 0.6, "groups": {"f": 0.61, "m": 0.59}, "cases": 400}}}
    )

    gains: dict[str, GainOut]


class CalibrationTierOut(BaseModel):
    """What the scores of pairs of two people mean, everywhere (`all`) or among neighbours (`near`).

    Thresholds carry the ends of a 95 % interval; a rate under `least_fmr` is not vouched for. `doubles` are pairs left
    out because they look like one person enrolled twice. `figures` are points to plot, given when it is measured.
    """

    pairs: int
    doubles: int
    least_fmr: float
    cllr: float | None
    min_cllr: float | None
    fmr: list[float]
    thresholds: list[float]
    thresholds_low: list[float]
    thresholds_high: list[float]
    fnmr: list[float]
    figures: dict[str, Any] | None = None


class CalibrationOut(BaseModel):
    """A gallery measured on its own people."""

    model_config = example(
        {
            "version": 3,
            "revision": 1204,
            "people": 1100,
            "made_at": "2026-01-02T03:04:05Z",
            "tiers": {
                "all": {
                    "pairs": 604450,
                    "doubles": 0,
                    "least_fmr": 5e-6,
                    "cllr": 0.03,
                    "min_cllr": 0.028,
                    "fmr": [0.5, 5e-6],
                    "thresholds": [0.08, 0.49],
                    "thresholds_low": [0.08, 0.47],
                    "thresholds_high": [0.081, 0.51],
                    "fnmr": [0.0, 0.06],
                    "figures": None,
                }
            },
        }
    )

    version: int
    revision: int
    people: int
    made_at: datetime
    tiers: dict[str, CalibrationTierOut]
