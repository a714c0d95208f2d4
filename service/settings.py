"""Every setting of the service, in one typed object read from `VULTUS_*` variables.

Parts of the product never read the environment: they take plain arguments, and `service.app` hands them over from
here. A `VULTUS_*` variable that names no setting stops the start, so that a misspelt limit cannot be ignored. What must
not stand in an environment may come as a file, `/run/secrets/vultus_<setting>`: a variable goes before it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import VultusError

CHECKOUT = Path(__file__).resolve().parent.parent
"""The folder that holds `service/`, `models/` and, by default, the data."""

MEBI = 1 << 20

SECRETS = Path("/run/secrets")
"""Where containers are given secrets as files."""


class SettingsError(VultusError):
    """A setting is unknown or has a value that is not allowed."""

    code, title = "settings_invalid", "The settings are not valid"


class Settings(BaseSettings):
    """The settings; each field is the variable `VULTUS_<FIELD>` in upper case."""

    model_config = SettingsConfigDict(env_prefix="VULTUS_", extra="forbid", frozen=True)

    data: Annotated[Path, Field(description="folder of the catalog, snapshots and secrets")] = CHECKOUT / ".vultus"
    catalog: Annotated[
        str,
        Field(
            repr=False,
            pattern="^(postgres(ql)?://.*)?$",
            description="PostgreSQL URL of the catalog that replicas share; without it SQLite in the data folder",
        ),
    ] = ""
    redis: Annotated[
        str,
        Field(
            repr=False,
            pattern="^(rediss?://.*)?$",
            description="Redis URL of what replicas share beside the catalog; without it each keeps it to itself",
        ),
    ] = ""
    secret: Annotated[
        Path | None, Field(description="file of the secret that replicas share; without it the data folder holds one")
    ] = None
    index: Annotated[
        Literal["local", "milvus"], Field(description="where galleries are searched: in this process, or by Milvus")
    ] = "local"
    milvus: Annotated[
        str, Field(description="address of the Milvus server or cluster, http://HOST:PORT, or a Milvus Lite file")
    ] = ""
    milvus_token: Annotated[str, Field(repr=False, description="user:password or API key for Milvus")] = ""
    models: Annotated[Path, Field(description="folder of the models' manifests and files")] = CHECKOUT / "models"
    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    open: Annotated[
        bool, Field(description="serve without API keys on an address that is not loopback (not advised)")
    ] = False
    recognition_model: Annotated[str, Field(description="name of the recognition model")] = "sface"
    detection_model: Annotated[str, Field(description="name of the detection model")] = "yunet"
    engine: Annotated[
        Literal["auto", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8", "cuda"],
        Field(description="inference engine of the recognition model; auto measures and remembers the fastest"),
    ] = "auto"
    index_device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(description="where galleries are searched; auto takes GPUs where there are any, cuda insists on them"),
    ] = "auto"
    threads: Annotated[
        int,
        Field(
            ge=0,
            le=1024,
            description="threads of inference and search, and processes that see photos; 0 takes one a core",
        ),
    ] = 0
    batch: Annotated[int, Field(ge=1, le=256, description="most faces encoded at once")] = 8
    queue: Annotated[int, Field(ge=1, le=100_000, description="photos or faces waiting for a model before 429")] = 256
    max_request_bytes: Annotated[int, Field(ge=1024, description="largest request body")] = 64 * MEBI
    max_photo_bytes: Annotated[int, Field(ge=1024, description="largest photo in bytes")] = 16 * MEBI
    max_photo_pixels: Annotated[int, Field(ge=1024, description="largest photo in pixels")] = 50_000_000
    max_photos: Annotated[int, Field(ge=1, le=1000, description="most photos in one enrolment")] = 20
    max_faces: Annotated[int, Field(ge=1, le=1000, description="most faces looked at in one photo")] = 50
    max_faces_per_person: Annotated[int, Field(ge=1, le=10_000, description="most faces kept for a person")] = 50
    min_quality: Annotated[float, Field(ge=0, le=1, description="quality under which enrolment refuses")] = 0.3
    import_root: Annotated[
        Path | None, Field(description="folder that imports may read; without it there are no imports over REST")
    ] = None
    import_days: Annotated[int, Field(ge=1, le=3650, description="days for which the report of an import is kept")] = 30
    fpir: Annotated[float, Field(gt=0, lt=1, description="target false-positive identification rate")] = 0.003
    fmr: Annotated[float, Field(gt=0, lt=1, description="target false-match rate of verify")] = 1e-5
    certainty: Annotated[
        float, Field(gt=0, lt=1, description="least posterior of a match where a context has a say")
    ] = 0.5
    measure_growth: Annotated[
        float,
        Field(ge=0, le=100, description="growth after which a gallery is measured on its own; 0 for never"),
    ] = 0.25
    visit_days: Annotated[int, Field(ge=1, le=3650, description="days for which a confirmed visit is kept")] = 400
    visits: Annotated[
        Literal["catalog", "redis"],
        Field(description="where visits are kept; in redis they need VULTUS_REDIS, and one that keeps its data"),
    ] = "catalog"
    rate: Annotated[
        int, Field(ge=0, le=10_000_000, description="requests that an API key may send in a minute; 0 is any number")
    ] = 0
    poll: Annotated[
        float, Field(gt=0, le=60, description="seconds after which a replica looks for changes that nobody told of")
    ] = 0.5
    snapshot_every: Annotated[int, Field(ge=1, description="revisions after which a snapshot is written")] = 5_000
    key: Annotated[str, Field(repr=False, description="API key that the command line sends to a service")] = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="least level logged")] = "info"

    @field_validator("index_device")
    @classmethod
    def _is_used(cls, device: str, others: ValidationInfo) -> str:
        if device == "cuda" and others.data.get("index") == "milvus":
            raise ValueError("cuda is for VULTUS_INDEX=local; with milvus the server searches, on devices of its own")
        return device

    @property
    def streams(self) -> int:
        """`threads`, or one a core."""
        return self.threads or os.cpu_count() or 1


def load_settings(secrets: Path = SECRETS) -> Settings:
    """Read the settings from the environment, and from the files of a folder.

    Args:
        secrets: a file `vultus_<setting>` in it holds that setting's value; there need be no such folder.

    Raises:
        SettingsError: a `VULTUS_*` variable or a file names no setting, or a value is not allowed.
    """
    known = {f"VULTUS_{name.upper()}" for name in Settings.model_fields}
    given = [*os.environ, *(file.name.upper() for file in secrets.glob("vultus_*"))]
    unknown = sorted(name for name in given if name.startswith("VULTUS_") and name not in known)
    if unknown:
        raise SettingsError(f"unknown settings: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        files: dict[str, Any] = {"_secrets_dir": secrets} if secrets.is_dir() else {}
        return Settings(**files)
    except ValidationError as error:
        faults = "; ".join(f"VULTUS_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise SettingsError(faults) from error
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be read: {error.strerror}") from error
