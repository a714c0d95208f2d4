"""Configurations: defaults, files, changes, and what stops a run."""

import tomllib
from pathlib import Path

import pytest

from training.config import MAY_CHANGE, Config, load
from training.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.toml"))


def written(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_without_a_file_everything_has_its_default():
    assert load(None) == Config()


def test_a_file_changes_what_it_names(tmp_path):
    config = load(written(tmp_path, "[optimiser]\nrate = 0.02\n[augment]\nerase = 0.5\n"))
    assert config.optimiser.rate == 0.02
    assert config.augment.erase == 0.5
    assert config.run == Config().run


def test_the_command_line_has_the_last_word(tmp_path):
    path = written(tmp_path, "[head]\nmargin = 'arcface'\noptions = { m = 0.4 }\n")
    changes = ["head.margin=cosface", "head.options.m=0.2", 'data.train=["a", "b"]', "run.folder=runs/x y"]
    config = load(path, changes)
    assert config.head.margin == "cosface"
    assert config.head.options == {"m": 0.2}
    assert config.data.train == (Path("a"), Path("b"))
    assert config.run.folder == Path("runs/x y")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimiser.learning_rate=1", "optimiser.learning_rate: Extra inputs"),
        ("optimizer.rate=1", "optimizer: Extra inputs"),
        ("augment.rotate=1", "augment.rotate"),
        ("optimiser.rate=0", "greater than 0"),
        ("augment.flip=2", "less than or equal to 1"),
        ("network.name=resnet", "there is no network resnet; there are mobilefacenet"),
        ("head.margin=arc", "there is no margin arc"),
        ("head.options.margin=0.5", "does not take these options"),
        ("data.sampler=mixed", "data.weights"),
        ("run.accumulate=3", "no multiple of run.accumulate 3"),
        ("teacher.alone=true", "needs a teacher.model"),
        ("teacher.mix=0.5", "a mixed crop has no label"),
        ("rate=1", "not of the form section.key=value"),
        ("run.epochs", "not of the form section.key=value"),
        ("run.epochs.a.b=1", "run.epochs"),
    ],
)
def test_a_change_that_makes_no_sense_stops_the_run(change, said):
    changes = [change, "data.train=['x']"] if "sampler" in change else [change]
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        load(None, changes)


@pytest.mark.parametrize("text", ["[run", "[run]\nepochs = 'many'\n"])
def test_a_file_that_is_no_configuration_stops_the_run(tmp_path, text):
    with pytest.raises(ConfigError):
        load(written(tmp_path, text))


def test_a_missing_file_stops_the_run(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_ready_configuration_holds_only_what_differs_from_the_defaults(path):
    load(path)
    defaults = Config().model_dump(mode="json")
    for section, keys in tomllib.loads(path.read_text()).items():
        for key, value in keys.items():
            assert value != defaults[section][key], f"{section}.{key} is the default"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_key_of_a_ready_configuration_has_its_reason_beside_it(path):
    keys = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    assert [line for line in keys if " # " not in line] == []


def test_a_key_is_part_of_a_run_s_identity_unless_it_is_said_that_it_may_change():
    keys = {f"{section}.{key}" for section, content in Config().model_dump().items() for key in content}
    assert keys >= MAY_CHANGE
    assert Config().identity().keys() == keys - MAY_CHANGE


@pytest.mark.parametrize(
    "change",
    [
        *("data.sampler=people", "data.each=2", "network.remember_less=true", "head.options={m = 0.1}"),
        *("head.weight_decay=0.1", "head.rate_factor=2", "head.centre_loss=0.1", "teacher.weight=2"),
        *("teacher.relations=1", "optimiser.schedule=cosine", "optimiser.warm_up=0.2", "optimiser.last_rate=0.1"),
        *("optimiser.momentum=0.5", "optimiser.weight_decay=0", "optimiser.clip=1", "run.seed=1", "run.batch=64"),
    ],
)
def test_what_changes_further_steps_changes_the_identity(change):
    mine, theirs = load(None, [change]).identity(), Config().identity()
    assert [key for key in mine if mine[key] != theirs[key]] == [change.split("=", maxsplit=1)[0]]


def test_there_is_a_configuration_for_a_laptop_one_gpu_and_many():
    assert [path.stem for path in CONFIGS] == ["laptop", "many_gpus", "one_gpu"]
