"""What goes over the wire: the bodies of requests and answers, with examples for the documentation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.recognition.free_json import storable
from service.recognition.ids import valid_id
from service.recognition.regions import cell_at, cell_of

Id = Annotated[str, AfterValidator(valid_id)]
"""An identifier of a gallery or a person."""

COMPONENTS: Final = "#/components/schemas/{model}"
"""Where the documentation keeps the schema of a model."""

Rate = Annotated[float, Field(gt=0, lt=1)]
"""An error rate."""


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [value]})


FreeJson = Annotated[dict[str, Any], AfterValidator(storable)]


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs its zone, as in 2027-01-31T00:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time lies in the years 1 to 9999") from error


Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A time with its zone."""


class Problem(BaseModel):
    """An error (RFC 9457); `code` is stable, further members depend on it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:vultus:error:no_face",
                    "title": "No face was found in the photo",
                    "status": 422,
                    "code": "no_face",
                    "detail": "no face was found in the photo",
                    "request_id": "5f0c1e7a2b9d4c6e8f10",
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


# --- galleries ---


class ObservableIn(BaseModel):
    """How an attribute of people is observed beside the face.

    A category (gender, a membership) is wrong with a share `error`; a number (a height, an age) has a standard
    deviation `spread`. What is guessed `from_face` counts with a `power` of 0.3 at most.
    """

    model_config = _example({"kind": "number", "spread": 4})

    kind: Literal["category", "number"]
    error: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    spread: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    from_face: bool = False
    power: Annotated[float, Field(ge=0, le=1)] = 1.0


Observed = Annotated[
    dict[Annotated[str, Field(max_length=64)], ObservableIn],
    Field(max_length=8, description="attributes of people that count as evidence when `context.observed` names them"),
]


class GalleryIn(BaseModel):
    """A gallery to create."""

    model_config = _example({"name": "staff", "fpir": 0.003})

    name: Id
    fpir: Rate | None = None
    observed: Observed = Field(default_factory=dict)
    keep_crops: bool = Field(default=False, description="keep the crops of faces, for a later move to another model")
    attributes: FreeJson = Field(default_factory=dict)


class GalleryPatch(BaseModel):
    """What shall change; what is left out stays."""

    model_config = _example({"fpir": 0.001})

    fpir: Rate | None = None
    observed: Observed | None = None
    keep_crops: bool = False
    attributes: FreeJson | None = None


GALLERY: Final[dict[str, Any]] = {
    "name": "staff",
    "model": "sface",
    "model_digest": "9b74c9897bac770ffc029102a200c5de",
    "dim": 128,
    "revision": 42,
    "people": 17,
    "faces": 40,
    "fpir": 0.003,
    "observed": {},
    "keep_crops": False,
    "attributes": {},
    "created_at": "2026-01-02T03:04:05Z",
}


class GalleryOut(BaseModel):
    """A gallery."""

    model_config = _example(GALLERY)

    name: str
    model: str
    model_digest: str
    dim: int
    revision: int
    people: int
    faces: int
    fpir: float
    observed: dict[str, ObservableIn]
    keep_crops: bool
    attributes: dict[str, Any]
    created_at: datetime


class GalleryPage(BaseModel):
    """Galleries by name; `next` is the cursor of the following page."""

    model_config = _example({"galleries": [GALLERY], "next": None})

    galleries: list[GalleryOut]
    next: str | None


class GalleryDeleted(BaseModel):
    """What went with a gallery."""

    model_config = _example({"gallery": "staff", "people": 17, "faces": 40})

    gallery: str
    people: int
    faces: int


# --- people ---


class Point(BaseModel):
    """A place in degrees."""

    model_config = ConfigDict(extra="forbid")

    lat: float
    lon: float


Place = Annotated[str, Field(max_length=32)] | Point
"""An H3 cell, or a point."""


def cell_of_place(place: str | Point | None) -> str | None:
    """The H3 cell of a place.

    Raises:
        InvalidRequestError: there is no such place.
    """
    if place is None:
        return None
    return cell_at(place.lat, place.lon) if isinstance(place, Point) else cell_of(place)


Digits = Annotated[str, Field(pattern="^[0-9]{2,8}$", description="last digits of the phone; kept as a keyed hash")]


class PersonIn(BaseModel):
    """Everything about a person but their faces."""

    model_config = _example({"name": "Anna Example", "region": {"lat": 48.137, "lon": 11.575}, "digits": "1234"})

    name: Annotated[str, Field(max_length=256)] | None = None
    region: Annotated[str, Field(max_length=32)] | Point | None = None
    device: Id | None = None
    digits: Digits | None = None
    attributes: FreeJson = Field(default_factory=dict)
    consent: FreeJson | None = None
    expires_at: Moment | None = None


class PersonPatch(PersonIn):
    """What shall change; what is left out stays, null clears."""

    model_config = _example({"region": None, "device": "phone-7"})

    attributes: FreeJson | None = None  # type: ignore[assignment] # null clears here, and nowhere else


class BoxOut(BaseModel):
    """Where a face is in its photo, in pixels."""

    x: float
    y: float
    width: float
    height: float


class FaceOut(BaseModel):
    """A face that is kept."""

    face: str
    quality: float
    box: BoxOut | None
    created_at: datetime


PERSON: Final[dict[str, Any]] = {
    "person": "anna",
    "name": "Anna Example",
    "region": "881f8d7a49fffff",
    "device": None,
    "digits": True,
    "attributes": {},
    "consent": None,
    "expires_at": None,
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05Z",
    "revision": 41,
    "face_count": 2,
}


class PersonOut(BaseModel):
    """A person; `digits` tells only whether some are kept."""

    model_config = _example(PERSON)

    person: str
    name: str | None
    region: str | None
    device: str | None
    digits: bool
    attributes: dict[str, Any]
    consent: dict[str, Any] | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    revision: int
    face_count: int
    faces: list[FaceOut] | None = None


class PersonPage(BaseModel):
    """People by id; `next` is the cursor of the following page."""

    model_config = _example({"people": [PERSON], "next": "anna"})

    people: list[PersonOut]
    next: str | None


class PersonForgotten(BaseModel):
    """Proof that a person was forgotten."""

    model_config = _example({"person": "anna", "revision": 43, "receipt": "r_5e884898da28047151d0e56f", "faces": 3})

    person: str
    revision: int
    receipt: str
    faces: int


class FaceRemoved(BaseModel):
    """A face that is no longer kept."""

    model_config = _example({"person": "anna", "face": "f_3c9909afec25354d551d", "revision": 43})

    person: str
    face: str
    revision: int


# --- imports ---


class ImportIn(BaseModel):
    """An import to begin. Paths are under the service's import root, relative to it or whole."""

    model_config = _example({"path": "people/2026.csv"})

    path: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            description="a folder person/photo, a manifest (CSV, JSONL, Parquet) or a tar",
        ),
    ]
    embeddings: Annotated[
        str | None,
        Field(min_length=1, max_length=4096, description="an array of numpy, a row for each row of the manifest"),
    ] = None
    look_alikes: Annotated[
        Literal["refuse", "enroll"] | None,
        Field(description="faces that are likely another person's; by default refused, ready embeddings enrolled"),
    ] = None


