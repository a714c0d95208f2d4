"""Every error the product can answer, as one tree of types.

Each type carries its HTTP status and a stable code; `service.api.problems` turns any of them into
`application/problem+json` in one place. Raise the most specific type; foreign errors are translated once, where
they enter. A code, once published, never changes its meaning.
"""

from __future__ import annotations

from typing import Any, ClassVar


class VultusError(Exception):
    """Root of the tree: something the caller or the operator can be told about.

    Args:
        detail: one sentence for the person who reads the answer; never holds secrets or other people's data.
        extra: further members of the problem document, such as `limit` or `face`.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong"

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


# --- the request ---


class InvalidRequestError(VultusError):
    """The request does not have the shape that its schema describes."""

    status, code, title = 422, "invalid_request", "The request is not valid"


class InvalidJsonError(VultusError):
    """The body claims to be JSON and is not."""

    status, code, title = 400, "invalid_json", "The body is not valid JSON"


class InvalidIdError(VultusError):
    """An identifier holds characters that are not allowed, or is too long."""

    status, code, title = 422, "invalid_id", "The identifier is not allowed"


class MalformedHttpError(VultusError):
    """What came over a connection is not HTTP."""

    status, code, title = 400, "malformed_http", "The request is not valid HTTP"


class UnsupportedMediaTypeError(VultusError):
    """The content type is neither multipart/form-data nor application/json."""

    status, code, title = 415, "unsupported_media_type", "The content type is not supported"


class RequestTooLargeError(VultusError):
    """The body is larger than the service takes."""

    status, code, title = 413, "request_too_large", "The request is too large"


class HostNotAllowedError(VultusError):
    """The request names a host that a service open to this machine alone does not answer to."""

    status, code, title = 400, "host_not_allowed", "The host is not allowed"


class UnauthorizedError(VultusError):
    """No valid API key came with the request."""

    status, code, title = 401, "unauthorized", "An API key is needed"


class ForbiddenError(VultusError):
    """The API key lacks the scope that this call needs."""

    status, code, title = 403, "forbidden", "The key may not do this"


class OverloadedError(VultusError):
    """A bounded queue is full; nothing was done and the call may be repeated.

    Args:
        detail: what is full.
        retry_after: seconds after which a new try makes sense.
    """

    status, code, title = 429, "overloaded", "Too much to do at the moment"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.retry_after = retry_after


class DigitsLockedError(OverloadedError):
    """Wrong digits were given too often in a row."""

    code, title = "digits_locked", "Digits were wrong too often"


class IdempotencyConflictError(VultusError):
    """An Idempotency-Key came again with another request."""

    status, code, title = 422, "idempotency_conflict", "The Idempotency-Key was used for another request"


class IdempotencyInProgressError(VultusError):
    """The first request with this Idempotency-Key is still being worked on."""

    status, code, title = 409, "idempotency_in_progress", "The first request with this key has not ended"


# --- photos and faces ---


class PhotoError(VultusError):
    """A photo cannot be used; subclasses say why."""

    status, code, title = 422, "photo_unusable", "The photo cannot be used"


class PhotoEmptyError(PhotoError):
    """The file holds no bytes."""

    code, title = "photo_empty", "The photo is empty"


class PhotoUnreadableError(PhotoError):
    """The file of a photo is absent, may not be read, or is no file; only imports read files."""

    code, title = "photo_unreadable", "The photo's file cannot be read"


class PhotoFormatError(PhotoError):
    """The bytes are in no image format that is accepted."""

    code, title = "photo_format", "The file is no photo in an accepted format"


class PhotoDamagedError(PhotoError):
    """The photo starts like an image and cannot be decoded to its end."""

    code, title = "photo_damaged", "The photo is damaged or cut short"


class PhotoAnimatedError(PhotoError):
    """The file holds several frames."""

    code, title = "photo_animated", "Animated images are not accepted"


class PhotoTooLargeError(PhotoError):
    """The photo has more bytes or pixels than the service takes."""

    status, code, title = 413, "photo_too_large", "The photo is too large"


class PhotoTooSmallError(PhotoError):
    """The photo is too small to show a face."""

    code, title = "photo_too_small", "The photo is too small"


class NoFaceError(PhotoError):
    """No face was found."""

    code, title = "no_face", "No face was found in the photo"


class SeveralFacesError(PhotoError):
    """One face was expected and several were found."""

    code, title = "several_faces", "The photo shows several faces"


class TooManyFacesError(PhotoError):
    """The photo shows more faces than are looked at."""

    code, title = "too_many_faces", "The photo shows too many faces"


class LowQualityError(PhotoError):
    """The face is under the quality floor; `reasons` in the problem says why."""

    code, title = "low_quality", "The face is not good enough to be kept"


class DuplicatePhotoError(PhotoError):
    """The same photo is already enrolled for this person."""

    code, title = "duplicate_photo", "The photo is enrolled already"


class NothingEnrolledError(VultusError):
    """None of the photos of an enrolment could be used; `refused` in the problem says why, photo by photo."""

    status, code, title = 422, "nothing_enrolled", "No photo could be enrolled"


class InvalidEmbeddingError(VultusError):
    """An embedding has the wrong dimension or length, or holds NaN or infinity."""

    status, code, title = 422, "invalid_embedding", "The embedding is not valid"


# --- galleries, people, faces ---


class NotFoundError(VultusError):
    """The thing that the path names does not exist."""

    status, code, title = 404, "not_found", "There is no such thing"


class GalleryNotFoundError(NotFoundError):
    """There is no gallery of this name."""

    code, title = "gallery_not_found", "There is no such gallery"


class PersonNotFoundError(NotFoundError):
    """There is no person of this id in the gallery."""

    code, title = "person_not_found", "There is no such person"


class FaceNotFoundError(NotFoundError):
    """The person has no face of this id."""

    code, title = "face_not_found", "There is no such face"


class AnswerNotFoundError(NotFoundError):
    """No earlier answer of this id waits, it was come back to already, or its time is over."""

    code, title = "answer_not_found", "There is no such answer"


class ModelNotFoundError(NotFoundError):
    """There is no model of this name."""

    code, title = "model_not_found", "There is no such model"


class ImportNotFoundError(NotFoundError):
    """There is no import of this id in the gallery."""

    code, title = "import_not_found", "There is no such import"


class ImportPathError(VultusError):
    """The path may not be imported: outside of the import root, absent, or not readable."""

    status, code, title = 422, "import_path", "The path cannot be imported"


class ImportManifestError(VultusError):
    """The manifest, tar or array of an import cannot be used as a whole; `line` in the problem says where."""

    status, code, title = 422, "import_manifest", "The manifest cannot be used"


class LeaseLostError(VultusError):
    """Another worker took over, or the import was ended; what was being committed was not."""

    status, code, title = 409, "lease_lost", "The import does not run here any more"


class GalleryExistsError(VultusError):
    """A gallery of this name exists already."""

    status, code, title = 409, "gallery_exists", "The gallery exists already"


class GalleryModelError(VultusError):
    """The gallery is bound to another model than the one that is loaded."""

    status, code, title = 409, "gallery_model", "The gallery belongs to another model"


class ReindexingError(VultusError):
    """A gallery's move to another model cannot go on like this."""

    status, code, title = 409, "reindexing", "The move to another model cannot go on"


