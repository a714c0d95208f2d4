"""Sharded and sampled class centres against the head that holds them all."""

import pytest
import torch
from torch import distributed

from tests.training.ranks import run_on_ranks
from training.errors import CheckpointError, LabelError, ShardingError
from training.heads import MarginHead, initial_centres
from training.margins import MARGINS, arcface, cosface
from training.partial_fc import PartialFC, share

CLASSES, DIM = 11, 8


def batch(step, count=6):
    generator = torch.Generator().manual_seed(step)
    embeddings = 20 * torch.randn(count, DIM, generator=generator)
    return embeddings, torch.randint(CLASSES, (count,), generator=generator)


def trained(head, steps=3):
    """Losses, embedding gradients and shard after some steps on this rank's half of each batch."""
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    losses, gradients, drawn = [], [], []
    for step in range(steps):
        embeddings, labels = (part.chunk(ranks)[rank] for part in batch(step))
        embeddings = embeddings.to(head.centres.dtype, copy=True).requires_grad_()
        loss = head(embeddings, labels)
        loss.backward()
        drawn.append([head.first + each.index for each in head._drawn if each.index is not None])
        head.step(0.1)
        losses.append(loss.detach())
        gradients.append(embeddings.grad / ranks)  # data parallelism averages over ranks
    return {
        "losses": torch.stack(losses),
        "gradients": torch.stack(gradients),
        "drawn": drawn,
        "shard": head.shard(),
    }


def every_margin(sub_centres):
    return {
        name: trained(PartialFC(CLASSES, DIM, MARGINS[name](), sub_centres=sub_centres, centre_loss=0.01).double())
        for name in MARGINS
    }


def sampled_steps():
    return trained(PartialFC(CLASSES, DIM, arcface(), fraction=0.8, seed=3).double())


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    return run_on_ranks(2, tmp_path_factory.mktemp("ranks"), both_cases)


def both_cases():
    return {"plain": every_margin(1), "sub": every_margin(2), "sampled": sampled_steps()}


@pytest.mark.parametrize("name", sorted(MARGINS))
@pytest.mark.parametrize("case", ["plain", "sub"])
def test_two_ranks_do_what_one_process_does(name, case, on_two_ranks):
    head = PartialFC(CLASSES, DIM, MARGINS[name](), sub_centres=1 if case == "plain" else 2, centre_loss=0.01)
    alone = trained(head.double())
    parts = [answer[case][name] for answer in on_two_ranks]
    for part in parts:
        torch.testing.assert_close(part["losses"], alone["losses"])
    gradients = torch.cat([part["gradients"] for part in parts], dim=1)
    torch.testing.assert_close(gradients, alone["gradients"])
    for kept in ("centres", "velocity", "means"):
        joined = torch.cat([part["shard"][kept] for part in parts])
        torch.testing.assert_close(joined, alone["shard"][kept])


