"""Runs that go on: after a stop, on other ranks, elsewhere; and those that are refused because they would not."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.training.models import tiny_model
from tests.training.ranks import run_on_ranks
from tests.training.runs import THOROUGH, assert_identical, changes, log
from training import checkpoints
from training.config import load
from training.errors import CheckpointError, CheckpointSpaceError
from training.start import fresh, setting_of
from training.train import _resume, _save, train


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(step, people, uninterrupted, tmp_path):
    kept = f"checkpoints/step-{step:09d}"
    shutil.copytree(uninterrupted / kept, tmp_path / kept)
    shutil.copy(uninterrupted / "log.jsonl", tmp_path)
    last = train(load(None, changes(people, tmp_path, *THOROUGH)))
    assert last.name == "step-000000004"
    assert_identical(uninterrupted / "checkpoints" / last.name, last)
    assert log(tmp_path) == log(uninterrupted)


@pytest.mark.parametrize(
    "sampler",
    [("data.sampler=people", "data.each=2"), ("data.sampler=mixed", "data.weights=[3, 1]")],
    ids=lambda s: s[0],
)
def test_every_sampler_and_adamw_are_gone_on_with_bit_identically(sampler, people, tmp_path):
    both = f"data.train=['{people}', '{people}']" if "mixed" in sampler[0] else f"data.train=['{people}']"
    more = (*sampler, both, "optimiser.name=adamw", "run.epochs=1", "run.save_every=1", "run.keep=9", "run.batch=8")
    whole = train(load(None, changes(people, tmp_path / "whole", *more)))
    kept = "checkpoints/step-000000001"
    shutil.copytree(tmp_path / "whole" / kept, tmp_path / "again" / kept)
    assert_identical(whole, train(load(None, changes(people, tmp_path / "again", *more))))


def test_random_numbers_go_on_where_the_checkpoint_was_written(people, tmp_path):
    setting = setting_of(load(None, changes(people, tmp_path)))
    state = fresh(setting)
    torch.rand(3)
    _save(setting, state)
    expected = torch.rand(5)
    _resume(setting, fresh(setting), checkpoints.found(tmp_path / "checkpoints")[-1])
    assert torch.equal(torch.rand(5), expected)


def test_a_killed_run_goes_on(people, uninterrupted, tmp_path):
    command = [sys.executable, "-m", "training.train", *changes(people, tmp_path, *THOROUGH)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not checkpoints.found(tmp_path / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    last = train(load(None, changes(people, tmp_path, *THOROUGH)))
    assert_identical(uninterrupted / "checkpoints" / last.name, last)


@pytest.mark.parametrize(
    "change",
    [
        "network.dim=32",
        "augment.erase=0.7",
        "optimiser.rate=0.05",
        "optimiser.average=0.5",
        "head.momentum=0.5",
        "run.accumulate=2",
    ],
)
def test_a_finished_run_of_another_configuration_is_refused_by_the_key(people, uninterrupted, tmp_path, change):
    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=f"belongs to another configuration: it has {change.split('=')[0]} "):
        train(load(None, changes(people, tmp_path, *THOROUGH, change)))


def test_a_finished_run_is_refused_in_another_precision_than_this_machine_chose(people, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    chosen = setting_of(load(None, changes(people, tmp_path, *THOROUGH))).precision
    other = "float32" if chosen is torch.bfloat16 else "bfloat16"
    with pytest.raises(CheckpointError, match=r"belongs to another configuration: it has network\.precision "):
        train(load(None, changes(people, tmp_path, *THOROUGH, f"network.precision={other}")))


def test_other_photos_or_another_teacher_under_the_same_name_are_refused(people, tmp_path):
    again = shutil.copytree(people, tmp_path / "people")
    teacher = tiny_model(tmp_path / "teacher.onnx")
    more = (f"teacher.model={teacher}", "teacher.sees=changed", "network.dim=48", "run.epochs=1", "run.batch=16")
    wanted = load(None, changes(again, tmp_path / "run", *more))
    train(wanted)
    teacher.write_bytes(teacher.read_bytes() + b"\x12\x05other")  # the producer's name, which changes no vector
    with pytest.raises(CheckpointError, match=r"it has teacher\.model"):
        train(wanted)
    tiny_model(teacher)
    shutil.copy(again / "person-000" / "0.jpg", again / "person-000" / "1.jpg")
    with pytest.raises(CheckpointError, match=r"it has data\.train 16 photos of 4 people"):
        train(wanted)


def test_a_run_goes_on_with_what_was_moved_and_for_longer_and_not_for_less(people, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "run" / "checkpoints")
    moved = shutil.copytree(people, tmp_path / "elsewhere")
    longer = (*THOROUGH, "run.epochs=3", "run.keep=1", "network.channels_last=false")
    assert train(load(None, changes(moved, tmp_path / "run", *longer))).name == "step-000000006"
    with pytest.raises(CheckpointError, match=r"has done 6 steps; run\.epochs asks for 4"):
        train(load(None, changes(moved, tmp_path / "run", *THOROUGH)))


def test_a_run_whose_disk_is_full_stops_and_the_checkpoint_before_is_gone_on_with(people, uninterrupted, tmp_path):
    kept = tmp_path / "checkpoints" / "step-000000003"
    shutil.copytree(uninterrupted / "checkpoints" / kept.name, kept)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # no file may grow beyond it, as on a full disk
    try:
        with pytest.raises(CheckpointSpaceError, match="could not be written"):
            train(load(None, changes(people, tmp_path, *THOROUGH)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.found(tmp_path / "checkpoints") == [kept]
    last = train(load(None, changes(people, tmp_path, *THOROUGH)))
    assert_identical(uninterrupted / "checkpoints" / last.name, last)


def test_a_run_that_copies_a_watching_teacher_learns_and_goes_on_bit_identically(people, tmp_path):
    model = tiny_model(tmp_path / "teacher.onnx")
    teacher = (f"teacher.model={model}", "teacher.alone=true", "teacher.sees=changed", "teacher.mix=0.5")
    more = ("network.dim=48", "run.epochs=8", "data.workers=1", "run.save_every=1", "run.keep=99", "augment.crop=0.5")
    last = train(load(None, changes(people, tmp_path / "whole", *teacher, *more)))
    losses = [each[1] for each in log(tmp_path / "whole")]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    kept = "checkpoints/step-000000011"
    shutil.copytree(tmp_path / "whole" / kept, tmp_path / "again" / kept)
    again = train(load(None, changes(people, tmp_path / "again", *teacher, *more)))
    assert again.name == last.name
    assert_identical(last, again)


def on_ranks(people, folder, *more):
    config = load(None, changes(people, folder, *THOROUGH, *more))
    taken_up = {}
    if before := checkpoints.found(folder / "checkpoints"):
        state = fresh(setting := setting_of(config))
        _resume(setting, state, before[-1])
        taken_up = {name: state.head.shard()[name].clone() for name in ("centres", "velocity")}
    return {"last": str(train(config)), "taken_up": taken_up}


def test_two_ranks_resume_bit_identically_and_one_and_four_take_their_run_up(people, tmp_path):
    whole = tmp_path / "whole"
    (answer, _) = run_on_ranks(2, made(tmp_path / "a"), on_ranks, people, whole)
    assert answer["last"].endswith("step-000000004")
    shards = [checkpoints.read(whole / "checkpoints" / "step-000000003" / f"rank-{rank}-of-2.pt") for rank in (0, 1)]
    for ranks in (1, 2, 4):
        folder = tmp_path / f"on-{ranks}"
        kept = "checkpoints/step-000000003"
        shutil.copytree(whole / kept, folder / kept)
        if ranks == 1:
            answers = [on_ranks(people, folder)]
        else:
            answers = run_on_ranks(ranks, made(tmp_path / f"b{ranks}"), on_ranks, people, folder)
        for name in ("centres", "velocity"):
            joined = torch.cat([answer["taken_up"][name] for answer in answers])
            assert torch.equal(joined, torch.cat([shard["centres"][name] for shard in shards]))
        last = folder / "checkpoints" / "step-000000004"
        assert checkpoints.read(last / "model.pt")["ranks"] == ranks
        if ranks == 2:
            assert_identical(whole / "checkpoints" / last.name, last)


def made(folder):
    folder.mkdir()
    return folder