class WithoutCropsError(ReindexingError):
    """Some faces have no crop that the other model could encode; `people` and `faces` count them."""

    code, title = "without_crops", "Faces without a crop would be left behind"


class PersonWithoutFaceError(VultusError):
    """The person exists and has no template to compare with."""

    status, code, title = 409, "person_without_face", "The person has no enrolled face"


class GalleryFullError(VultusError):
    """A limit on people, or on the faces of a person, is reached."""

    status, code, title = 409, "limit_reached", "A limit of the gallery is reached"


class FpirNotSupportedError(VultusError):
    """The requested error rate is lower than the calibration's data can vouch for."""

    status, code, title = 422, "fpir_not_supported", "The requested error rate cannot be vouched for"


# --- storage, models, operation ---


class StorageError(VultusError):
    """The catalog could not be read or written.

    Args:
        detail: what is wrong.
        retry_after: seconds after which a new try makes sense; None where it does not help.
        extra: as for every error.
    """

    status, code, title = 503, "storage_unavailable", "The storage does not answer"

    def __init__(self, detail: str, *, retry_after: int | None = None, **extra: Any) -> None:
        super().__init__(detail, **extra if retry_after is None else {**extra, "retry_after": retry_after})
        self.retry_after = retry_after


class StorageFullError(StorageError):
    """No space is left; writes are refused while reads go on."""

    status, code, title = 507, "storage_full", "No space is left for writing"


