"""A folder of people: who is in it, and which files are left out."""

import pytest

from tests.training.photos import jpeg, people_folder
from training.errors import DataError
from training.folder import Folder
from training.sources import open_source


def test_a_folder_gives_people_as_labels_in_the_order_of_their_names(tmp_path):
    folder = Folder(people_folder(tmp_path, people=3, each=2))
    assert folder.people == ["person-000", "person-001", "person-002"]
    assert folder.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert folder.read(3) == (tmp_path / "person-001" / "1.jpg").read_bytes()


def test_files_that_are_no_photos_are_left_out_and_listed(tmp_path):
    people_folder(tmp_path, people=2, each=2)
    (tmp_path / "person-000" / "notes.txt").write_text("hello")
    (tmp_path / "person-001" / "cut.jpg").write_bytes(jpeg(9)[:300])
    (tmp_path / "person-001" / "empty.png").write_bytes(b"")
    report = Folder(tmp_path).report
    assert sorted(path.rsplit("/", 1)[1] for path, _ in report.skipped) == ["cut.jpg", "empty.png", "notes.txt"]
    assert report.photos == 4
    assert "3 unreadable files" in report.summary()


def test_a_photo_whose_bytes_cannot_be_had_is_left_out_and_listed(tmp_path):
    people_folder(tmp_path, people=2, each=2)
    (tmp_path / "person-000" / "bad.jpg").symlink_to("/proc/self/mem")  # reading it is an I/O error, also for root
    folder = Folder(tmp_path)
    assert len(folder) == 4
    assert folder.report.skipped == [(str(tmp_path / "person-000" / "bad.jpg"), "cannot be read: Input/output error")]


def test_a_photo_that_two_people_share_is_left_out_for_both(tmp_path):
    people_folder(tmp_path, people=2, each=2)
    (tmp_path / "person-001" / "copy.jpg").write_bytes((tmp_path / "person-000" / "0.jpg").read_bytes())
    folder = Folder(tmp_path)
    assert [path.rsplit("/", 2)[1:] for path in folder.report.shared] == [
        ["person-000", "0.jpg"],
        ["person-001", "copy.jpg"],
    ]
    assert len(folder) == 3


def test_people_with_one_photo_are_listed_and_can_be_left_out(tmp_path):
    people_folder(tmp_path, people=2, each=2)
    (tmp_path / "person-001" / "1.jpg").unlink()
    assert Folder(tmp_path).report.single == ["person-001"]
    assert Folder(tmp_path, least=2).people == ["person-000"]


def test_an_empty_person_is_listed_and_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "all" / "nobody").mkdir(parents=True)
    with pytest.raises(DataError, match="no photo that can be used: 0 photos of 0 people"):
        Folder(tmp_path / "all")
    people_folder(tmp_path / "all", people=1, each=1)
    assert Folder(tmp_path / "all").report.empty == ["nobody"]


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        open_source(tmp_path / "nowhere")


def test_only_the_asked_people_are_taken(tmp_path):
    assert Folder(people_folder(tmp_path), only=["person-002", "nobody"]).people == ["person-002"]