def test_ranks_that_sample_do_what_is_derived_row_by_row(on_two_ranks):
    parts = [answer["sampled"] for answer in on_two_ranks]
    centres = initial_centres(0, CLASSES, DIM, 1, 3).double()
    velocity = torch.zeros_like(centres)
    sampled_a_part = False
    for step in range(3):
        classes = torch.cat([index for part in parts for index in part["drawn"][step]]).tolist()
        embeddings, labels = batch(step)
        sampled_a_part |= set(labels.tolist()) < set(classes) and len(set(classes)) == len(classes) < CLASSES
        rows, leaf = embeddings.double().requires_grad_(), centres.clone().requires_grad_()
        loss = torch.zeros((), dtype=torch.float64)
        for row, label in zip(rows, labels.tolist(), strict=True):
            cosines = {each: row @ leaf[each] / row.norm() / leaf[each].norm() for each in classes}
            own = 64 * torch.cos(torch.acos(cosines[label]) + 0.5)
            others = [64 * cosine for each, cosine in cosines.items() if each != label]
            loss = loss + (torch.stack([own, *others]).logsumexp(0) - own) / len(labels)
        loss.backward()
        for part in parts:
            torch.testing.assert_close(part["losses"][step], loss.detach())
        torch.testing.assert_close(torch.cat([part["gradients"][step] for part in parts]), rows.grad)
        for each in classes:
            velocity[each] = 0.9 * velocity[each] + leaf.grad[each] + 5e-4 * centres[each]
            centres[each] -= 0.1 * velocity[each]
    assert sampled_a_part
    torch.testing.assert_close(torch.cat([part["shard"]["centres"] for part in parts]), centres)
    torch.testing.assert_close(torch.cat([part["shard"]["velocity"] for part in parts]), velocity)


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_one_process_with_all_classes_does_what_the_plain_head_and_sgd_do(name):
    # In double precision: SphereFace's steps are long enough for float32's rounding to grow from one to the next.
    plain = MarginHead(CLASSES, DIM, MARGINS[name]()).double()
    optimiser = torch.optim.SGD(
        [
            {"params": [plain.centres], "weight_decay": 5e-4},
            {"params": [] if plain.threshold is None else [plain.threshold]},
        ],
        lr=0.1,
        momentum=0.9,
    )
    head = PartialFC(CLASSES, DIM, MARGINS[name]()).double()
    for step in range(3):
        embeddings, labels = batch(step)
        embeddings = embeddings.double()
        optimiser.zero_grad()
        expected = plain(embeddings, labels)
        expected.backward()
        optimiser.step()
        loss = head(embeddings, labels)
        loss.backward()
        head.step(0.1)
        torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(head.centres, plain.centres.detach())
    if head.threshold is not None:
        torch.testing.assert_close(head.threshold, plain.threshold)


@pytest.mark.parametrize("sub_centres", [1, 2])
def test_rows_that_were_not_sampled_keep_their_bits_and_their_momentum(sub_centres):
    head = PartialFC(1000, DIM, cosface(), fraction=0.1, sub_centres=sub_centres, weight_decay=0.1)
    head.velocity.normal_()
    centres, velocity = head.centres.clone(), head.velocity.clone()
    labels = torch.tensor([3, 500, 999])
    head(torch.randn(3, DIM), labels).backward()
    head.step(0.5)
    moved = (head.centres != centres).any(dim=1).view(1000, sub_centres).any(dim=1)
    assert moved.sum() == 100
    assert moved[labels].all()
    still = ~(head.centres != centres).any(dim=1)
    assert still.sum() == 900 * sub_centres
    assert torch.equal(head.velocity[still], velocity[still])


def test_a_sampled_loss_is_the_plain_loss_over_the_sampled_classes():
    head = PartialFC(200, DIM, arcface(), fraction=0.1)
    before = head.centres.clone()
    embeddings, labels = torch.randn(4, DIM), torch.tensor([7, 7, 150, 31])
    loss = head(embeddings, labels)
    loss.backward()
    head.step(1.0)
    sampled = (head.centres != before).any(dim=1).nonzero().squeeze(1)
    plain = MarginHead(len(sampled), DIM, arcface())
    with torch.no_grad():
        plain.centres.copy_(before[sampled])
    torch.testing.assert_close(loss, plain(embeddings, torch.searchsorted(sampled, labels)))


def test_each_step_samples_other_classes_and_a_resumed_one_the_same():
    first = PartialFC(500, DIM, cosface(), fraction=0.1)
    second = PartialFC(500, DIM, cosface(), fraction=0.1)
    embeddings, labels = torch.randn(2, DIM), torch.tensor([1, 2])
    drawn = []
    for head in (first, first, second):
        if head is second:
            second.load_shards([{**first.shard(), "draws": 1}])
        before = head.centres.clone()
        head(embeddings, labels).backward()
        head.step(1.0)
        drawn.append((head.centres != before).any(dim=1))
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[1], drawn[2])


