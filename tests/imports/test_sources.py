"""Folders, tars and arrays: what is taken from them, and what is not."""

import io
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from service.errors import ImportManifestError, ImportPathError, PhotoTooLargeError, PhotoUnreadableError
from service.imports.paths import Root, read
from service.imports.sources import source_of
from service.settings import CHECKOUT


def listed(path, **more):
    return [
        (entry.photo, entry.person, entry.fault and entry.fault[0]) for entry in source_of(path, **more).entries(str, 4)
    ]


class TestOfFolders:
    def test_photos_come_by_person_and_may_lie_deeper(self, tmp_path):
        for name in ("bert/2.jpg", "bert/1.jpg", "anna/x/1.jpg", "anna/2.jpg", ".git/config", "anna/.DS_Store"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert listed(tmp_path) == [
            ("anna/2.jpg", "anna", None),
            ("anna/x/1.jpg", "anna", None),
            ("bert/1.jpg", "bert", None),
            ("bert/2.jpg", "bert", None),
        ]

    def test_a_folder_that_no_person_can_be_called_makes_its_rows_invalid(self, tmp_path):
        (tmp_path / "Anna Example").mkdir()
        (tmp_path / "Anna Example" / "1.jpg").touch()
        assert listed(tmp_path) == [("Anna Example/1.jpg", "Anna Example", "invalid_id")]

    def test_links_to_folders_inside_are_not_followed(self, tmp_path):
        (tmp_path / "anna").mkdir()
        (tmp_path / "anna" / "round").symlink_to(tmp_path)
        (tmp_path / "anna" / "1.jpg").touch()
        assert [photo for photo, _, fault in listed(tmp_path) if fault is None] == ["anna/1.jpg", "anna/round"]

    def test_a_file_name_that_is_no_text_is_kept_as_it_is(self, tmp_path):
        (tmp_path / "anna").mkdir()
        (tmp_path / "anna" / os.fsdecode(b"\xff.jpg")).touch()
        ((photo, _, fault),) = listed(tmp_path)
        assert (os.fsencode(photo), fault) == (b"anna/\xff.jpg", None)

    def test_a_folder_without_permission_is_one_row_and_the_others_go_on(self, tmp_path):
        """In a child that is not root, for root may read everything."""
        tmp_path.chmod(0o755)
        for name in ("anna", "bert"):
            (tmp_path / "people" / name).mkdir(parents=True)
            (tmp_path / "people" / name / "1.jpg").touch()
        (tmp_path / "people" / "anna").chmod(0)
        script = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from service.imports.sources import source_of\n"
            "folder = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)\n"
            "os.fchdir(folder)\n"
            "os.geteuid() or os.setuid(65534)\n"
            "for entry in source_of(Path('people')).entries(str, 4):\n"
            "    print(entry.photo, entry.person, entry.fault)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == [
            "anna anna ('photo_unreadable', 'the folder cannot be read: Permission denied')",
            "bert/1.jpg bert None",
        ]