class Trouble(BaseModel):
    """What holds an import up, or made it fail."""

    code: str
    detail: str


IMPORT: Final[dict[str, Any]] = {
    "import": "i_5e884898da28047151d0",
    "gallery": "staff",
    "path": "people/2026.csv",
    "embeddings": None,
    "look_alikes": "refuse",
    "state": "running",
    "total": 13233,
    "done": 6400,
    "outcomes": {
        "enrolled": 6301,
        "duplicate": 0,
        "another_person": 9,
        "no_face": 2,
        "low_quality": 31,
        "several_faces": 55,
        "unreadable": 2,
        "over_limit": 0,
        "invalid": 0,
    },
    "per_second": 174.2,
    "seconds_left": 39.2,
    "trouble": None,
    "created_at": "2026-01-02T03:04:05Z",
    "started_at": "2026-01-02T03:04:06Z",
    "ended_at": None,
}


class ImportOut(BaseModel):
    """An import: what was asked for, where it stands, and what became of its photos."""

    model_config = ConfigDict(**_example(IMPORT), populate_by_name=True, serialize_by_alias=True)

    import_: Annotated[str, Field(alias="import")]
    gallery: str
    path: str
    embeddings: str | None
    look_alikes: Literal["refuse", "enroll"]
    state: Literal["planning", "running", "done", "cancelled", "failed"]
    total: int | None
    done: int
    outcomes: dict[str, int]
    per_second: float
    seconds_left: float | None
    trouble: Trouble | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class ImportPage(BaseModel):
    """Imports, the newest first; `next` is the cursor of the following page."""

    model_config = _example({"imports": [IMPORT], "next": None})

    imports: list[ImportOut]
    next: str | None


