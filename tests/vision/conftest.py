import pytest

from service.vision import engines


@pytest.fixture(scope="session")
def heads(models):
    """The detection network, one thread."""
    return engines.reference(models.file(models.manifest("yunet")))