class TestOfTars:
    @pytest.fixture
    def tar(self, tmp_path):
        """Makes a tar of members (name, kind, link)."""

        def make(*members):
            path = tmp_path / "photos.tar"
            with tarfile.open(path, "w") as file:
                for name, kind, link in members:
                    member = tarfile.TarInfo(name)
                    member.type, member.linkname = kind, link
                    member.size = 5 if kind == tarfile.REGTYPE else 0
                    file.addfile(member, io.BytesIO(b"photo"))
            return path

        return make

    def test_members_are_read_where_they_lie(self, tar, tmp_path):
        path = tar(("anna/1.jpg", tarfile.REGTYPE, ""), ("./bert/x/2.jpg", tarfile.REGTYPE, ""))
        entries = list(source_of(path).entries(str, 4))
        assert [(entry.photo, entry.person) for entry in entries] == [("anna/1.jpg", "anna"), ("bert/x/2.jpg", "bert")]
        assert {read(tmp_path.resolve(), str(path), 100, entry.place) for entry in entries} == {b"photo"}

    def test_absolute_paths_links_and_dots_are_refused_row_by_row(self, tar):
        path = tar(
            ("/etc/passwd", tarfile.REGTYPE, ""),
            ("anna/../../etc/passwd", tarfile.REGTYPE, ""),
            ("anna/link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("anna/hard.jpg", tarfile.LNKTYPE, "/etc/passwd"),
            ("anna/device", tarfile.CHRTYPE, ""),
            ("anna", tarfile.DIRTYPE, ""),
            ("stray.jpg", tarfile.REGTYPE, ""),
            ("anna/1.jpg", tarfile.REGTYPE, ""),
        )
        assert listed(path) == [
            ("/etc/passwd", "", "photo_unreadable"),
            ("anna/../../etc/passwd", "", "photo_unreadable"),
            ("anna/link.jpg", "anna", "photo_unreadable"),
            ("anna/hard.jpg", "anna", "photo_unreadable"),
            ("anna/device", "anna", "photo_unreadable"),
            ("stray.jpg", "", "invalid_id"),
            ("anna/1.jpg", "anna", None),
        ]

    def test_a_tar_that_is_cut_short_or_none_at_all_is_refused(self, tar, tmp_path):
        path = tar(("anna/1.jpg", tarfile.REGTYPE, ""), ("anna/2.jpg", tarfile.REGTYPE, ""))
        path.write_bytes(path.read_bytes()[:1300])
        with pytest.raises(ImportManifestError, match="no tar, or damaged"):
            listed(path)
        path.write_bytes(b"no tar at all")
        with pytest.raises(ImportManifestError, match="no tar, or damaged"):
            listed(path)

    @pytest.mark.parametrize("name", ["photos.tar.gz", "photos.tgz", "photos.zip"])
    def test_a_compressed_archive_is_refused_with_what_to_do(self, tmp_path, name):
        (tmp_path / name).touch()
        with pytest.raises(ImportManifestError, match="unpack it"):
            listed(tmp_path / name)


class TestOfArrays:
    @pytest.fixture
    def arrays(self, tmp_path):
        """Writes an array and a manifest of so many rows, and lists them."""

        def make(array, rows):
            (tmp_path / "people.csv").write_text("person\n" + "".join(f"p{number}\n" for number in range(rows)))
            if isinstance(array, bytes):
                (tmp_path / "vectors.npy").write_bytes(array)
            else:
                np.save(tmp_path / "vectors.npy", array)
            return listed(tmp_path / "people.csv", embeddings=tmp_path / "vectors.npy")

        return make

    def test_rows_belong_to_vectors_by_their_order(self, arrays):
        assert [person for _, person, _ in arrays(np.eye(4, dtype=np.float32), 4)] == ["p0", "p1", "p2", "p3"]

    @pytest.mark.parametrize("rows", [3, 5])
    def test_another_number_of_rows_is_refused(self, arrays, rows):
        with pytest.raises(ImportManifestError, match=f"the manifest has {rows} rows and the array 4"):
            arrays(np.eye(4), rows)

    @pytest.mark.parametrize(
        "array",
        [np.eye(5), np.zeros(4), np.eye(4, dtype=np.int64), np.array([["x"] * 4]), b"no array", b""],
        ids=["dimension", "flat", "integers", "texts", "bytes", "empty"],
    )
    def test_what_is_no_array_of_the_gallery_is_refused(self, arrays, array):
        with pytest.raises(ImportManifestError):
            arrays(array, 4)

    def test_an_array_of_objects_is_not_unpickled(self, arrays):
        with pytest.raises(ImportManifestError, match="no array of numpy"):
            arrays(np.array([{"a": 1}], dtype=object), 1)

    def test_an_array_alone_is_told_what_it_lacks(self, tmp_path):
        with pytest.raises(ImportManifestError, match="needs a manifest"):
            listed(tmp_path / "vectors.npy")


class TestOfTheRoot:
    def test_without_a_root_nothing_is_read(self, tmp_path):
        with pytest.raises(ImportPathError, match="VULTUS_IMPORT_ROOT"):
            Root.of(None).find(str(tmp_path))

    @pytest.mark.parametrize("path", ["/etc", "../outside", "inside/../../outside", "link", "inside/\0"])
    def test_what_lies_outside_or_nowhere_is_refused(self, tmp_path, path):
        (tmp_path / "outside").mkdir()
        (tmp_path / "root" / "inside").mkdir(parents=True)
        (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
        with pytest.raises(ImportPathError):
            Root.of(tmp_path / "root").find(path)

    def test_whether_something_exists_outside_is_not_told(self, tmp_path):
        (tmp_path / "root").mkdir()
        said = []
        for path in ("/etc", "/no/such/folder"):
            with pytest.raises(ImportPathError) as refused:
                Root.of(tmp_path / "root").find(path)
            said.append(refused.value.detail)
        assert said[0] == said[1]

    def test_relative_and_whole_paths_lead_to_the_same(self, tmp_path):
        (tmp_path / "people").mkdir()
        root = Root.of(tmp_path)
        assert root.find("people") == root.find(str(tmp_path / "people")) == (tmp_path / "people").resolve()

    def test_a_photo_is_read_only_where_it_really_lies_under_the_root(self, tmp_path):
        (tmp_path / "root").mkdir()
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "root" / "link.jpg").symlink_to(tmp_path / "secret")
        with pytest.raises(PhotoUnreadableError, match="outside"):
            read(tmp_path / "root", str(tmp_path / "root" / "link.jpg"), 100)

    def test_a_pipe_among_the_photos_stops_nothing(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(PhotoUnreadableError, match="no plain file"):
            read(tmp_path, str(tmp_path / "pipe.jpg"), 100)

    def test_a_missing_a_large_and_a_cut_file_say_so(self, tmp_path):
        (tmp_path / "photo.jpg").write_bytes(b"12345")
        with pytest.raises(PhotoUnreadableError, match="No such file"):
            read(tmp_path, str(tmp_path / "other.jpg"), 100)
        with pytest.raises(PhotoTooLargeError, match="5 bytes, 4 are allowed"):
            read(tmp_path, str(tmp_path / "photo.jpg"), 4)
        with pytest.raises(PhotoUnreadableError, match="cut short"):
            read(tmp_path, str(tmp_path / "photo.jpg"), 100, (3, 5))
