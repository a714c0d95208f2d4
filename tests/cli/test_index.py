"""`vultus index`: inside the command, and against a running service."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import CHECKOUT
from tests.cli.running import SECONDS, environment, serving, vultus
from tests.faces import orl_photo


@pytest.fixture
def people(tmp_path):
    """A folder of two people, and a manifest of the same."""
    folder = tmp_path / "people"
    for person in (1, 2):
        (folder / f"s{person}").mkdir(parents=True)
        for number in (1, 2):
            (folder / f"s{person}" / f"{number}.pgm").write_bytes(orl_photo(person, number))
    return folder


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_indexed_and_a_second_run_changes_nothing(people, data, tmp_path):
    report = tmp_path / "report.csv"
    words = ["index", str(people), "--gallery", "g", "--create", "--report", str(report)]
    first = vultus(*words, data=data)
    assert first.returncode == 0, first.stderr
    assert "enrolled" in first.stdout
    assert [line["outcome"] for line in lines(report)] == ["enrolled"] * 4
    again = json.loads(vultus(*words, "--json", data=data).stdout)
    assert (again["state"], again["outcomes"]["duplicate"], again["total"]) == ("done", 4, 4)
    listed = json.loads(vultus("people", "list", "g", "--json", data=data).stdout)
    assert [(each["person"], each["face_count"]) for each in listed] == [("s1", 2), ("s2", 2)]


def test_a_running_service_reads_what_lies_under_its_root_and_nothing_else(people, data, tmp_path):
    (people / "people.csv").write_text("photo,person\ns1/1.pgm,anna\ns2/1.pgm,bert\n")
    report = tmp_path / "report.csv"
    with serving(data, import_root=people) as service:
        words = ["--gallery", "g", "--create", "--report", str(report), "--url", service.url]
        done = vultus("index", "people.csv", *words, data=data)
        assert done.returncode == 0, done.stderr
        refused = vultus("index", str(tmp_path), *words, data=data)
    assert [(line["person"], line["outcome"]) for line in lines(report)] == [("anna", "enrolled"), ("bert", "enrolled")]
    assert refused.returncode == 1
    assert refused.stderr.startswith("error [import_path]: the path lies outside of the import root")


def test_an_import_that_fails_ends_with_its_error(people, data, tmp_path):
    (people / "people.csv").write_bytes(b"photo,person\n" + b"s1/1.pgm,anna\n" * 10_000 + b"\xff,anna\n")
    report = tmp_path / "report.csv"
    words = ["--gallery", "g", "--create", "--report", str(report)]
    done = vultus("index", str(people / "people.csv"), *words, data=data)
    assert done.returncode == 1
    assert done.stderr.startswith("error [import_manifest]: the manifest is not UTF-8")
    assert lines(report) == []


def test_the_commands_of_the_operators_guide_work(people, data, tmp_path):
    guide = (CHECKOUT / "deploy" / "README.md").read_text()
    (block,) = [each for each in re.findall(r"^```sh\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE) if "index" in each]
    root, here = tmp_path / "root", tmp_path / "here"
    root.mkdir()
    here.mkdir()
    people.rename(root / "people")
    (root / "people.csv").write_text("photo,person\npeople/s1/1.pgm,anna\npeople/s2/1.pgm,bert\n")
    with serving(data, import_root=root) as service:
        there = {"http://127.0.0.1:8000": service.url, ".venv/bin/vultus": f"{Path(sys.executable).parent}/vultus"}
        for theirs, ours in there.items():
            block = block.replace(theirs, ours)
        done = subprocess.run(
            ["sh", "-euc", block],
            cwd=here,
            env=environment(data),
            capture_output=True,
            text=True,
            timeout=3 * SECONDS,  # two imports, at the lowest priority
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with service.client() as client:
            jobs = client.get("/v1/galleries/staff/imports").json()["imports"]
    assert [line["outcome"] for line in lines(here / "report.csv")] == ["enrolled"] * 2
    assert (here / "so-far.csv").read_text().startswith("row,photo,person,")
    # Four photos may be done before they are cancelled.
    assert jobs[0]["state"] in {"cancelled", "done"}
    assert (jobs[0]["path"], jobs[1]["state"]) == ("people", "done")
