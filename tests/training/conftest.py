"""Photos of a few people, and a run over them that nothing interrupted."""

import pytest

from tests.training.photos import people_folder
from tests.training.runs import THOROUGH, changes
from training.config import load
from training.train import train


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return people_folder(tmp_path_factory.mktemp("photos"), people=4, each=4)


@pytest.fixture(scope="module")
def uninterrupted(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(load(None, changes(people, folder, *THOROUGH)))
    return folder
