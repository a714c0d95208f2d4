"""Whole runs on a handful of photos: what they learn, what stops them, and what they say."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.models import tiny_model
from tests.training.photos import jpeg, people_folder
from tests.training.runs import changes, log
from training import checkpoints
from training.batches import batches
from training.config import load
from training.embed import embed, of_network
from training.errors import ConfigError, DataError, NotFiniteError
from training.journal import Journal
from training.records import PackedPairs, write_bin
from training.restore import restore
from training.shards import write_shards
from training.start import fresh, setting_of
from training.train import _evaluate, _step, main, train
from training.verification import det_curve, fold_accuracy, pair_scores


def test_a_run_learns_and_leaves_a_log_and_plots(people, tmp_path):
    photos = [path.read_bytes() for path in sorted(people.glob("*/*.jpg"))]
    pairs = np.random.default_rng(0).permutation([(i, j) for i in range(16) for j in range(i)])[:20]
    same = pairs[:, 0] // 4 == pairs[:, 1] // 4
    packed = PackedPairs([photos[i] for i in pairs.flatten()], same)
    write_bin(tmp_path / "pairs.bin", packed)
    config = load(None, changes(people, tmp_path, "run.epochs=6", f"data.pairs={tmp_path / 'pairs.bin'}"))
    train(config)
    losses = [each[1] for each in log(tmp_path)]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["accuracy"] > 75
    for plot in ("loss.png", "rate.png", "accuracy.png", "det.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_a_step_in_parts_learns_from_the_mean_of_the_parts(people, tmp_path):
    wanted = ("run.accumulate=2", "run.epochs=1", "run.batch=16", "optimiser.clip=0", "optimiser.warm_up=0")
    # In float32 like the re-derivation, also where the processor would choose bfloat16.
    config = load(None, changes(people, tmp_path, *wanted, "network.precision=float32"))
    last = train(config)

    setting = setting_of(config)
    state = fresh(setting)
    (batch,) = batches(setting.crops, setting.plan.epoch(0), first_draw=0)
    for part in (slice(0, 8), slice(8, 16)):
        (state.head(state.network(batch.crops[part]), batch.labels[part]) / 2).backward()
    optimiser = torch.optim.SGD(state.network.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        for each in state.network.parameters():
            each.grad += (5e-4 if each.ndim > 1 else 0.0) * each
    optimiser.step()
    for name, trained in checkpoints.read(last / "model.pt")["network"].items():
        torch.testing.assert_close(trained, state.network.state_dict()[name])


def test_a_gradient_longer_than_the_clip_moves_the_weights_as_far_as_one_of_that_length(people, tmp_path):
    moves, norms = {}, {}
    plain = ("optimiser.weight_decay=0", "optimiser.warm_up=0", "network.precision=float32")
    for clip in (0.0, 0.25):
        setting = setting_of(load(None, changes(people, tmp_path, *plain, f"optimiser.clip={clip}")))
        state = fresh(setting)
        before = {name: each.detach().clone() for name, each in state.network.named_parameters()}
        (batch, _) = batches(setting.crops, setting.plan.epoch(0), first_draw=0)
        norms[clip] = _step(setting, state, state.network, batch)["norm"]
        moves[clip] = {name: each.detach() - before[name] for name, each in state.network.named_parameters()}
    assert norms[0.25] == norms[0.0] > 0.5
    length = math.sqrt(sum(float(each.square().sum()) for each in moves[0.25].values()))
    assert length == pytest.approx(0.1 * 0.25, rel=1e-3)
    for name, move in moves[0.25].items():
        torch.testing.assert_close(move, moves[0.0][name] * 0.25 / norms[0.0], rtol=1e-3, atol=1e-6)


def test_nan_stops_the_run_names_a_tensor_and_saves_the_batch(people, tmp_path):
    with pytest.raises(NotFiniteError, match="at step 1 the first bad tensor is the") as caught:
        train(load(None, changes(people, tmp_path, "optimiser.rate=1e38", "optimiser.clip=0", "optimiser.warm_up=0")))
    saved = torch.load(tmp_path / "not-finite" / "step-000000001-rank-0.pt")
    assert saved["crops"].shape == (8, 112, 112, 3)
    assert "step-000000001-rank-0.pt" in caught.value.detail


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda setting, state: state.head.centres[1].fill_(math.nan), "the centres of classes 0 to 1"),
        (lambda setting, state: state.head.threshold.detach().fill_(math.nan), "the head's threshold"),
        (lambda setting, state: state.head.centre_loss.means[0].fill_(math.nan), "the means of the centre loss"),
        (lambda setting, state: setting.taught.fill(math.nan), "the teacher's vectors"),
    ],
    ids=["centres", "threshold", "means", "teacher"],
)
def test_nan_in_what_embeddings_are_compared_with_is_named(spoil, named, tmp_path):
    two = people_folder(tmp_path / "two", people=2, each=1)
    model = tiny_model(tmp_path / "teacher.onnx")
    head = ("head.margin=uniface", "head.options={}", "head.centre_loss=0.1", "network.dim=48")
    config = load(None, changes(two, tmp_path, *head, f"teacher.model={model}", "run.batch=2"))
    setting = setting_of(config)
    setting = replace(setting, taught=setting.taught.copy())
    state = fresh(setting)
    spoil(setting, state)
    (batch,) = batches(setting.crops, setting.plan.epoch(0), first_draw=0)
    with pytest.raises(NotFiniteError, match=f"the first bad tensor is {named};"):
        _step(setting, state, state.network, batch)


def test_gradients_that_stay_nan_at_the_least_scale_of_half_precision_stop_the_run(tmp_path):
    two = people_folder(tmp_path / "two", people=2, each=1)
    setting = setting_of(load(None, changes(two, tmp_path, "network.precision=float32", "run.batch=2")))
    state = fresh(setting)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)  # float32 otherwise: half precision is emulated slowly
    name, spoilt = list(state.network.named_parameters())[-1]
    spoilt.register_hook(lambda gradient: gradient * math.nan)
    (batch,) = batches(setting.crops, setting.plan.epoch(0), first_draw=0)
    before = state.head.centres.clone()
    for scale in (1.0, 0.5):
        _step(setting, state, state.network, batch)
        assert state.scaler.get_scale() == scale
    with pytest.raises(NotFiniteError, match=f"the gradient of {name};"):
        _step(setting, state, state.network, batch)
    assert torch.equal(state.head.centres, before)


def test_a_run_can_go_back_and_pass_a_bad_batch_over(people, tmp_path):
    rates = ("optimiser.rate=1e38", "optimiser.clip=0", "optimiser.warm_up=0", "run.epochs=1", "run.roll_back=1")
    last = train(load(None, changes(people, tmp_path, *rates)))
    model = checkpoints.read(last / "model.pt")
    assert (model["step"], model["left_out"]) == (2, [1])


def test_a_batch_that_the_data_cannot_fill_is_refused(people, tmp_path):
    with pytest.raises(DataError, match="a batch needs 64 photos, there are 16"):
        train(load(None, changes(people, tmp_path, "run.batch=64")))


def test_photos_that_cannot_be_used_are_named_before_the_run(tmp_path, capsys):
    two = people_folder(tmp_path / "two", people=2, each=2)
    (two / "person-001" / "cut.jpg").write_bytes(b"nothing")
    train(load(None, changes(two, tmp_path / "run", "run.batch=4", "run.epochs=1")))
    said = capsys.readouterr().out
    assert "4 photos of 2 people; left out: 1 unreadable files" in said
    assert f"left out {two / 'person-001' / 'cut.jpg'}: no readable photo" in said


@pytest.mark.parametrize("sees", ["original", "changed"])
def test_broken_photos_of_a_shard_are_left_out_named_once_and_counted(sees, tmp_path, capsys):
    photos = [(jpeg(0), 0), (jpeg(1), 1), (b"broken", 0), (jpeg(3), 1)]
    write_shards(tmp_path, photos)
    teacher = (f"teacher.model={tiny_model(tmp_path / 'teacher.onnx')}", f"teacher.sees={sees}", "network.dim=48")
    folder = tmp_path / "run"
    last = train(load(None, changes(tmp_path, folder, *teacher, "data.workers=1", "run.batch=4", "run.epochs=2")))
    assert checkpoints.read(last / "model.pt")["unreadable"] == [2]
    said = capsys.readouterr().out
    assert "4 photos of 2 people; left out: not looked for before the run (data.check); 0 people have one photo" in said
    assert said.count("no readable photo") == said.count("shard-000000.tar, byte") == 1
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["unreadable"] for line in lines if line["kind"] == "data"] == [1, 1]
    assert all(math.isfinite(line["loss"]) for line in lines if line["kind"] == "train")


def test_broken_and_shared_photos_of_a_shard_are_named_before_the_run_if_asked(tmp_path, capsys):
    write_shards(tmp_path, [(jpeg(0), 0), (jpeg(1), 1), (b"broken", 0), (jpeg(1), 0), (jpeg(2), 1), (jpeg(3), 2)])
    setting = setting_of(load(None, changes(tmp_path, tmp_path / "run", "data.check=true", "run.batch=2")))
    assert setting.notes[0].endswith("3 photos of 3 people; left out: 3 photos; 3 people have one photo")
    assert [note.rsplit(": ", 1)[1] for note in setting.notes[1:4:2]] == ["several people have it"] * 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precisions_below_float32_move_the_weights_too(precision, tmp_path):
    two = people_folder(tmp_path / "two", people=2, each=1)  # a processor without half precision emulates it slowly
    config = load(None, changes(two, tmp_path, f"network.precision={precision}", "run.epochs=1", "run.batch=2"))
    start = fresh(setting_of(config)).network.state_dict()
    trained = checkpoints.read(train(config) / "model.pt")["network"]
    (figures,) = log(tmp_path)
    assert all(math.isfinite(each) for each in figures)
    assert not torch.equal(trained["backbone.stem.0.weight"], start["backbone.stem.0.weight"])


def test_an_overflow_in_half_precision_moves_nothing_and_halves_the_scale(tmp_path):
    two = people_folder(tmp_path / "two", people=2, each=1)
    setting = setting_of(load(None, changes(two, tmp_path, "network.precision=float16", "run.epochs=1", "run.batch=2")))
    state = fresh(setting)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    (batch,) = batches(setting.crops, setting.plan.epoch(0), first_draw=0)
    before = {name: each.clone() for name, each in state.network.named_parameters()}
    centres = state.head.centres.clone()
    figures = _step(setting, state, state.network, batch)
    assert not math.isfinite(figures["norm"])
    assert all(torch.equal(each, before[name]) for name, each in state.network.named_parameters())
    assert torch.equal(state.head.centres, centres)
    assert state.scaler.get_scale() == 2.0**119


def test_a_margin_needs_two_people_and_a_teacher_alone_needs_none(tmp_path):
    one = people_folder(tmp_path / "one", people=1, each=4)
    with pytest.raises(ConfigError, match=r"needs two people or more, there is 1; teacher\.alone"):
        train(load(None, changes(one, tmp_path, "run.batch=4")))
    taught = (f"teacher.model={tiny_model(tmp_path / 't.onnx')}", "teacher.alone=true", "network.dim=48")
    assert train(load(None, changes(one, tmp_path, *taught, "run.batch=4", "run.epochs=1"))).exists()


def test_a_teacher_alone_pulls_the_student_s_vectors_to_its_own(people, tmp_path):
    model = tiny_model(tmp_path / "teacher.onnx")
    teacher = (f"teacher.model={model}", "teacher.alone=true", "teacher.relations=1", "network.dim=48", "run.epochs=8")
    train(load(None, changes(people, tmp_path, *teacher, "augment.flip=0")))
    losses = [each[1] for each in log(tmp_path)]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])


def test_a_teacher_of_another_dimension_is_refused(people, tmp_path):
    with pytest.raises(ConfigError, match="48 numbers; set network"):
        train(load(None, changes(people, tmp_path, f"teacher.model={tiny_model(tmp_path / 't.onnx')}")))


def test_help_says_how_a_run_is_started(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "CONFIG.toml" in capsys.readouterr().out


def test_the_command_line_says_in_one_line_what_is_wrong(people, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", *changes(people, tmp_path, "network.name=resnet")])
    assert main() == 1
    assert capsys.readouterr().err.startswith(
        "The configuration is not valid: network: Value error, there is no network"
    )


def test_a_restored_network_has_the_averaged_weights(uninterrupted):
    model = checkpoints.read(uninterrupted / "checkpoints" / "step-000000004" / "model.pt")
    found = restore(uninterrupted).network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in model["average"]["values"].items())
    assert not torch.equal(found["backbone.stem.0.weight"], model["network"]["backbone.stem.0.weight"])


def test_a_run_measures_the_averaged_weights(people, tmp_path):
    photos = [path.read_bytes() for path in sorted(people.glob("*/*.jpg"))][:8]
    packed = PackedPairs(photos, np.array([True, True, True, False]))
    write_bin(tmp_path / "pairs.bin", packed)
    setting = setting_of(
        load(None, changes(people, tmp_path, "optimiser.average=0.9", f"data.pairs={tmp_path}/pairs.bin"))
    )
    state = fresh(setting)
    vectors = embed(of_network(state.network), photos)
    with torch.no_grad():
        for each in state.network.parameters():
            each.add_(torch.randn_like(each))
    scores = pair_scores(vectors, np.arange(8).reshape(-1, 2))
    with Journal(tmp_path, total=1, step=0, silent=False) as journal:
        found = _evaluate(setting, state, journal)
    for mine, expected in zip(found, det_curve(scores[packed.same], scores[~packed.same]), strict=True):
        assert np.array_equal(mine, expected)
    (line,) = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert line["accuracy"] == fold_accuracy(scores, packed.same, 2).mean
