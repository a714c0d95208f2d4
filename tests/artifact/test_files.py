import hashlib
import os
import subprocess
import sys
import threading

import pytest

from service.artifact.files import sha256, write_atomic


def test_the_digest_is_that_of_the_bytes(tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "f").write_bytes(data)
    assert sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_a_file_is_written_with_its_folder_and_mode(tmp_path):
    path = tmp_path / "new" / "f"
    write_atomic(path, b"secret", mode=0o600)
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["f"]


def test_an_old_file_is_replaced(tmp_path):
    for content in (b"old and long", b"new"):
        write_atomic(tmp_path / "f", content)
    assert (tmp_path / "f").read_bytes() == b"new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_atomic(tmp_path / "f", b"old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "f", "text")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_readers_never_see_a_part_of_a_file(tmp_path):
    path, stop, seen = tmp_path / "f", threading.Event(), set()
    write_atomic(path, b"a" * 100_000)

    def read():
        while not stop.is_set():
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    for letter in b"bcdefgh" * 3:
        write_atomic(path, bytes([letter]) * 100_000)
    stop.set()
    reader.join()
    assert seen == {(100_000, 1)}


def test_a_kill_in_the_middle_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"0" * 1_000_000)
    script = (
        "import sys, pathlib\n"
        "from service.artifact.files import write_atomic\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    for digit in b'123456789':\n"
        "        write_atomic(pathlib.Path(sys.argv[1]), bytes([digit]) * 1_000_000)\n"
    )
    for wait in (0.0, 0.01, 0.03):
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"go\n"
            threading.Event().wait(wait)
            writer.kill()
        content = path.read_bytes()
        assert (len(content), len(set(content))) == (1_000_000, 1)
