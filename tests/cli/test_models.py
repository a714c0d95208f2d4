import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from service.artifact.store import ModelStore
from service.cli import app
from service.gallery import faces, galleries
from service.gallery.catalog import Catalog
from service.gallery.folder import DataFolder
from service.gallery.records import NewTemplate
from service.identify.fusion import fuse
from service.settings import CHECKOUT
from tests.artifact.test_importing import network
from tests.faces import orl_photo


@pytest.fixture
def type_in(monkeypatch, tmp_path, checkout_manifests):
    """Run a command over a models folder that holds manifests only."""
    monkeypatch.setenv("VULTUS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VULTUS_MODELS", str(checkout_manifests))

    def run(*words: str, code: int = 0):
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == code, done.output
        return done

    return run


def test_a_model_that_was_not_fetched_is_listed_as_missing(type_in):
    listed = json.loads(type_in("models", "list", "--json").stdout)
    assert {each["name"]: each["files"]["model.onnx"] for each in listed} == {"sface": "missing", "yunet": "missing"}


def test_fetch_takes_a_file_that_is_named(type_in, checkout_manifests):
    type_in("models", "fetch", "yunet", "--from", str(CHECKOUT / "models" / "yunet" / "model.onnx"))
    store = ModelStore(checkout_manifests)
    assert store.file(store.manifest("yunet")).is_file()


def test_fetch_refuses_another_file(type_in, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_text("another network")
    done = type_in("models", "fetch", "yunet", "--from", str(other), code=1)
    assert done.stderr.startswith("error [fetch_failed]")


def test_fetch_of_an_unknown_model_names_the_known_ones(type_in):
    assert "sface, yunet" in type_in("models", "fetch", "nobody", code=1).stderr


def test_check_of_a_whole_model_lists_its_engines_as_right(type_in, checkout_manifests):
    shutil.copy(CHECKOUT / "models" / "yunet" / "model.onnx", checkout_manifests / "yunet")
    found = json.loads(type_in("models", "check", "yunet", "--json").stdout)
    assert found["right"]
    assert "reference" in [each["engine"] for each in found["models"]["yunet"]]


def test_check_of_a_damaged_model_fails_and_says_what_to_do(type_in, checkout_manifests):
    (checkout_manifests / "yunet" / "model.onnx").write_text("damaged")
    assert "damaged; `vultus models fetch yunet`" in type_in("models", "check", "yunet", code=1).stdout


def test_an_imported_model_is_listed_with_its_licence(type_in, tmp_path):
    file = network(tmp_path / "net.onnx")
    given = ["--name", "net", "--license", "CC-BY-NC-4.0", "--source", "https://example.org", "--non-commercial"]
    assert type_in("models", "import", str(file), *given, code=1).stderr.startswith("error [license_not_accepted]")
    type_in("models", "import", str(file), *given, "--accept-license")
    listed = {each["name"]: each for each in json.loads(type_in("models", "list", "--json").stdout)}
    assert (listed["net"]["licence"]["commercial"], listed["net"]["calibrated"]) == (False, False)


def test_calibrate_writes_the_calibration_into_the_manifest(type_in, checkout_manifests, tmp_path, data, monkeypatch):
    monkeypatch.setenv("VULTUS_DATA", str(data))
    monkeypatch.setenv("VULTUS_ENGINE", "onnxruntime")
    for name in ("sface", "yunet"):
        (checkout_manifests / name / "model.onnx").symlink_to(CHECKOUT / "models" / name / "model.onnx")
    for person in range(1, 9):
        folder = tmp_path / "people" / f"s{person}"
        folder.mkdir(parents=True)
        for number in (1, 2, 3):
            (folder / f"{number}.pgm").write_bytes(orl_photo(person, number))
    plots = tmp_path / "plots"
    words = ("calibrate", "sface", str(tmp_path / "people"), "--data", "ORL", "--plots", str(plots))
    printed = type_in(*words).stdout
    calibration = ModelStore(checkout_manifests).manifest("sface").calibration
    assert (calibration.data, calibration.people, calibration.mated_pairs) == ("ORL", 8, 24)
    assert f"{calibration.thresholds[-1]:.3f}" in printed
    assert (plots / "sface.png").read_bytes().startswith(b"\x89PNG")
    assert sum(json.loads((plots / "sface.json").read_text())["cases"]) == 24 * 23 // 2


def test_calibrate_takes_a_gallerys_own_templates(type_in, checkout_manifests, tmp_path, monkeypatch):
    monkeypatch.setenv("VULTUS_DATA", str(tmp_path / "data"))
    manifest = ModelStore(checkout_manifests).manifest("sface")
    folder = DataFolder.open(tmp_path / "data")
    catalog = Catalog.open(folder.catalog, secret=folder.secret, fuse=fuse)
    random = np.random.default_rng(0)
    with catalog.write() as tx:
        kept = galleries.create(tx, "staff", model="sface", model_digest=manifest.digest, dim=manifest.dim)
        for person in range(12):
            centre = random.standard_normal(manifest.dim)
            for photo in range(2 if person < 10 else 1):
                vector = centre + 0.5 * random.standard_normal(manifest.dim)
                unit = (vector / np.linalg.norm(vector)).astype(np.float32)
                new = NewTemplate(f"{person:032d}{photo:032d}", unit, 0.7, (0, 0, 0, 0))
                faces.add(tx, kept.pk, f"p{person}", [new], limit=5)
    catalog.close()
    folder.close()
    type_in("calibrate", "sface", "--gallery", "staff")
    made = ModelStore(checkout_manifests).manifest("sface").calibration
    assert (made.data, made.people, made.mated_pairs) == ("templates of gallery staff", 10, 10)
    assert type_in("calibrate", "sface", "--gallery", "none", code=1).stderr.startswith("error [gallery_not_found]")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("sface",),
        ("--prior",),
        ("sface", "people", "--gallery", "staff"),
        ("sface", "--gallery", "staff", "--prior"),
    ],
    ids=str,
)
def test_calibrate_says_what_may_be_said(type_in, words):
    assert "say one of: calibrate MODEL FOLDER" in type_in("calibrate", *words, code=1).stderr
