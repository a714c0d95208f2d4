"""`vultus reindex`, from enrolment by REST over kill and switch to identification by the new model, and back."""

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.recognition.reindex import BATCH
from service.settings import CHECKOUT
from tests.cli.running import SECONDS, environment, serving, typed

PEOPLE, PHOTOS = 12, (1, 2, 3, 4, 5)
"""Enough for two batches, so that a kill can come between them."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder with a second recognition model: the first one under another name."""
    folder = tmp_path_factory.mktemp("models") / "models"
    folder.mkdir()
    for name in ("sface", "yunet"):
        (folder / name).symlink_to(CHECKOUT / "models" / name)
    shutil.copytree(CHECKOUT / "models" / "sface", folder / "second")
    manifest = json.loads((folder / "second" / "manifest.json").read_text())
    (folder / "second" / "manifest.json").write_text(json.dumps(manifest | {"name": "second"}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("moving") / "data"


def enroll(client, photo, person, *numbers):
    files = [("photo", Path(photo(person, number)).read_bytes()) for number in numbers]
    client.post(f"/v1/galleries/staff/people/p{person}/faces", files=files).raise_for_status()


def whose(client, photo, person):
    answer = client.post("/v1/galleries/staff/identify", files={"photo": Path(photo(person, 9)).read_bytes()})
    return answer.raise_for_status().json()["faces"][0]["person"]


def reindex(*words, data, models, code=0):
    done = typed("reindex", *words, "--json", data=data, models=models)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)[0] if code == 0 else done.stderr


def encoded(data):
    """Faces that are encoded by the model that is not in use."""
    query = (
        "SELECT count(*) FROM versions JOIN templates ON templates.pk = versions.template_pk "
        "JOIN galleries ON galleries.pk = templates.gallery_pk WHERE versions.model_digest != galleries.model_digest"
    )
    with contextlib.closing(sqlite3.connect(data / "catalog.sqlite", timeout=SECONDS)) as catalog:
        return catalog.execute(query).fetchone()[0]


def test_a_gallery_moves_to_another_model_and_back(data, models, photo):
    with serving(data, models=models) as running, running.client() as client:
        client.post("/v1/galleries", json={"name": "staff", "keep_crops": True}).raise_for_status()
        for person in range(1, PEOPLE + 1):
            enroll(client, photo, person, *PHOTOS)
        faces = PEOPLE * len(PHOTOS)
        assert faces > BATCH

        # Beside the service, and killed when some faces are kept and others not.
        command = [sys.executable, "-m", "service", "reindex", "--model", "second"]
        with subprocess.Popen(command, env=environment(data, models=models)) as process:
            deadline = time.monotonic() + SECONDS
            while not encoded(data) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert 0 < encoded(data) < faces
        assert whose(client, photo, 2) == "p2"
        enroll(client, photo, 20, 1, 2)

        report = reindex("--model", "second", data=data, models=models)
        assert (report["faces"], report["encoded"], report["without"]) == (faces + 2, faces + 2, 0)
        compared = report["compared"]
        assert compared["people"] == PEOPLE + 1
        assert compared["in_use"] == compared["other"] == compared["both"] > 0.9

        # With SQLite the switch is no step for a running service.
        assert "data_folder_in_use" in reindex("--model", "second", "--switch", data=data, models=models, code=1)
        assert whose(client, photo, 2) == "p2"

    assert reindex("--model", "second", "--switch", data=data, models=models)["revision"] > 0
    with serving(data, models=models, recognition_model="second") as running, running.client() as client:
        assert client.get("/v1/galleries/staff").json()["model"] == "second"
        assert [whose(client, photo, person) for person in (2, 20)] == ["p2", "p20"]
        enroll(client, photo, 21, 1, 2)
        assert whose(client, photo, 21) == "p21"

    assert reindex("--model", "sface", "--switch", data=data, models=models)["encoded"] == faces + 4
    found = typed("identify", "staff", photo(21, 9), data=data, models=models)
    assert found.stdout.startswith("match p21 ")
    reindex("--model", "second", "--gallery", "staff", "--end", data=data, models=models)
    assert encoded(data) == 0


def test_an_imports_crops_are_kept_and_faces_without_one_block_the_switch(tmp_path, models, photo):
    photos, data = tmp_path / "photos", tmp_path / "data"
    for person in (11, 12):
        (photos / f"p{person}").mkdir(parents=True)
        shutil.copy(photo(person, 1), photos / f"p{person}")
    for words in (
        ("galleries", "create", "keeping", "--keep-crops"),
        ("index", str(photos), "--gallery", "keeping", "--report", str(tmp_path / "report.csv")),
        ("enroll", "staff", "anna", photo(10, 1), "--create"),
    ):
        done = typed(*words, data=data, models=models)
        assert done.returncode == 0, done.stdout + done.stderr
    done = typed("reindex", "--model", "second", data=data, models=models)
    assert "keeping: 2 of 2 faces encoded by second" in done.stdout
    assert "staff: 0 of 1 faces encoded by second\n  1 faces have no crop, 1 people no other face" in done.stdout
    only = ["--model", "second", "--gallery", "staff", "--switch"]
    assert "without_crops" in reindex(*only, data=data, models=models, code=1)
    assert reindex(*only, "--leave-out", data=data, models=models)["revision"] == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--model", "nothing"], "model_not_found"),
        (["--model", "yunet"], "invalid_request"),
        (["--model", "second", "--gallery", "nowhere"], "gallery_not_found"),
        (["--model", "second"], "gallery_not_found"),
        (["--model", "second", "--switch", "--end"], "invalid_request"),
    ],
)
def test_what_makes_no_sense_is_refused(words, code, tmp_path, models):
    (tmp_path / "data").mkdir()
    done = typed("reindex", *words, data=tmp_path / "data", models=models)
    assert (done.returncode, done.stderr.split()[1]) == (1, f"[{code}]:")
