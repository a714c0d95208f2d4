"""The catalog itself, for words of the operator that work on it beside a running service or without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import DataFolderInUseError, StorageError

if TYPE_CHECKING:
    from service.gallery.catalog import Catalog
    from service.settings import Settings


@contextmanager
def truth(*, alone: bool = False) -> Iterator[Catalog]:
    """The catalog of the settings, also while a service works on it: the database keeps the two apart.

    Args:
        alone: no service of this data folder may run meanwhile.

    Raises:
        DataFolderInUseError: one runs, and `alone` was asked for.
        StorageError: it cannot be opened.
    """
    from service.gallery.catalog import Catalog  # noqa: PLC0415 - a fast start of the other commands
    from service.gallery.folder import DataFolder  # noqa: PLC0415 - the same
    from service.identify.fusion import fuse  # noqa: PLC0415 - the same
    from service.settings import load_settings  # noqa: PLC0415 - the same

    settings = load_settings()
    with ExitStack() as stack:
        try:
            folder = DataFolder.open(settings.data, secret=settings.secret)
            file, secret = folder.catalog, folder.secret
            # Long work must not keep a service from starting beside it.
            if alone:
                stack.callback(folder.close)
            else:
                folder.close()
        except DataFolderInUseError:
            if alone:
                raise
            file, secret = _in_use(settings)
        catalog = Catalog.open(settings.catalog or file, secret=secret, fuse=fuse)
        stack.callback(catalog.close)
        yield catalog


def _in_use(settings: Settings) -> tuple[Path, bytes]:
    """The catalog and the secret of a folder that a service has made and holds."""
    from service.gallery.folder import secret_in  # noqa: PLC0415 - a fast start of the other commands

    file, secret = settings.data / "catalog.sqlite", settings.secret or settings.data / "secret"
    if not secret.is_file() or not (settings.catalog or file.is_file()):
        raise StorageError("the service on this data folder is just starting; try again in a moment")
    return file, secret_in(secret)
