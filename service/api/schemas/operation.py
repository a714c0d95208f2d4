"""Bodies about models and health."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.api.schemas.common import example


class EngineOut(BaseModel):
    """The engine that runs a model, and why."""

    name: str
    precision: str
    parity: float
    reason: str
    rates: dict[str, float]


class ModelOut(BaseModel):
    """A model in the models folder."""

    name: str
    version: str
    task: str
    digest: str
    loaded: bool
    engine: EngineOut | None
    licence: dict[str, Any]
    measured: dict[str, float]
    calibration: dict[str, Any] | None


class ModelsOut(BaseModel):
    """All models."""

    model_config = example(
        {
            "models": [
                {
                    "name": "sface",
                    "version": "2021dec",
                    "task": "recognition",
                    "digest": "9b74c9897bac770ffc029102a200c5de",
                    "loaded": True,
                    "engine": {
                        "name": "openvino-bf16",
                        "precision": "bf16",
                        "parity": 0.9995,
                        "reason": "fastest",
                        "rates": {"openvino-bf16": 150.0, "onnxruntime": 75.0},
                    },
                    "licence": {"spdx": "Apache-2.0", "commercial": True, "source": "https://example.org/model"},
                    "measured": {"lfw_accuracy": 99.4},
                    "calibration": {"data": "LFW", "impostor_pairs": 14000000},
                }
            ]
        }
    )

    models: list[ModelOut]


class Live(BaseModel):
    """The process answers."""

    model_config = example({"status": "live"})

    status: Literal["live"] = "live"


class Ready(BaseModel):
    """The service can do its work."""

    model_config = example(
        {
            "status": "ready",
            "model": "sface",
            "engine": "openvino-bf16",
            "version": "0.1.0",
            "catalog": "postgresql",
            "shared": "up",
            "behind_seconds": 0.12,
            "behind_revisions": 0,
        }
    )

    status: Literal["ready"] = "ready"
    model: str
    engine: str
    version: str
    catalog: Literal["sqlite", "postgresql"]
    shared: Annotated[
        Literal["alone", "up", "away"], Field(description="whether Redis answers; alone where none is configured")
    ]
    behind_seconds: Annotated[float, Field(description="what was committed longer ago is shown here")]
    behind_revisions: Annotated[int, Field(description="changes that are known to be missing here")]
