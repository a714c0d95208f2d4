"""The model card says what the manifest says, and goes on saying it when the manifest changes."""

from service.artifact.card import card
from service.artifact.manifest import manifest_text
from service.artifact.store import ModelStore


def test_a_changed_manifest_brings_its_card_up_to_date(models, tmp_path):
    calibrated = models.manifest("sface")
    fresh = calibrated.model_copy(update={"calibration": None})
    store = ModelStore(tmp_path)
    (tmp_path / "sface").mkdir()
    (tmp_path / "sface" / "manifest.json").write_text(manifest_text(fresh))
    path = tmp_path / "sface" / "card.md"
    path.write_text(card(fresh))
    assert "| calibrated | not yet: `vultus calibrate` |" in path.read_text()
    store.change(calibrated)
    record = store.manifest("sface").calibration
    assert record == calibrated.calibration
    assert f"| calibrated | on {record.data}, {record.people} people, {record.date} |" in path.read_text()


def test_a_model_without_a_card_gets_none(models, tmp_path):
    (tmp_path / "sface").mkdir()
    (tmp_path / "sface" / "manifest.json").write_text(manifest_text(models.manifest("sface")))
    ModelStore(tmp_path).change(models.manifest("sface"))
    assert [path.name for path in (tmp_path / "sface").iterdir()] == ["manifest.json"]


def test_an_accuracy_is_spoken_of_where_one_was_measured(models):
    manifest = models.manifest("sface")
    told = card(manifest.model_copy(update={"measured": {"lfw_accuracy": 99.0}}))
    silent = card(manifest.model_copy(update={"measured": {"openvino_crops_per_second": 9.0}}))
    assert "Accuracy is of the set in its name" in told
    assert "No accuracy was measured" in silent
