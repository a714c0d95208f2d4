"""`vultus backup` and `vultus restore` as operators type them, beside a running service and killed half way."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.gallery import faces, galleries
from service.gallery.catalog import Catalog
from service.identify.fusion import fuse
from service.settings import CHECKOUT
from tests.cli.running import SECONDS, environment, serving, typed
from tests.gallery.enrolling import template

PEOPLE = 3000


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A data folder with some thousand people in it, which nobody works on."""
    folder = tmp_path_factory.mktemp("source") / "data"
    assert typed("keys", "create", "--label", "me", data=folder).returncode == 0
    catalog = Catalog.open(folder / "catalog.sqlite", secret=(folder / "secret").read_bytes(), fuse=fuse)
    with catalog.write() as tx:
        made = galleries.create(tx, "staff", model="m", model_digest="d", dim=16)
        for number in range(PEOPLE):
            faces.add(tx, made.pk, f"p{number}", [template(str(number), 16)], limit=9)
    catalog.close()
    return folder


@pytest.fixture(scope="module")
def saved(source, tmp_path_factory):
    file = tmp_path_factory.mktemp("saved") / "vultus.backup"
    done = typed("backup", str(file), data=source)
    assert done.returncode == 0, done.stderr
    return file


def facts(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def people(data):
    found = facts(typed("backup", str(data.parent / "again"), "--json", data=data))
    return [(each["gallery"], each["people"], each["revision"]) for each in found["galleries"]]


def test_a_running_service_is_backed_up_and_what_it_enrolled_is_found_again(service, photo, tmp_path, data):
    for words in (("galleries", "create", "doors"), ("enroll", "doors", "anna", photo(10, 1), photo(10, 2))):
        assert typed(*words, "--url", service.url, data=tmp_path / "none").returncode == 0
    file = tmp_path / "vultus.backup"
    done = typed("backup", str(file), data=service.data)
    assert done.returncode == 0, done.stderr
    assert "doors at revision 1: 1 people, 2 faces" in done.stdout
    assert str(service.data / "secret") in done.stderr
    restored = typed("restore", str(file), "--secret", str(service.data / "secret"), data=data)
    assert restored.returncode == 0, restored.stderr
    with serving(data) as again, again.client() as client:
        files = {"photo": Path(photo(10, 4)).read_bytes()}
        answer = client.post("/v1/galleries/doors/identify", files=files).json()
        assert answer["faces"][0]["person"] == "anna"
    assert typed("galleries", "delete", "doors", "--yes", "--url", service.url, data=tmp_path / "none").returncode == 0


def test_through_pipes(source, tmp_path):
    command = [sys.executable, "-m", "service"]
    made = subprocess.run(
        [*command, "backup", "-"], env=environment(source), capture_output=True, timeout=SECONDS, check=False
    )
    target = tmp_path / "data"
    done = subprocess.run(
        [*command, "restore", "-", "--secret", str(source / "secret")],
        input=made.stdout,
        env=environment(target),
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (made.returncode, done.returncode) == (0, 0), done.stderr
    assert people(target) == [("staff", PEOPLE, 1)]


def test_a_backup_is_for_its_owner_alone(saved):
    assert saved.stat().st_mode & 0o777 == 0o600


def test_check_only_reads(saved, tmp_path):
    done = typed("restore", str(saved), "--check", data=tmp_path / "data")
    assert done.stdout.startswith("whole: 1 galleries, 3000 people, 3000 faces")
    assert not (tmp_path / "data").exists()


def test_check_of_a_file_cut_short_fails(saved, tmp_path):
    cut = tmp_path / "cut"
    cut.write_bytes(saved.read_bytes()[:-20])
    done = typed("restore", str(cut), "--check", data=tmp_path / "data")
    assert (done.returncode, done.stderr.split()[1]) == (1, "[backup_damaged]:")


def test_a_running_service_takes_no_backup(service, saved):
    done = typed("restore", str(saved), data=service.data)
    assert (done.returncode, done.stderr.split()[1]) == (1, "[data_folder_in_use]:")


def test_a_folder_with_something_in_it_takes_no_backup(source, saved):
    before = people(source)
    done = typed("restore", str(saved), data=source)
    assert (done.returncode, done.stderr.split()[1]) == (1, "[not_empty]:")
    assert people(source) == before


def test_without_the_secret_a_backup_is_not_taken_unless_told_to(saved, tmp_path):
    target = tmp_path / "data"
    done = typed("restore", str(saved), data=target)
    assert (done.returncode, done.stderr.split()[1]) == (1, "[secret_differs]:")
    assert typed("restore", str(saved), "--without-secret", data=target).returncode == 0
    assert people(target) == [("staff", PEOPLE, 1)]


def test_the_secret_of_a_folder_with_a_catalog_is_not_replaced(saved, source, tmp_path):
    target = tmp_path / "data"
    assert typed("keys", "list", data=target).returncode == 0
    kept = (target / "secret").read_bytes()
    done = typed("restore", str(saved), "--secret", str(source / "secret"), data=target)
    assert (done.returncode, done.stderr.split()[1]) == (1, "[secret_differs]:")
    assert (target / "secret").read_bytes() == kept


def test_a_folder_without_a_catalog_has_nothing_to_back_up(tmp_path):
    done = typed("backup", str(tmp_path / "file"), data=tmp_path / "data")
    assert (done.returncode, done.stderr.split()[1]) == (1, "[not_found]:")
    assert not (tmp_path / "file").exists()


def test_an_older_backup_is_replaced_and_another_file_is_not(source, saved, tmp_path):
    file = tmp_path / "vultus.backup"
    shutil.copy(saved, file)
    with file.open("r+b") as older:
        older.truncate(1000)
    assert typed("backup", str(file), data=source).returncode == 0
    assert typed("restore", str(file), "--check", data=source).returncode == 0
    file.write_text("a diary")
    done = typed("backup", str(file), data=source)
    assert (done.returncode, done.stderr.split()[1]) == (1, "[not_empty]:")
    assert file.read_text() == "a diary"


def test_a_backup_that_is_killed_leaves_the_one_before(source, saved, tmp_path):
    file, part = tmp_path / "vultus.backup", tmp_path / "vultus.backup.part"
    shutil.copy(saved, file)
    command = [sys.executable, "-m", "service", "backup", str(file)]
    with subprocess.Popen(command, env=environment(source), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + SECONDS
        while not part.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert file.read_bytes() == saved.read_bytes()
    typed("backup", str(file), data=source)
    assert [each.name for each in tmp_path.iterdir()] == ["vultus.backup"]


def test_the_commands_of_the_operators_guide_work(source, tmp_path):
    guide = (CHECKOUT / "deploy" / "README.md").read_text()
    (block,) = [each for each in re.findall(r"^```sh\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE) if "backup" in each]
    shutil.copytree(source, tmp_path / ".vultus")
    program = Path(sys.executable).parent / "vultus"
    done = subprocess.run(
        ["sh", "-euc", block.replace(".venv/bin/vultus", str(program))],
        cwd=tmp_path,
        env=environment(tmp_path / ".vultus"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "restored: 1 galleries, 3000 people" in done.stdout


def test_a_shared_catalog_is_backed_up_and_restored_into_another_one(source, saved, postgres_server, tmp_path):
    shared = {"secret": source / "secret", "catalog": postgres_server.database()}
    done = typed("restore", str(saved), data=tmp_path / "one", **shared)
    assert done.returncode == 0, done.stderr
    again = typed("restore", str(saved), data=tmp_path / "one", **shared)
    assert (again.returncode, again.stderr.split()[1]) == (1, "[not_empty]:")
    file = tmp_path / "shared.backup"
    found = facts(typed("backup", str(file), "--json", data=tmp_path / "one", **shared))
    assert [(each["gallery"], each["people"]) for each in found["galleries"]] == [("staff", PEOPLE)]
    other = shared | {"catalog": postgres_server.database()}
    assert typed("restore", str(file), data=tmp_path / "two", **other).returncode == 0
    again = facts(typed("backup", str(tmp_path / "again"), "--json", data=tmp_path / "two", **other))
    assert again["galleries"] == found["galleries"]
    assert typed("restore", str(file), "--secret", str(source / "secret"), data=tmp_path / "three").returncode == 0
    assert people(tmp_path / "three") == [("staff", PEOPLE, 1)]