class IndexUnavailableError(StorageError):
    """The server that keeps the index does not answer; what the catalog alone can answer is still answered."""

    status, code, title = 503, "index_unavailable", "The index server does not answer"


class IndexMemoryError(StorageError):
    """An index needs more memory than this process may have."""

    code, title = "index_memory", "The index needs more memory than is allowed"


class DataFolderInUseError(StorageError):
    """Another process works on the same data folder."""

    code, title = "data_folder_in_use", "The data folder is in use"


class SchemaVersionError(StorageError):
    """The catalog was written by a newer version of the product."""

    code, title = "schema_version", "The catalog is of another version"


class BackupDamagedError(VultusError):
    """A file is no backup, is cut short or was changed; nothing was restored."""

    status, code, title = 422, "backup_damaged", "The backup cannot be used"


class BackupVersionError(VultusError):
    """A backup was written by a release that this one does not read."""

    status, code, title = 422, "backup_version", "The backup is of another version"


class NotEmptyError(VultusError):
    """A backup is restored into something empty only."""

    status, code, title = 409, "not_empty", "There is something already"


class SecretError(VultusError):
    """A secret does not belong to what it is used for."""

    status, code, title = 409, "secret_differs", "The secret is another one"


class SharedStateError(VultusError):
    """Redis, where replicas share what they may lose, cannot be used as it is configured."""

    status, code, title = 503, "shared_state_unusable", "The shared state cannot be used"


class RateLimitedError(OverloadedError):
    """An API key asked for more in a minute than it may."""

    code, title = "rate_limited", "Too many requests"


class RevisionError(VultusError):
    """The caller has seen a later revision of the gallery than this replica can show.

    Args:
        detail: which revision was wanted.
        revision: the one that is shown.
    """

    status, code, title = 503, "revision_not_reached", "The revision is not reached yet"

    def __init__(self, detail: str, *, revision: int = 0) -> None:
        super().__init__(detail, revision=revision, retry_after=1)


class ReplicaBehindError(VultusError):
    """This replica has not followed the catalog for too long."""

    status, code, title = 503, "replica_behind", "The replica is behind"


class SnapshotError(VultusError):
    """An index snapshot is damaged, cut short or of another kind; the index is rebuilt from the catalog."""

    status, code, title = 503, "snapshot_damaged", "The index snapshot cannot be used"


class ModelError(VultusError):
    """A model cannot be used; subclasses say why."""

    status, code, title = 503, "model_unusable", "The model cannot be used"


class ModelMissingError(ModelError):
    """The model's file has not been fetched."""

    code, title = "model_missing", "The model's file is missing"


class ModelDamagedError(ModelError):
    """The model's file does not have the digest that its manifest states."""

    code, title = "model_damaged", "The model's file is damaged"


class ModelExistsError(ModelError):
    """A model of this name exists already."""

    status, code, title = 409, "model_exists", "The model exists already"


class ManifestError(ModelError):
    """A manifest is not valid."""

    code, title = "manifest_invalid", "The model's manifest is not valid"


class LicenseNotAcceptedError(ModelError):
    """The model's licence forbids commercial use and was not accepted by name."""

    status, code, title = 403, "license_not_accepted", "The model's licence was not accepted"


class EngineError(ModelError):
    """No inference engine could load the model or reproduce its sample."""

    code, title = "engine_unusable", "No inference engine runs the model"


class EngineAbsentError(EngineError):
    """The engine is not installed, or this machine lacks what it needs."""

    code, title = "engine_absent", "The engine is not available here"


class CalibrationError(VultusError):
    """The photos do not suffice for a calibration."""

    status, code, title = 422, "calibration_impossible", "The photos do not suffice for a calibration"


class FetchError(VultusError):
    """Something could not be downloaded, or arrived with another digest."""

    status, code, title = 502, "fetch_failed", "The download failed"


class NotReadyError(VultusError):
    """The service is starting or stopping."""

    status, code, title = 503, "not_ready", "The service is not ready"
