"""Small whole runs, for tests: what they are told, and what they leave."""

import json

import torch

from training import checkpoints


def changes(people, folder, *more):
    return [
        f"data.train=['{people}']",
        "data.workers=0",
        "network.dim=16",
        "head.options={m = 0.2, scale = 16}",
        f"run.folder={folder}",
        "run.batch=8",
        "run.epochs=2",
        "run.threads=1",
        "run.log_every=1",
        "run.device=cpu",
        *more,
    ]


THOROUGH = (
    "head.margin=elastic_arcface",
    "head.fraction=0.6",
    "optimiser.average=0.9",
    "augment.crop=0.5",
    "augment.erase=0.5",
    "run.save_every=1",
    "run.keep=9",
)


def tensors(content, name=""):
    """All tensors of a nested checkpoint by their path."""
    if isinstance(content, torch.Tensor):
        return {name: content}
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    else:
        return {}
    return {key: value for k, v in items for key, value in tensors(v, f"{name}/{k}").items()}


def assert_identical(one, other):
    for name in sorted(each.name for each in one.iterdir()):
        mine, theirs = tensors(checkpoints.read(one / name)), tensors(checkpoints.read(other / name))
        assert mine.keys() == theirs.keys()
        assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []


def log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["rate"], line["norm"]) for line in lines if line["kind"] == "train"]
