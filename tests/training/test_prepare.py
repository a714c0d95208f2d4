"""Crops out of real photos (the ORL faces), and what spoils a data set."""

import json
import shutil

import pytest
from PIL import Image

from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from tests.faces import orl
from training.data import open_source
from training.errors import DataError
from training.prepare import prepare

STORE = ModelStore(CHECKOUT / "models")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three people with five photos each, and four faults."""
    root = tmp_path_factory.mktemp("prepare")
    for person in ("s1", "s2", "s3"):
        (root / "people" / person).mkdir(parents=True)
        for photo in range(1, 6):
            shutil.copy(orl() / person / f"{photo}.pgm", root / "people" / person / f"{photo}.pgm")
    with Image.open(orl() / "s1" / "1.pgm") as image:
        image.resize((184, 224)).save(root / "people" / "s1" / "again.jpg", quality=60)
    shutil.copy(orl() / "s9" / "1.pgm", root / "people" / "s2" / "stranger.pgm")
    Image.new("RGB", (200, 200), (90, 120, 90)).save(root / "people" / "s3" / "meadow.jpg")
    (root / "people" / "s3" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0broken")
    (root / "test" / "someone").mkdir(parents=True)
    for photo in (6, 7):
        shutil.copy(orl() / "s3" / f"{photo}.pgm", root / "test" / "someone" / f"{photo}.pgm")
    prepare(root / "test", root / "test-crops", STORE, threads=1)
    found = prepare(root / "people", root / "crops", STORE, evaluation=root / "test-crops", threads=1)
    return root, found


def test_every_face_becomes_a_crop_under_its_person(made):
    root, found = made
    crops = open_source(root / "crops")
    assert crops.people == ["s1", "s2", "s3"]
    assert len(crops) == found.crops == 17
    with Image.open(crops.paths[0]) as image:
        assert image.size == (112, 112)


def test_photos_without_a_face_and_broken_ones_are_listed(made):
    _, found = made
    reasons = dict(found.refused)
    assert reasons.keys() == {"s3/meadow.jpg", "s3/broken.jpg"}
    assert reasons["s3/meadow.jpg"] == "no face"


def test_a_photo_that_was_saved_twice_is_listed(made):
    _, found = made
    assert found.copies == [("s1/again.jpg", "s1/1.pgm.jpg")]


def test_someone_else_among_a_person_s_photos_is_listed(made):
    _, found = made
    assert [name for name, _ in found.disagreeing] == ["s2/stranger.pgm.jpg"]


def test_a_person_of_the_evaluation_set_is_listed(made):
    _, found = made
    assert [(mine, theirs) for mine, theirs, _ in found.evaluated] == [("s3", "someone")]


def test_a_second_start_goes_on_and_the_report_is_on_disk(made):
    root, found = made
    crop = root / "crops" / "s1" / "2.pgm.jpg"
    before = crop.stat().st_mtime_ns
    again = prepare(root / "people", root / "crops", STORE, evaluation=root / "test-crops", threads=1)
    assert crop.stat().st_mtime_ns == before
    assert again == found
    report = json.loads((root / "crops" / "report.json").read_text())
    assert report["crops"] == 17


def test_what_is_listed_is_removed_on_request(made, tmp_path):
    root, _ = made
    shutil.copytree(root / "crops", tmp_path / "crops")
    prepare(root / "people", tmp_path / "crops", STORE, evaluation=root / "test-crops", leave_out=True, threads=1)
    crops = open_source(tmp_path / "crops")
    assert crops.people == ["s1", "s2"]
    assert "stranger.pgm.jpg" not in {path.name for path in crops.paths}


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no PERSON/PHOTO"):
        prepare(tmp_path, tmp_path / "crops", STORE, threads=1)
