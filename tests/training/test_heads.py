"""Every margin's loss and gradient, derived a second time with plain loops and central differences."""

import math

import pytest
import torch

from training.errors import LabelError
from training.heads import CentreLoss, MarginHead, initial_centres, similarities
from training.margins import MARGINS, DrawnMargins, Margin, arcface, cosface, normface, psi, sphereface

CLASSES, DIM, COUNT = 4, 6, 5
LABELS = [0, 2, 1, 3, 2]


def sample(seed=0, sub_centres=1):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(COUNT, DIM, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([4.0, 15.0, 40.0, 90.0, 130.0], dtype=torch.float64)
    embeddings = embeddings / embeddings.norm(dim=1, keepdim=True) * lengths[:, None]
    centres = torch.randn(CLASSES * sub_centres, DIM, generator=generator, dtype=torch.float64)
    return embeddings, centres


def head_with(margin, centres, **options):
    head = MarginHead(CLASSES, DIM, margin, **options).double()
    with torch.no_grad():
        head.centres.copy_(centres)
    return head


def continued_cosine(angle):
    k = int(angle // math.pi)
    return (-1) ** k * math.cos(angle) - 2 * k


def cosine(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def slow_own(name, cos, length, quality, drawn):
    """The own class's cosine after the margin, with the constructors' default numbers."""
    theta = math.acos(cos)
    clipped = min(max(length, 10.0), 110.0)
    return {
        "normface": lambda: cos,
        "uniface": lambda: cos - 0.4,
        "sphereface": lambda: continued_cosine(1.7 * theta),
        "cosface": lambda: cos - 0.35,
        "arcface": lambda: continued_cosine(theta + 0.5),
        "curricularface": lambda: continued_cosine(theta + 0.5),
        "combined": lambda: continued_cosine(theta + 0.3) - 0.2,
        "adaface": lambda: math.cos(min(max(theta - 0.4 * quality, 1e-3), math.pi - 1e-3)) - (0.4 + 0.4 * quality),
        "magface": lambda: continued_cosine(theta + 0.45 + 0.35 * (clipped - 10) / 100),
        "elastic_arcface": lambda: continued_cosine(theta + drawn),
        "elastic_cosface": lambda: cos - drawn,
    }[name]()


def slow_loss(name, embeddings, centres, base, drawn):
    """The mean loss over the batch, sample by sample and class by class; what carries no gradient comes from `base`."""
    base_lengths, base_own = base
    inside = [min(max(length, 1e-3), 100.0) for length in base_lengths]
    batch_mean = sum(inside) / len(inside)
    batch_deviation = math.sqrt(sum((a - batch_mean) ** 2 for a in inside) / (len(inside) - 1))
    mean, deviation = 0.99 * 20 + 0.01 * batch_mean, 0.99 * 100 + 0.01 * batch_deviation
    t = 0.01 * sum(base_own) / len(base_own)
    total = 0.0
    for i, x in enumerate(embeddings):
        length, label = math.hypot(*x), LABELS[i]
        if name == "softmax":
            logits = nearest([sum(p * q for p, q in zip(x, w, strict=True)) for w in centres])
        else:
            scale = length if name == "sphereface" else 64.0
            cosines = nearest([cosine(x, w) for w in centres])
            quality = min(max(0.333 * (inside[i] - mean) / (deviation + 1e-3), -1.0), 1.0)
            own = slow_own(name, cosines[label], length, quality, drawn[i])
            if name == "curricularface":
                cosines = [c * (t + c) if c > own else c for c in cosines]
            logits = [scale * (own if j == label else c) for j, c in enumerate(cosines)]
        if name == "uniface":
            b = math.log(10 * CLASSES)
            total += sum(
                math.log1p(math.exp(b - z)) if j == label else math.log1p(math.exp(z - b)) for j, z in enumerate(logits)
            )
        else:
            top = max(logits)
            total += top + math.log(sum(math.exp(z - top) for z in logits)) - logits[label]
        if name == "magface":
            clipped = min(max(length, 10.0), 110.0)
            total += 35 * (1 / clipped + clipped / 110**2)
    return total / len(embeddings)


def nearest(similarities):
    """Of several centres a class the nearest one; a class's centres lie together."""
    each = len(similarities) // CLASSES
    return [max(similarities[each * c : each * (c + 1)]) for c in range(CLASSES)]


def drawn_margins(name):
    mean = 0.35 if name == "elastic_cosface" else 0.5
    generator = torch.Generator().manual_seed(0)
    return (mean + 0.0125 * torch.randn(COUNT, generator=generator, dtype=torch.float64)).tolist()


def differences(function, values, step=1e-6):
    gradient = [[0.0] * len(row) for row in values]
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            row[j] = value + step
            above = function()
            row[j] = value - step
            gradient[i][j] = (above - function()) / (2 * step)
            row[j] = value
    return torch.tensor(gradient, dtype=torch.float64)


@pytest.mark.parametrize("sub_centres", [1, 3])
@pytest.mark.parametrize("name", sorted(MARGINS))
def test_loss_and_both_gradients_equal_a_slow_derivation(name, sub_centres):
    embeddings, centres = sample(sub_centres=sub_centres)
    embeddings.requires_grad_()
    head = head_with(MARGINS[name](), centres, sub_centres=sub_centres)
    loss = head(embeddings, torch.tensor(LABELS))
    loss.backward()

    x, w = embeddings.detach().tolist(), centres.tolist()
    lengths = [math.hypot(*row) for row in x]
    own = [nearest([cosine(row, each) for each in w])[label] for row, label in zip(x, LABELS, strict=True)]
    drawn = drawn_margins(name)
    again = lambda: slow_loss(name, x, w, (lengths, own), drawn)  # noqa: E731 - the function under differences

    assert loss.item() == pytest.approx(again(), rel=1e-6)
    torch.testing.assert_close(embeddings.grad, differences(again, x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.centres.grad, differences(again, w), rtol=1e-4, atol=1e-6)


def test_straight_through_arcface_has_the_values_of_arcface_and_the_gradient_of_the_cosine():
    embeddings, centres = sample()
    embeddings.requires_grad_()
    head = head_with(arcface(exact_gradient=False), centres)
    loss = head(embeddings, torch.tensor(LABELS))
    loss.backward()

    expected, of_centres = torch.zeros_like(embeddings), torch.zeros_like(centres)
    total = 0.0
    for i, label in enumerate(LABELS):
        x = embeddings[i].detach()
        cosines = torch.tensor([cosine(x.tolist(), w.tolist()) for w in centres], dtype=torch.float64)
        logits = 64 * cosines
        logits[label] = 64 * math.cos(math.acos(cosines[label]) + 0.5)
        total -= torch.log_softmax(logits, 0)[label].item()
        for j, w in enumerate(centres):
            slope = w / w.norm() / x.norm() - cosines[j] * x / x.norm() ** 2
            weight = 64 * (torch.softmax(logits, 0)[j] - int(j == label)) / COUNT
            expected[i] += weight * slope
            of_centres[j] += weight * (x / x.norm() / w.norm() - cosines[j] * w / w.norm() ** 2)
    assert loss.item() == pytest.approx(total / COUNT)
    torch.testing.assert_close(embeddings.grad, expected)
    torch.testing.assert_close(head.centres.grad, of_centres)


@pytest.mark.parametrize("name", sorted(MARGINS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_becomes_nan_or_infinite_at_cosines_of_one_and_minus_one(name, dtype):
    centres = torch.eye(CLASSES, DIM)
    embeddings = (torch.stack([centres[0], -centres[1], centres[2], centres[1]]) * 20).to(dtype).requires_grad_()
    head = MarginHead(CLASSES, DIM, MARGINS[name]())
    with torch.no_grad():
        head.centres.copy_(centres)
    loss = head(embeddings, torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(head.centres.grad).all()


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_bfloat16_embeddings_give_the_loss_of_their_float32_values(name):
    embeddings = sample()[0].bfloat16()
    centres = sample()[1].float()
    losses = []
    for given in (embeddings, embeddings.float()):
        head = MarginHead(CLASSES, DIM, MARGINS[name]())
        with torch.no_grad():
            head.centres.copy_(centres)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(head(given, torch.tensor(LABELS)).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", sorted(set(MARGINS) - {"softmax"}))
def test_a_class_with_sub_centres_counts_by_its_nearest_one(name):
    embeddings, centres = sample(sub_centres=3)
    labels = torch.tensor(LABELS)
    nearest = torch.empty(COUNT, CLASSES, dtype=torch.float64)
    for i in range(COUNT):
        for c in range(CLASSES):
            nearest[i, c] = max(cosine(embeddings[i].tolist(), centres[3 * c + k].tolist()) for k in range(3))
    torch.testing.assert_close(similarities(embeddings, centres, 3), nearest)
    alone = []
    for i in range(COUNT):  # for each sample a head that holds nothing but its nearest sub-centres
        chosen = [
            max(range(3 * c, 3 * c + 3), key=lambda k: cosine(embeddings[i].tolist(), centres[k].tolist()))
            for c in range(CLASSES)
        ]
        alone.append(head_with(normface(), centres[chosen])(embeddings[i : i + 1], labels[i : i + 1]).item())
    together = head_with(normface(), centres, sub_centres=3)(embeddings, labels).item()
    assert together == pytest.approx(sum(alone) / COUNT)
    head = head_with(MARGINS[name](), centres, sub_centres=3)
    assert torch.isfinite(head(embeddings, labels))


def test_psi_never_rises():
    angles = torch.linspace(0, 4 * math.pi, 2000, dtype=torch.float64)
    assert (psi(angles).diff() <= 0).all()


def test_the_centre_loss_is_half_the_squared_distance_and_its_means_move_by_their_rate():
    embeddings, _ = sample()
    loss = CentreLoss(CLASSES, DIM, rate=0.5).double()
    loss.means.fill_(1.0)
    value = loss(embeddings, torch.tensor([0, 0, 1, -1, 1]))
    expected, means = 0.0, torch.ones(CLASSES, DIM, dtype=torch.float64)
    for c, members in ((0, [0, 1]), (1, [2, 4])):
        for i in members:
            expected += 0.5 * ((embeddings[i] - 1.0) ** 2).sum().item()
        change = sum(1.0 - embeddings[i] for i in members) / (1 + len(members))
        means[c] -= 0.5 * change
    assert value.item() == pytest.approx(expected)
    torch.testing.assert_close(loss.means, means)


def test_the_centre_loss_pulls_each_sample_straight_to_its_mean():
    embeddings, _ = sample()
    embeddings.requires_grad_()
    loss = CentreLoss(CLASSES, DIM).double()
    loss.means.copy_(sample(seed=1)[1])
    means = loss.means.clone()
    loss(embeddings, torch.tensor([0, 0, 1, -1, 1])).backward()
    for i, label in enumerate([0, 0, 1, None, 1]):
        expected = torch.zeros(DIM, dtype=torch.float64) if label is None else embeddings[i].detach() - means[label]
        torch.testing.assert_close(embeddings.grad[i], expected)


@pytest.mark.parametrize("name", ["cosface", "arcface", "adaface", "magface", "curricularface", "sphereface"])
@pytest.mark.parametrize("cos", [1.0, -1.0])
def test_at_cosines_of_one_and_minus_one_the_loss_is_the_slow_one(name, cos):
    centres = torch.eye(CLASSES, DIM, dtype=torch.float64)
    embeddings = torch.stack([15.0 * cos * centres[0]] * 2)
    slow = slow_own(name, cos, 15.0, quality_of(15.0), 0.0)
    others = [0.0] * (CLASSES - 1)
    scale = 15.0 if name == "sphereface" else 64.0
    if name == "curricularface":
        others = [c * (0.01 * cos + c) if c > slow else c for c in others]
    total = math.log(sum(math.exp(scale * (c - slow)) for c in [slow, *others]))
    if name == "magface":
        total += 35 * (1 / 15 + 15 / 110**2)
    loss = head_with(MARGINS[name](), centres)(embeddings, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(total, rel=1e-6, abs=1e-9)


def quality_of(length):
    """AdaFace's quality of a batch in which every embedding has this length."""
    mean, deviation = 0.99 * 20 + 0.01 * length, 0.99 * 100
    return min(max(0.333 * (length - mean) / (deviation + 1e-3), -1.0), 1.0)


def test_the_centre_loss_is_added_with_its_weight():
    embeddings, centres = sample()
    labels = torch.tensor(LABELS)
    without = head_with(cosface(), centres)(embeddings, labels)
    with_it = head_with(cosface(), centres, centre_loss=0.01)(embeddings, labels)
    squares = 0.5 * embeddings.square().sum() / COUNT  # the means start at zero
    assert with_it.item() == pytest.approx(without.item() + 0.01 * squares.item())


@pytest.mark.parametrize("name", sorted(name for name in MARGINS if MARGINS[name]().state))
def test_a_saved_margin_goes_on_as_if_it_had_not_stopped(name):
    embeddings, centres = sample()
    labels = torch.tensor(LABELS)
    first = head_with(MARGINS[name](), centres)
    first(embeddings, labels)
    second = head_with(MARGINS[name](), centres)
    second.load_state_dict(first.state_dict())
    assert first(embeddings, labels).item() == second(embeddings, labels).item()


def test_evaluation_leaves_the_margin_s_memory_alone():
    embeddings, centres = sample()
    head = head_with(MARGINS["curricularface"](), centres).eval()
    head(embeddings, torch.tensor(LABELS))
    assert head.margin.state.t == 0.0


def test_sorted_elastic_margins_give_the_largest_to_the_furthest():
    state = DrawnMargins(0.5, 0.1, sort=True, seed=1)
    own = torch.tensor([0.9, -0.2, 0.5, 0.1])
    state.observe(own, torch.ones(4))
    assert torch.equal(state.margins.argsort(), own.argsort(descending=True))


def test_sphereface_can_take_a_fixed_scale():
    embeddings, centres = sample()
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    fixed = head_with(sphereface(scale=30.0), centres)(embeddings, torch.tensor(LABELS))
    by_length = head_with(sphereface(), centres)(30.0 * unit, torch.tensor(LABELS))
    assert fixed.item() == pytest.approx(by_length.item())


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class_is_refused(label):
    head = MarginHead(CLASSES, DIM, Margin(64.0))
    with pytest.raises(LabelError, match=f"label {label} is outside"):
        head(torch.randn(1, DIM), torch.tensor([label]))


def test_a_shard_s_first_centres_are_the_same_as_in_the_whole():
    whole = initial_centres(0, 9000, 3, 2, seed=7)
    part = initial_centres(4000, 8500, 3, 2, seed=7)
    assert torch.equal(whole[8000:17000], part)