# --- enrol ---


class EnrollJson(BaseModel):
    """An enrolment as JSON: photos in base64, or embeddings of the gallery's model (base64 of float32)."""

    model_config = _example({"photo": ["/9j/4AAQSkZJRg...", "/9j/4AAQSkZJRg..."]})

    photo: str | list[str] = Field(default_factory=list)
    embedding: str | list[str] = Field(default_factory=list)
    quality: Annotated[float, Field(ge=0, le=1, description="of the embeddings' faces")] = 0.5


class ResemblanceOut(BaseModel):
    """Somebody else who is likely the same person."""

    person: str
    similarity: float


class EnrolledOut(BaseModel):
    """A face that was kept; `photo` is the place of its photo in the request, from 0."""

    face: str
    photo: int
    box: BoxOut | None
    quality: float
    resembles: list[ResemblanceOut]


class RefusedOut(BaseModel):
    """A photo of which nothing was kept."""

    model_config = ConfigDict(extra="allow")

    photo: int
    code: str
    detail: str


class EnrolmentOut(BaseModel):
    """What became of each photo."""

    model_config = _example(
        {
            "person": "anna",
            "revision": 42,
            "enrolled": [
                {
                    "face": "f_3c9909afec25354d551d",
                    "photo": 0,
                    "box": {"x": 61.0, "y": 70.2, "width": 128.4, "height": 166.0},
                    "quality": 0.81,
                    "resembles": [],
                }
            ],
            "refused": [{"photo": 1, "code": "no_face", "detail": "no face was found in the photo"}],
        }
    )

    person: str
    revision: int
    enrolled: list[EnrolledOut]
    refused: list[RefusedOut]


# --- detect, embed, identify, verify ---


class QualityOut(BaseModel):
    """How well a face is seen, each in [0, 1]; `score` folds the others."""

    score: float
    size: float
    sharpness: float
    pose: float
    exposure: float
    detection: float


class PhotoJson(BaseModel):
    """One photo in base64."""

    model_config = _example({"photo": "/9j/4AAQSkZJRg..."})

    photo: str


class SeenOut(BaseModel):
    """A face in a photo; landmarks are the eyes, the nose and the corners of the mouth."""

    box: BoxOut
    landmarks: list[tuple[float, float]]
    score: float
    quality: QualityOut


SEEN: Final[dict[str, Any]] = {
    "box": {"x": 61.0, "y": 70.2, "width": 128.4, "height": 166.0},
    "landmarks": [[97, 132], [155, 131], [127, 166], [102, 200], [150, 199]],
    "score": 0.93,
    "quality": {"score": 0.81, "size": 1, "sharpness": 0.9, "pose": 0.9, "exposure": 1, "detection": 1},
}


