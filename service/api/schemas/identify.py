"""Bodies of identify: what is asked, and what is answered about each face."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.common import QUALITY, BoxOut, Digits, FreeJson, Id, Moment, Place, Rate, example


class Claims(BaseModel):
    """What the visitor says about themselves."""

    model_config = ConfigDict(extra="forbid")

    person: Id | None = None
    digits: Digits | None = None
    answer: (
        Annotated[
            str,
            Field(max_length=64, description="`answer` of a face that this is about"),
        ]
        | None
    ) = None


class Context(BaseModel):
    """Where, when and by which device the probe was taken, and what was observed beside the face."""

    model_config = ConfigDict(extra="forbid")

    device: Id | None = None
    region: Place | None = None
    time: Moment | None = None
    observed: FreeJson | None = None
    claims: Claims | None = None


class IdentifyJson(BaseModel):
    """An identify request as JSON: exactly one of `photo` and `embedding`, or an earlier answer in `context.claims`."""

    model_config = example({"photo": "/9j/4AAQSkZJRg...", "context": {"device": "gate-7"}, "top": 3})

    photo: str | None = None
    embedding: str | None = None
    context: Context | None = None
    fpir: Rate | None = None
    top: Annotated[int, Field(ge=1, le=100)] = 5
    prior: Literal["on", "off"] = "on"
    certainty: Annotated[Rate, Field(description="least posterior of a match, where a context has a say")] | None = None
    looks: Annotated[
        int, Field(ge=1, le=5, description="photos of one visitor that the rate is shared among; see `answer`")
    ] = 1
    safe: Annotated[bool, Field(description="accept on an e-value, however much alike neighbours look")] = False


class CandidateOut(BaseModel):
    """A person whom the face may show."""

    person: str
    similarity: float
    posterior: float
    prior_log_odds: float


class TierOut(BaseModel):
    """People who were examined together."""

    tier: str
    scored: int
    posterior: float


class TraceOut(BaseModel):
    """How the answer came about.

    Where a prior had a say: `unknown` is the probability beforehand that the visitor is nobody in the gallery, `lift`
    how many times as likely as anybody the best candidate was, `certainty` the least posterior of a match, and
    `calibration` the version of the gallery's own calibration, 0 where the model's decides alone.
    """

    scored: int
    tiers: list[TierOut]
    words: str | None = None
    unknown: float | None = None
    lift: float | None = None
    certainty: float | None = None
    calibration: int | None = None


class IdentifiedOut(BaseModel):
    """The answer about one face; box, landmarks, score and quality are missing for a probe given as an embedding.

    Where the decision is `ask`, `answer` is what to send back in `context.claims` together with the digits; where it is
    `unknown` and the request left further `looks`, together with another photo.
    """

    box: BoxOut | None = None
    landmarks: list[tuple[float, float]] | None = None
    score: float | None = None
    quality: Annotated[float | None, Field(description=QUALITY)] = None
    decision: Literal["match", "unknown", "ask"]
    person: str | None
    similarity: float | None
    posterior: float | None
    threshold: float
    fpir: float
    candidates: list[CandidateOut]
    trace: TraceOut
    answer: str | None = None


class IdentificationOut(BaseModel):
    """The answer about every face of the photo, largest first."""

    model_config = example(
        {
            "gallery": "staff",
            "revision": 42,
            "model": "sface",
            "faces": [
                {
                    "box": {"x": 61.0, "y": 70.2, "width": 128.4, "height": 166.0},
                    "landmarks": [[97, 132], [155, 131], [127, 166], [102, 200], [150, 199]],
                    "score": 0.93,
                    "quality": 0.81,
                    "decision": "match",
                    "person": "anna",
                    "similarity": 0.71,
                    "posterior": 0.9998,
                    "threshold": 0.44,
                    "fpir": 0.003,
                    "candidates": [{"person": "anna", "similarity": 0.71, "posterior": 0.9998, "prior_log_odds": -3.5}],
                    "trace": {"scored": 17, "tiers": [{"tier": "gallery", "scored": 17, "posterior": 0.9998}]},
                }
            ],
        }
    )

    gallery: str
    revision: int
    model: str
    faces: list[IdentifiedOut]
