"""What a run writes down, and what a resumed one takes back."""

import json
import resource

import pytest

from training.journal import Journal


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def written(folder, first, last):
    with Journal(folder, total=10, step=first, silent=False) as journal:
        for step in range(first + 1, last + 1):
            journal.write(step, "train", {"loss": 1.0 / step, "rate": 0.1})


def test_a_resumed_run_takes_back_what_was_written_about_later_steps(tmp_path):
    written(tmp_path, 0, 6)
    written(tmp_path, 3, 5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_line_that_a_kill_cut_short_is_taken_back_too(tmp_path):
    written(tmp_path, 0, 3)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    written(tmp_path, 3, 4)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path):
    written(tmp_path, 0, 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may grow beyond it, as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            Journal(tmp_path, total=300, step=300, silent=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert steps(tmp_path) == list(range(1, 301))
    assert [path.name for path in tmp_path.glob("*.jsonl*")] == ["log.jsonl"]


def test_other_ranks_write_nothing(tmp_path):
    with Journal(tmp_path / "run", total=10, step=0, silent=True) as journal:
        journal.write(1, "train", {"loss": 1.0})
        journal.note("hello")
        journal.plot()
    assert not (tmp_path / "run").exists()


def test_only_what_was_measured_is_plotted(tmp_path):
    with Journal(tmp_path, total=10, step=0, silent=False) as journal:
        journal.write(1, "train", {"loss": 1.0})
        journal.plot()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["loss.png"]
