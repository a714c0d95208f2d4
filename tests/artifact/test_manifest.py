import json

import pytest

from service.artifact.manifest import Manifest, manifest_text, read_manifest
from service.errors import ManifestError


@pytest.fixture
def document(models):
    """A valid manifest as JSON."""
    return json.loads((models.folder / "sface" / "manifest.json").read_text())


@pytest.fixture
def read(tmp_path):
    """Writes a document (or text) and reads it as a manifest."""

    def written(content):
        path = tmp_path / "manifest.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_manifest(path)

    return written


def test_the_committed_manifests_are_valid(models):
    for name in models.names():
        assert models.manifest(name).name == name


@pytest.mark.parametrize("name", ["sface", "yunet"])
def test_writing_what_was_read_gives_the_same_manifest(models, read, name):
    manifest = models.manifest(name)
    text = manifest_text(manifest)
    assert read(text) == manifest
    assert manifest_text(read(text)) == text


def test_tables_stand_on_one_line(models):
    lines = manifest_text(models.manifest("sface")).splitlines()
    for table in ("fmr", "thresholds", "fnmr"):
        (line,) = [line for line in lines if line.strip().startswith(f'"{table}"')]
        assert line.rstrip(",").endswith("]")


def test_what_holds_nothing_is_left_out(models):
    assert "null" not in manifest_text(models.manifest("yunet"))


CHANGES = {
    "unknown member": lambda d: d.update(colour="blue"),
    "unknown member inside": lambda d: d["file"].update(colour="blue"),
    "missing member": lambda d: d.pop("licence"),
    "no digest": lambda d: d["file"].update(sha256="abc"),
    "digest in upper case": lambda d: d["file"].update(sha256="A" * 64),
    "a file elsewhere": lambda d: d["file"].update(name="../model.onnx"),
    "a hidden file": lambda d: d["file"].update(name=".model.onnx"),
    "an empty file": lambda d: d["file"].update(bytes=0),
    "another task": lambda d: d.update(task="poetry"),
    "a name with a slash": lambda d: d.update(name="a/b"),
    "another recipe": lambda d: d["source"].update(recipe="soup"),
    "another sample": lambda d: d["sample"].update(crops="photos-of-me"),
    "a falling score": lambda d: d["calibration"].update(slope=-1),
    "nobody measured": lambda d: d["calibration"].update(people=1),
    "tables of two lengths": lambda d: d["calibration"]["fmr"].append(0.1),
    "tables of one row": lambda d: d["calibration"].update(fmr=[0.5], thresholds=[0.1], fnmr=[0.0]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_manifest_that_does_not_fit_is_refused(document, read, change):
    change(document)
    with pytest.raises(ManifestError):
        read(document)


def test_the_refusal_names_file_and_member(document, read):
    document["file"]["bytes"] = "many"
    with pytest.raises(ManifestError, match=r"manifest\.json: file\.bytes"):
        read(document)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_text_that_is_no_manifest_is_refused(read, text):
    with pytest.raises(ManifestError):
        read(text)


def test_a_missing_manifest_is_told(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "manifest.json")


KEPT = {
    "measured": lambda d: d.update(measured={"lfw_accuracy": 1.0}),
    "calibration": lambda d: d.pop("calibration"),
    "variants": lambda d: d.update(variants=[]),
    "provenance": lambda d: d["provenance"].update(data="other words"),
    "licence": lambda d: d["licence"].update(source="https://example.org"),
    "sample": lambda d: d.pop("sample"),
    "source": lambda d: d.pop("source"),
}
CHANGED = {
    "name": lambda d: d.update(name="other"),
    "version": lambda d: d.update(version="2"),
    "file": lambda d: d["file"].update(sha256="0" * 64),
    "input": lambda d: d["input"].update(meaning="aligned crops, BGR"),
    "outputs": lambda d: d["outputs"][0].update(shape=["n", 512]),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_what_does_not_change_an_embedding_does_not_change_the_digest(document, change):
    before = Manifest.model_validate(document).digest
    change(document)
    assert Manifest.model_validate(document).digest == before


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_what_changes_an_embedding_changes_the_digest(document, change):
    before = Manifest.model_validate(document).digest
    change(document)
    assert Manifest.model_validate(document).digest != before


def test_only_a_recognition_model_has_a_dimension(models):
    assert models.manifest("sface").dim == 128
    with pytest.raises(ManifestError, match="no embeddings"):
        _ = models.manifest("yunet").dim