def test_accumulated_steps_move_the_centres_by_the_summed_gradient():
    one = PartialFC(40, DIM, cosface(), momentum=0.0, weight_decay=0.0)
    two = PartialFC(40, DIM, cosface(), momentum=0.0, weight_decay=0.0)
    halves = [batch(0), batch(1)]
    for embeddings, labels in halves:
        (two(embeddings, labels) / 2).backward()
    two.step(0.1)
    one(torch.cat([halves[0][0], halves[1][0]]), torch.cat([halves[0][1], halves[1][1]])).backward()
    one.step(0.1)
    torch.testing.assert_close(one.centres, two.centres)


def test_accumulation_joins_what_different_draws_touched():
    head = PartialFC(400, DIM, cosface(), fraction=0.05, momentum=0.0, weight_decay=0.0)
    start = head.centres.clone()
    for step in range(2):
        head(*batch(step)).backward()
    gradients = torch.zeros_like(start)
    for drawn in head._drawn:
        gradients[drawn.index] += drawn.centres.grad
    head.step(0.1)
    torch.testing.assert_close(head.centres, start - 0.1 * gradients)


def test_a_scaled_loss_moves_the_centres_as_the_plain_one():
    plain, scaled = (PartialFC(CLASSES, DIM, MARGINS["uniface"]()) for _ in range(2))
    embeddings, labels = batch(0)
    plain(embeddings, labels).backward()
    plain.step(0.1)
    (scaled(embeddings, labels) * 1024).backward()
    scaled.step(0.1, loss_scale=1024)
    torch.testing.assert_close(plain.centres, scaled.centres)
    torch.testing.assert_close(plain.threshold, scaled.threshold)


def test_discarded_gradients_move_nothing():
    head = PartialFC(CLASSES, DIM, cosface())
    before = head.centres.clone()
    head(*batch(0)).backward()
    head.discard()
    head.step(0.1)
    assert torch.equal(head.centres, before)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_shards_of_two_ranks_are_taken_up_by_any_number(ranks, on_two_ranks):
    shards = [answer["sub"]["arcface"]["shard"] for answer in on_two_ranks]
    joined = {name: torch.cat([shard[name] for shard in shards]) for name in ("centres", "velocity", "means")}
    for rank in range(ranks):
        head = PartialFC(CLASSES, DIM, arcface(), sub_centres=2, centre_loss=0.01)
        head.first, head.last = share(CLASSES, rank, ranks)
        head.centres = torch.zeros((head.last - head.first) * 2, DIM, dtype=torch.float64)
        head.velocity = torch.zeros_like(head.centres)
        head.centre_loss.means = torch.zeros(head.last - head.first, DIM, dtype=torch.float64)
        head.load_shards(shards)
        assert torch.equal(head.velocity, joined["velocity"][2 * head.first : 2 * head.last])
        assert torch.equal(head.centres, joined["centres"][2 * head.first : 2 * head.last])
        assert torch.equal(head.centre_loss.means, joined["means"][head.first : head.last])


def test_shards_of_other_classes_are_refused():
    with pytest.raises(CheckpointError, match="12 classes x 1 centres, the run 11 x 1"):
        PartialFC(CLASSES, DIM, arcface()).load_shards([PartialFC(12, DIM, arcface()).shard()])


def test_a_missing_shard_is_refused(on_two_ranks):
    shards = [answer["plain"]["arcface"]["shard"] for answer in on_two_ranks]
    with pytest.raises(CheckpointError, match="leaves out the centres of class 5"):
        PartialFC(CLASSES, DIM, arcface()).load_shards(shards[:1])


def test_more_ranks_than_classes_are_refused(tmp_path):
    assert run_on_ranks(2, tmp_path, refusal) == ["1 classes cannot be spread over 2 ranks; use fewer ranks"] * 2


def refusal():
    try:
        PartialFC(1, DIM, arcface())
    except ShardingError as error:
        return error.detail


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(LabelError):
        PartialFC(CLASSES, DIM, arcface())(torch.randn(1, DIM), torch.tensor([CLASSES]))


def test_evaluation_compares_with_all_classes_and_keeps_no_gradient():
    head = PartialFC(CLASSES, DIM, cosface(), fraction=0.2).eval()
    before = head.centres.clone()
    head(*batch(0))
    head.step(0.1)
    assert torch.equal(head.centres, before)
