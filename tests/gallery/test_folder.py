import os
import stat
import subprocess
import sys

import pytest

from service.errors import DataFolderInUseError, StorageError
from service.gallery.folder import DataFolder

HOLD = """
import sys
from pathlib import Path
from service.gallery.folder import DataFolder
folder = DataFolder.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a" / "data"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_and_its_secret_are_for_the_owner_alone(path):
    folder = DataFolder.open(path)
    assert (mode(path), mode(path / "secret"), mode(folder.snapshots)) == (0o700, 0o600, 0o700)
    assert len(folder.secret) == 32
    assert folder.catalog.parent == path
    assert sorted(each.name for each in path.iterdir()) == ["lock", "secret", "snapshots"]
    folder.close()


def test_the_secret_is_kept(path):
    first = DataFolder.open(path)
    first.close()
    second = DataFolder.open(path)
    assert second.secret == first.secret
    second.close()


def test_two_folders_have_different_secrets(tmp_path):
    one, two = DataFolder.open(tmp_path / "one"), DataFolder.open(tmp_path / "two")
    assert one.secret != two.secret
    one.close()
    two.close()


def test_the_secret_is_not_shown(path):
    folder = DataFolder.open(path)
    assert repr(folder.secret)[2:10] not in repr(folder)
    folder.close()


def test_a_folder_is_opened_once(path):
    folder = DataFolder.open(path)
    with pytest.raises(DataFolderInUseError, match=str(os.getpid())):
        DataFolder.open(path)
    folder.close()
    DataFolder.open(path).close()


def test_a_folder_of_another_process_is_refused_until_it_dies(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataFolderInUseError) as refused:
            DataFolder.open(path)
        assert refused.value.extra == {"pid": str(holder.pid)}
        holder.kill()
    DataFolder.open(path).close()


def test_a_damaged_secret_is_told_and_leaves_the_folder_free(path):
    DataFolder.open(path).close()
    secret = (path / "secret").read_bytes()
    (path / "secret").write_bytes(secret[:31])
    for _ in range(2):
        with pytest.raises(StorageError, match="damaged"):
            DataFolder.open(path)


def test_a_secret_missing_beside_a_catalog_is_not_replaced(path):
    folder = DataFolder.open(path)
    folder.catalog.touch()
    folder.close()
    (path / "secret").unlink()
    with pytest.raises(StorageError, match="missing"):
        DataFolder.open(path)
    assert not (path / "secret").exists()


def test_a_secret_half_written_by_a_crash_is_made_anew(path):
    path.mkdir(parents=True)
    (path / ".secret").write_bytes(b"half")
    folder = DataFolder.open(path)
    assert len(folder.secret) == 32
    folder.close()


def test_a_file_in_the_folders_place_is_told(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(StorageError, match="cannot be used"):
        DataFolder.open(tmp_path / "data")


def test_a_secret_outside_of_the_folder_is_the_one_that_counts(path, tmp_path):
    (tmp_path / "shared").write_bytes(b"s" * 40)
    folder = DataFolder.open(path, secret=tmp_path / "shared")
    assert folder.secret == b"s" * 40
    assert not (path / "secret").exists()
    folder.close()


@pytest.mark.parametrize(("content", "fault"), [(b"short", "damaged"), (None, "nowhere cannot be used")])
def test_a_shared_secret_that_is_short_or_missing_is_told_and_leaves_the_folder_free(path, tmp_path, content, fault):
    if content is not None:
        (tmp_path / "nowhere").write_bytes(content)
    for _ in range(2):
        with pytest.raises(StorageError, match=fault):
            DataFolder.open(path, secret=tmp_path / "nowhere")
