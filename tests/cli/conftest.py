import shutil

import pytest

from service.settings import CHECKOUT
from tests.cli.running import serving
from tests.faces import orl_photo


@pytest.fixture(scope="package")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service") / "data") as running:
        yield running


@pytest.fixture(scope="package")
def photo(tmp_path_factory):
    """A file of an ORL photo, by person and number."""
    folder = tmp_path_factory.mktemp("photos")

    def file(person: int, number: int):
        path = folder / f"s{person}-{number}.pgm"
        path.write_bytes(orl_photo(person, number))
        return str(path)

    return file


@pytest.fixture
def checkout_manifests(tmp_path):
    """A models folder with what is committed: manifests, no networks."""
    folder = tmp_path / "models"
    for name in ("sface", "yunet"):
        (folder / name).mkdir(parents=True)
        for file in (CHECKOUT / "models" / name).glob("*.json"):
            shutil.copy(file, folder / name)
    return folder


@pytest.fixture
def data(tmp_path, service):
    """An empty data folder, but for the engines' measuring that the shared service did already."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copy(service.data / "engines.json", folder)
    return folder
