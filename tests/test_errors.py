"""The errors that the product answers with: a change of a published code or status must be made here too."""

import re

import pytest

from service import errors
from service.api.problems import document
from service.errors import OverloadedError, VultusError
from service.settings import SettingsError
from tests.conftest import MEMBERS

CODES = {
    "answer_not_found": (404, "AnswerNotFoundError"),
    "calibration_impossible": (422, "CalibrationError"),
    "data_folder_in_use": (503, "DataFolderInUseError"),
    "digits_locked": (429, "DigitsLockedError"),
    "duplicate_photo": (422, "DuplicatePhotoError"),
    "engine_absent": (503, "EngineAbsentError"),
    "engine_unusable": (503, "EngineError"),
    "face_not_found": (404, "FaceNotFoundError"),
    "fetch_failed": (502, "FetchError"),
    "forbidden": (403, "ForbiddenError"),
    "fpir_not_supported": (422, "FpirNotSupportedError"),
    "gallery_exists": (409, "GalleryExistsError"),
    "gallery_model": (409, "GalleryModelError"),
    "gallery_not_found": (404, "GalleryNotFoundError"),
    "host_not_allowed": (400, "HostNotAllowedError"),
    "index_unavailable": (503, "IndexUnavailableError"),
    "idempotency_conflict": (422, "IdempotencyConflictError"),
    "idempotency_in_progress": (409, "IdempotencyInProgressError"),
    "import_manifest": (422, "ImportManifestError"),
    "import_not_found": (404, "ImportNotFoundError"),
    "import_path": (422, "ImportPathError"),
    "index_memory": (503, "IndexMemoryError"),
    "internal": (500, "VultusError"),
    "invalid_embedding": (422, "InvalidEmbeddingError"),
    "invalid_id": (422, "InvalidIdError"),
    "invalid_json": (400, "InvalidJsonError"),
    "invalid_request": (422, "InvalidRequestError"),
    "lease_lost": (409, "LeaseLostError"),
    "license_not_accepted": (403, "LicenseNotAcceptedError"),
    "limit_reached": (409, "GalleryFullError"),
    "low_quality": (422, "LowQualityError"),
    "malformed_http": (400, "MalformedHttpError"),
    "manifest_invalid": (503, "ManifestError"),
    "model_damaged": (503, "ModelDamagedError"),
    "model_exists": (409, "ModelExistsError"),
    "model_missing": (503, "ModelMissingError"),
    "model_not_found": (404, "ModelNotFoundError"),
    "model_unusable": (503, "ModelError"),
    "no_face": (422, "NoFaceError"),
    "not_found": (404, "NotFoundError"),
    "not_ready": (503, "NotReadyError"),
    "nothing_enrolled": (422, "NothingEnrolledError"),
    "overloaded": (429, "OverloadedError"),
    "person_not_found": (404, "PersonNotFoundError"),
    "person_without_face": (409, "PersonWithoutFaceError"),
    "photo_animated": (422, "PhotoAnimatedError"),
    "photo_damaged": (422, "PhotoDamagedError"),
    "photo_empty": (422, "PhotoEmptyError"),
    "photo_format": (422, "PhotoFormatError"),
    "photo_too_large": (413, "PhotoTooLargeError"),
    "photo_too_small": (422, "PhotoTooSmallError"),
    "photo_unreadable": (422, "PhotoUnreadableError"),
    "photo_unusable": (422, "PhotoError"),
    "rate_limited": (429, "RateLimitedError"),
    "replica_behind": (503, "ReplicaBehindError"),
    "request_too_large": (413, "RequestTooLargeError"),
    "revision_not_reached": (503, "RevisionError"),
    "schema_version": (503, "SchemaVersionError"),
    "settings_invalid": (500, "SettingsError"),
    "several_faces": (422, "SeveralFacesError"),
    "reindexing": (409, "ReindexingError"),
    "without_crops": (409, "WithoutCropsError"),
    "backup_damaged": (422, "BackupDamagedError"),
    "backup_version": (422, "BackupVersionError"),
    "not_empty": (409, "NotEmptyError"),
    "secret_differs": (409, "SecretError"),
    "shared_state_unusable": (503, "SharedStateError"),
    "snapshot_damaged": (503, "SnapshotError"),
    "storage_full": (507, "StorageFullError"),
    "storage_unavailable": (503, "StorageError"),
    "too_many_faces": (422, "TooManyFacesError"),
    "unauthorized": (401, "UnauthorizedError"),
    "unsupported_media_type": (415, "UnsupportedMediaTypeError"),
}
"""code: (status, type)"""


def every_type(root=VultusError):
    """The tree of errors as the product defines it; private types of single modules stand aside."""
    yield root
    for kind in root.__subclasses__():
        yield from every_type(kind)


TYPES = [
    kind
    for kind in every_type()
    if kind.__module__ in {errors.__name__, SettingsError.__module__} and not kind.__name__.startswith("_")
]


def test_the_published_codes_are_these():
    assert {kind.code: (kind.status, kind.__name__) for kind in TYPES} == CODES


def test_every_type_has_a_code_of_its_own():
    codes = [kind.code for kind in TYPES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
class TestOf:
    def test_code_status_and_title_are_fit_to_publish(self, kind):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
        assert 400 <= kind.status < 600
        assert kind.title[0].isupper()
        assert not kind.title.endswith(".")
        assert kind.__doc__

    def test_the_document_has_all_members_and_the_extra_ones(self, kind):
        told = document(kind("why"), "an-id")
        assert told.keys() >= MEMBERS
        assert (told["type"], told["code"]) == (f"urn:vultus:error:{kind.code}", kind.code)
        assert (told["status"], told["detail"], told["request_id"]) == (kind.status, "why", "an-id")

    def test_the_name_says_that_it_is_an_error(self, kind):
        assert kind.__name__.endswith("Error")


def test_further_members_are_told():
    assert document(VultusError("why", limit=3), "id")["limit"] == 3
    assert document(OverloadedError("why", retry_after=7), "id")["retry_after"] == 7


def test_a_photo_error_is_one_however_it_is_caught():
    for kind in (errors.NoFaceError, errors.PhotoTooLargeError, errors.DuplicatePhotoError):
        assert issubclass(kind, errors.PhotoError)
    for kind in (errors.GalleryNotFoundError, errors.ModelNotFoundError):
        assert issubclass(kind, errors.NotFoundError)
