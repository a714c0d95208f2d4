"""Checkpoints: whole or not there."""

import resource

import pytest
import torch

from training import checkpoints
from training.errors import CheckpointError, CheckpointSpaceError

MODEL = {"identity": {"network": ["a", 1]}, "ranks": 1, "weights": torch.arange(5.0)}


def save(folder, step, keep=2, model=MODEL):
    return checkpoints.save(folder, step, model, {"centres": torch.ones(2)}, keep=keep)


def test_what_was_saved_is_loaded(tmp_path):
    model, (own,) = checkpoints.load(save(tmp_path, 7), MODEL["identity"])
    assert torch.equal(model["weights"], MODEL["weights"])
    assert torch.equal(own["centres"], torch.ones(2))


def test_only_the_last_few_are_kept(tmp_path):
    for step in (1, 20, 300):
        save(tmp_path, step)
    assert [each.name for each in checkpoints.found(tmp_path)] == ["step-000000020", "step-000000300"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    previous = save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # no file may grow beyond it, as on a full disk
    try:
        with pytest.raises(CheckpointSpaceError, match="could not be written"):
            save(tmp_path, 2, model={**MODEL, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.found(tmp_path) == [previous]
    assert [each.name for each in tmp_path.iterdir()] == [previous.name]
    checkpoints.load(previous, MODEL["identity"])


def test_a_half_written_checkpoint_is_not_found(tmp_path):
    (tmp_path / "step-000000009.partial").mkdir()
    assert checkpoints.found(tmp_path) == []


def test_a_checkpoint_is_written_over_what_a_killed_run_left(tmp_path):
    (tmp_path / "step-000000009.partial").mkdir()
    (tmp_path / "step-000000009.partial" / "model.pt").write_bytes(b"half")
    checkpoints.load(save(tmp_path, 9), MODEL["identity"])


def test_another_configuration_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"network \['a', 1\], not \['b', 2\]"):
        checkpoints.load(save(tmp_path, 1), {"network": ["b", 2]})


@pytest.mark.parametrize("name", ["model.pt", "rank-0-of-1.pt"])
def test_a_damaged_or_missing_part_is_refused(tmp_path, name):
    path = save(tmp_path, 1) / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read as part of a checkpoint"):
        checkpoints.load(path.parent, MODEL["identity"])
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read as part of a checkpoint"):
        checkpoints.load(path.parent, MODEL["identity"])


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    path = save(tmp_path, 1) / "model.pt"
    torch.save({"identity": Harm()}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.read(path)