class DetectionOut(BaseModel):
    """The faces of a photo, largest first."""

    model_config = _example({"width": 250, "height": 250, "faces": [SEEN]})

    width: int
    height: int
    faces: list[SeenOut]


class EmbeddedOut(SeenOut):
    """A face with its embedding: base64 of little-endian float32."""

    embedding: str


class EmbeddingOut(BaseModel):
    """The embeddings of a photo's faces."""

    model_config = _example(
        {
            "model": "sface",
            "model_digest": "9b74c9897bac770ffc029102a200c5de",
            "dim": 128,
            "faces": [{**SEEN, "embedding": "jIcCPUanCryv7gw+..."}],
        }
    )

    model: str
    model_digest: str
    dim: int
    faces: list[EmbeddedOut]


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

    model_config = _example({"photo": "/9j/4AAQSkZJRg...", "context": {"device": "gate-7"}, "top": 3})

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
    quality: float | None = None
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

    model_config = _example(
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


class VerifyPhotosJson(BaseModel):
    """Two photos in base64."""

    model_config = _example({"photo_a": "/9j/4AAQSkZJRg...", "photo_b": "/9j/4AAQSkZJRg...", "fmr": 0.00001})

    photo_a: str
    photo_b: str
    fmr: Rate | None = None


class VerifyPersonJson(BaseModel):
    """A photo in base64, to be compared with a person."""

    model_config = _example({"photo": "/9j/4AAQSkZJRg...", "fmr": 0.00001})

    photo: str
    fmr: Rate | None = None


class VerificationOut(BaseModel):
    """Whether it is the same person; `faces` are those compared, in the order of the photos."""

    model_config = _example(
        {"same": True, "similarity": 0.71, "probability": 0.99997, "threshold": 0.47, "fmr": 0.00001, "faces": []}
    )

    same: bool
    similarity: float
    probability: float
    threshold: float
    fmr: float
    faces: list[SeenOut]


# --- visits ---


class VisitIn(BaseModel):
    """A visit that something other than the face has confirmed; `person` is null for a confirmed stranger."""

    model_config = _example({"person": "anna", "device": "gate-7", "confirmed_by": "card"})

    person: Id | None
    device: Id | None = None
    region: Place | None = None
    time: Moment | None = None
    confirmed_by: Annotated[str, Field(pattern="^[a-z0-9_-]{1,64}$", description="what vouches for it")]


class VisitOut(BaseModel):
    """A visit that was recorded."""

    model_config = _example({"visit": "v_17", "person": "anna"})

    visit: str
    person: str | None


class HabitsOut(BaseModel):
    """A fitted prior: what it tells of a visit over an even one, in bits, with the parameters before and now."""

    model_config = _example({"bits": 4.2, "bits_before": 3.9, "visits": 812, "habits": {"tau": 30.0, "theta": 5.0}})

    bits: float
    bits_before: float
    visits: int
    habits: dict[str, float]


class CaseIn(BaseModel):
    """A confirmed visitor, and what was observed of them."""

    model_config = _example({"person": "anna", "observed": {"height": [168, 172]}})

    person: Id
    observed: FreeJson


class CasesIn(BaseModel):
    """Confirmed visitors."""

    model_config = _example({"cases": [{"person": "anna", "observed": {"height": [168, 172]}}]})

    cases: Annotated[list[CaseIn], Field(max_length=10_000)]


class GainOut(BaseModel):
    """What an attribute tells: the fitted power, and the bits gained on held-out cases, for all and by group."""

    power: float
    bits: float
    groups: dict[str, float]
    cases: int


class GainsOut(BaseModel):
    """What every observable attribute tells."""

    model_config = _example(
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

    model_config = _example(
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


# --- models and health ---


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

    model_config = _example(
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

    model_config = _example({"status": "live"})

    status: Literal["live"] = "live"


class Ready(BaseModel):
    """The service can do its work."""

    model_config = _example(
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
