"""Sizes of the networks against published ones, and the contract at their edges."""

import pytest
import torch
from torch import nn

from training.backbones import BACKBONES, DEPTHS, MobileFaceNet, Recogniser


def parameters(network):
    return sum(each.numel() for each in network.parameters())


COSTS = {
    "Conv2d": lambda module, _, out: out.numel() * module.weight[0].numel(),
    "Depthwise": lambda module, _, out: out.numel() * module.weight[0].numel(),
    "Linear": lambda module, _, out: out.numel() * module.in_features,
    "_Attention": lambda _, x, out: 2 * x.shape[1] ** 2 * x.shape[2],
}
POINTWISE = {
    "BatchNorm2d": lambda _, x, out: 2 * out.numel(),
    "BatchNorm1d": lambda _, x, out: 2 * out.numel(),
    "PReLU": lambda _, x, out: out.numel(),
}


def multiply_adds(network, costs=COSTS):
    """Multiply-adds for one crop."""
    found = []
    for module in network.modules():
        cost = costs.get(type(module).__name__)
        if cost is not None:
            module.register_forward_hook(lambda m, inputs, out, cost=cost: found.append(cost(m, inputs[0], out)))
    with torch.no_grad():
        network.to_empty(device="cpu").eval()(torch.zeros(1, 3, 112, 112))
    return sum(found)


def on_paper(name, **options):
    """A network whose parameters have shapes and no numbers."""
    with torch.device("meta"):
        return BACKBONES[name](**options)


# "ArcFace Research Summary", a public table whose third figure counts norms and PReLUs too. OpenVINO's Open Model Zoo
# gives 34.129 M / 8.934 GFLOPs and 65.131 M / 24.209 GFLOPs (two to a multiply-add, norms folded) for 34 and 100.
@pytest.mark.parametrize(
    ("name", "count", "giga"),
    [
        ("iresnet18", 24_025_600, 2.63),
        ("iresnet34", 34_139_328, 4.48),
        ("iresnet50", 43_590_848, 6.33),
        ("iresnet100", 65_156_160, 12.13),
    ],
)
def test_iresnets_have_the_published_size(name, count, giga):
    network = on_paper(name)
    assert parameters(network) == count
    assert multiply_adds(network, COSTS | POINTWISE) / 1e9 == pytest.approx(giga, abs=0.011)


def test_iresnet200_has_the_size_that_its_layers_add_up_to():
    def block(inside, outside, *, first):
        own = 2 * inside + 9 * inside * outside + 2 * outside + outside + 9 * outside * outside + 2 * outside
        return own + (inside * outside + 2 * outside if first else 0)

    expected = 3 * 64 * 9 + 2 * 64 + 64
    inside = 64
    for outside, depth in zip((64, 128, 256, 512), (6, 26, 60, 6), strict=True):
        expected += block(inside, outside, first=True) + (depth - 1) * block(outside, outside, first=False)
        inside = outside
    expected += 2 * 512 + 512 * 49 * 512 + 512 + 2 * 512
    assert parameters(on_paper("iresnet200")) == expected
    assert 2 * sum(DEPTHS["iresnet200"]) == 196  # and the convolutions of stem, shortcuts and embedding


# Chen et al. 2018: 0.99 million parameters and 221 million multiply-adds; Open Model Zoo: 0.993 million. Both count the
# deployed network, in which a norm's gain and mean are one bias of the convolution before it.
def test_mobilefacenet_has_the_published_size():
    network = on_paper("mobilefacenet", dim=128)
    gains = sum(each.num_features for each in network.modules() if isinstance(each, nn.BatchNorm2d))
    assert round((parameters(network) - gains) / 1e6, 3) == 0.993
    assert round(multiply_adds(network) / 1e6) == 221


# insightface's arcface_torch README: ViT-T (1.5G) and ViT-S (5.7G).
@pytest.mark.parametrize(("name", "giga"), [("vit_tiny", 1.5), ("vit_small", 5.7)])
def test_transformers_cost_what_is_published(name, giga):
    assert round(multiply_adds(on_paper(name)) / 1e9, 1) == giga


@pytest.mark.parametrize("name", ["mobilefacenet", "iresnet18", "vit_tiny"])
def test_crops_become_vectors_of_the_asked_length(name):
    network = Recogniser(BACKBONES[name](dim=64)).eval()
    crops = torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8)
    assert network(crops).shape == (2, 64)


def test_an_exported_network_gives_unit_vectors():
    network = Recogniser(MobileFaceNet(32), unit=True).eval()
    crops = torch.randint(0, 256, (3, 112, 112, 3), dtype=torch.uint8)
    torch.testing.assert_close(network(crops).norm(dim=1), torch.ones(3))


def test_pixels_reach_the_backbone_between_minus_one_and_one_with_red_first():
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.flatten(1)[:, :4]

    crops = torch.zeros(1, 112, 112, 3, dtype=torch.uint8)
    crops[..., 0] = 255
    Recogniser(Watch())(crops)
    assert seen[0].shape == (1, 3, 112, 112)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[0][0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]


@pytest.mark.parametrize("name", ["mobilefacenet", "vit_tiny"])
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    for remember_less in (False, True):
        torch.manual_seed(0)
        network = BACKBONES[name](dim=16, remember_less=remember_less)
        network(torch.ones(2, 3, 112, 112) * torch.tensor([0.5, -0.5])[:, None, None, None]).square().sum().backward()
        gradients.append([each.grad for each in network.parameters() if each.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_bfloat16_embeddings_stay_near_the_float32_ones():
    torch.manual_seed(0)
    network = Recogniser(MobileFaceNet(64), unit=True).eval()
    crops = torch.randint(0, 256, (4, 112, 112, 3), dtype=torch.uint8)
    with torch.no_grad():
        exact = network(crops)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(crops)
    assert (exact * rounded).sum(dim=1).min() > 0.99
