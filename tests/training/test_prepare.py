"""Crops out of real photos (the ORL faces), and what spoils a data set."""

import json
import resource
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from service.artifact.store import ModelStore
from service.settings import CHECKOUT
from tests.faces import orl
from training.errors import DataError
from training.lookover import copies
from training.prepare import main, prepare
from training.sources import open_source

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


def test_a_photo_whose_bytes_cannot_be_had_is_listed_and_tried_again(tmp_path):
    person = tmp_path / "people" / "s1"
    person.mkdir(parents=True)
    shutil.copy(orl() / "s1" / "1.pgm", person / "1.pgm")
    (person / "2.pgm").symlink_to("/proc/self/mem")  # reading it is an I/O error, also for root
    found = prepare(tmp_path / "people", tmp_path / "crops", STORE, threads=1)
    assert (found.crops, found.refused) == (1, [("s1/2.pgm", "cannot be read: Input/output error")])
    (person / "2.pgm").unlink()
    shutil.copy(orl() / "s1" / "2.pgm", person / "2.pgm")
    found = prepare(tmp_path / "people", tmp_path / "crops", STORE, threads=1)
    assert (found.crops, found.refused) == (2, [])


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
    (tmp_path / "photos" / "someone").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no PERSON/PHOTO and no PHOTO"):
        prepare(tmp_path / "photos", tmp_path / "crops", STORE, threads=1)
    with pytest.raises(DataError, match="there is no folder"):
        prepare(tmp_path / "nowhere", tmp_path / "crops", STORE, threads=1)


def test_a_line_that_a_kill_cut_short_is_worked_on_again(made, tmp_path):
    root, found = made
    shutil.copytree(root / "crops", tmp_path / "crops")
    journal = tmp_path / "crops" / ".done.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    prepare(root / "people", tmp_path / "crops", STORE, threads=1)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(lines) == len({name for name, *_ in lines}) == found.crops + 2


def test_a_full_disk_is_said_and_a_second_start_goes_on(made, tmp_path):
    root, _ = made
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))  # no file may grow beyond it, as on a full disk
    try:
        with pytest.raises(DataError, match="cannot be written, those that are there are kept"):
            prepare(root / "test", tmp_path / "crops", STORE, threads=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert prepare(root / "test", tmp_path / "crops", STORE, threads=1).crops == 2


def test_the_command_sums_up_what_it_found(made, monkeypatch, capsys):
    root, _ = made
    words = [str(root / "people"), str(root / "crops"), "--models", str(STORE.folder)]
    monkeypatch.setattr(sys, "argv", ["prepare", *words, "--evaluation", str(root / "test-crops"), "--threads", "1"])
    assert main() == 0
    said = capsys.readouterr().out
    assert said.startswith("17 crops; 2 photos without a usable face, 0 that several people have, 1 copies, 1 that")
    monkeypatch.setattr(sys, "argv", ["prepare", str(root / "nowhere"), *words[1:]])
    assert main() == 1
    assert "The data set cannot be used: there is no folder" in capsys.readouterr().err


# --- raw photos ---


@pytest.fixture(scope="module")
def raw(made, tmp_path_factory):
    """Photos in no person's folder: one of two faces, one copy, one without a face; s3 is in the evaluation set."""
    root = tmp_path_factory.mktemp("raw")
    folder = root / "photos"
    folder.mkdir()
    shutil.copy(orl() / "s5" / "1.pgm", folder / "a.pgm")
    shutil.copy(orl() / "s3" / "8.pgm", folder / "b.pgm")
    with Image.open(orl() / "s5" / "1.pgm") as image:
        image.resize((184, 224)).save(folder / "again.jpg", quality=60)
    both = Image.new("L", (184, 112))
    for place, name in enumerate(("s7/1.pgm", "s8/1.pgm")):
        with Image.open(orl() / name) as image:
            both.paste(image, (92 * place, 0))
    both.save(folder / "two.png")
    Image.new("RGB", (200, 200), (90, 120, 90)).save(folder / "meadow.jpg")
    return root, prepare(folder, root / "crops", STORE, evaluation=made[0] / "test-crops", threads=1)


def test_every_face_of_a_raw_photo_becomes_a_crop_without_a_label(raw):
    root, found = raw
    crops = open_source(root / "crops")
    assert crops.people == ["unlabelled"]
    assert not found.labelled
    names = {path.name for path in crops.paths}
    assert names == {"a.pgm.1.jpg", "again.jpg.1.jpg", "b.pgm.1.jpg", "two.png.1.jpg", "two.png.2.jpg"}
    assert [name for name, _ in found.refused] == ["meadow.jpg"]


def test_copies_and_faces_of_the_evaluation_set_are_listed_among_raw_photos_too(raw):
    _, found = raw
    assert found.copies == [("unlabelled/again.jpg.1.jpg", "unlabelled/a.pgm.1.jpg")]
    assert [(mine, theirs) for mine, theirs, _ in found.evaluated] == [("unlabelled/b.pgm.1.jpg", "someone")]
    assert found.disagreeing == []


def test_photos_beside_folders_of_people_are_refused(made, tmp_path):
    shutil.copytree(made[0] / "test", tmp_path / "photos")
    shutil.copy(orl() / "s5" / "1.pgm", tmp_path / "photos" / "stray.pgm")
    with pytest.raises(DataError, match=r"beside them, 1 files such as stray\.pgm"):
        prepare(tmp_path / "photos", tmp_path / "crops", STORE, threads=1)


# --- looking over ---


def looks_of(*photos):
    return {f"p{number}/x.jpg": bytes(photo.astype(np.uint8)).hex() for number, photo in enumerate(photos)}


def test_copies_are_those_that_a_comparison_of_all_with_all_finds():
    random = np.random.default_rng(0)
    base = random.integers(20, 230, (40, 256))
    near = base[:15] + random.integers(-2, 3, (15, 256))
    far = base[15:25] + random.integers(-9, 10, (10, 256))
    looks = looks_of(*np.concatenate([base, near, far, base[:3]]))
    pixels = {name: np.frombuffer(bytes.fromhex(look), np.uint8).astype(int) for name, look in looks.items()}
    expected = {
        name
        for name, its in pixels.items()
        if any(np.abs(its - theirs).mean() < 2 for other, theirs in pixels.items() if other < name)
    }
    assert {name for name, _ in copies(looks)} == expected
    assert len(expected) == 18


def test_a_photo_that_two_people_have_in_two_sizes_is_listed():
    photo = np.random.default_rng(1).integers(20, 230, 256)
    assert copies(looks_of(photo, photo + 1)) == [("p1/x.jpg", "p0/x.jpg")]
