"""A chain of convolutions in C gives what its layers give by themselves in float64, values and gradients."""

import copy
import math

import pytest
import torch
from torch import nn

from training import bottleneck
from training.backbones import MobileFaceNet
from training.fused import Depthwise, NormPReLU
from training.native import compiled, compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here, so no chain is quick")


def block(inside=32, wide=64, outside=32, step=1):
    return nn.Sequential(
        nn.Conv2d(inside, wide, 1, bias=False),
        NormPReLU(wide),
        Depthwise(wide, step),
        NormPReLU(wide),
        nn.Conv2d(wide, outside, 1, bias=False),
        NormPReLU(outside, bent=False),
    )


def stem():
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), NormPReLU(32), Depthwise(32), NormPReLU(32))


CHAINS = {
    "block": block,
    "halving": lambda: block(32, 96, 64, 2),
    "narrow": lambda: block(64, 32, 64),
    "one": lambda: nn.Sequential(nn.Conv2d(64, 96, 1, bias=False), NormPReLU(96)),
    "across": lambda: nn.Sequential(*block()[:4]),
    "stem": stem,
}


def ready(layers):
    """The layers with weights of their own everywhere, laid out as a run lays them out."""
    torch.manual_seed(2)
    with torch.no_grad():
        for each in layers.parameters():
            each.uniform_(0.3, 1.4) if each.dim() == 1 else each.normal_()
    return layers.to(memory_format=torch.channels_last).train()


def picture(n, channels, height, width, mean=0.0):
    torch.manual_seed(1)
    x = torch.randn(n, channels, height, width) * 2 + mean
    return x.contiguous(memory_format=torch.channels_last)


def slow(layers, x, into, *, residual):
    """Output, gradients of sum(out * into) by input and parameters, and the layers afterwards, all in float64."""
    exact, x = copy.deepcopy(layers).double(), x.detach().double().requires_grad_()
    out = exact(x) + x if residual else exact(x)
    (out * into.double()).sum().backward()
    return out.detach(), [x.grad, *(each.grad for each in exact.parameters())], exact


def close(one, other, tolerance):
    """Within a share of the largest value, which is how rounding errs, or of 1 where all of them are less."""
    return float((one.double() - other).detach().abs().max()) <= tolerance * max(1.0, float(other.abs().max()))


@needs_compiler
@pytest.mark.parametrize(("n", "height", "width"), [(1, 5, 5), (3, 8, 6), (9, 7, 14), (20, 14, 3)])
@pytest.mark.parametrize("kind", CHAINS)
def test_values_gradients_and_running_statistics_are_those_of_the_layers(kind, n, height, width):
    layers = ready(CHAINS[kind]())
    x = picture(n, layers[0].in_channels, height, width)
    residual = kind in ("block", "narrow")
    into = torch.randn(n, layers[-1].num_features, *(layers(x).shape[2:]))
    out, gradients, exact = slow(layers, x, into, residual=residual)
    mine, x = copy.deepcopy(layers), x.requires_grad_(kind != "stem")
    assert bottleneck.suits(x)
    y = bottleneck.through(x, mine, residual=residual)
    (y * into).sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert close(y, out, 2e-5)
    found = [x.grad, *(each.grad for each in mine.parameters())]
    for one, other in list(zip(found, gradients, strict=True))[0 if kind != "stem" else 1 :]:
        assert close(one, other, 1e-4)
    for one, other in zip(mine.buffers(), exact.buffers(), strict=True):
        assert close(one, other, 1e-5)


@needs_compiler
def test_a_mean_far_from_zero_costs_no_variance():
    layers, x = ready(CHAINS["one"]()), picture(4, 64, 9, 9, mean=1000.0)
    into = torch.randn(4, 96, 9, 9)
    out, gradients, _ = slow(layers, x, into, residual=False)
    y = bottleneck.through(x, layers)
    (y * into).sum().backward()
    assert close(y, out, 1e-3)
    for one, other in zip([each.grad for each in layers.parameters()], gradients[1:], strict=True):
        assert close(one, other, 1e-2)


@needs_compiler
def test_the_bits_do_not_depend_on_the_number_of_threads():
    before, results = torch.get_num_threads(), []
    x, layers = picture(11, 32, 14, 14), ready(block())
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            mine, y = copy.deepcopy(layers), x.clone().requires_grad_()
            out = bottleneck.through(y, mine, residual=True)
            (out * out).sum().backward()
            results.append([out, y.grad, *(each.grad for each in mine.parameters()), *mine.buffers()])
    finally:
        torch.set_num_threads(before)
    for each in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], each, strict=True))


@needs_compiler
def test_equal_values_stay_finite_and_nan_is_not_hidden():
    layers, same = ready(block()), torch.full((2, 32, 6, 6), 3.0).contiguous(memory_format=torch.channels_last)
    same.requires_grad_()
    out = bottleneck.through(same, copy.deepcopy(layers))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(same.grad).all()
    x = picture(2, 32, 6, 6)
    x[1, 3, 2, 2] = math.nan
    assert torch.isnan(bottleneck.through(x, layers)).all()


def gradient(network, pixels, into):
    network.zero_grad()
    (network(pixels) * into).sum().backward()
    return torch.cat([each.grad.flatten().double() for each in network.parameters()])


@needs_compiler
@pytest.mark.parametrize("remember_less", [False, True])
def test_a_network_learns_by_it_as_exactly_as_without(remember_less, monkeypatch):
    torch.manual_seed(0)
    network = MobileFaceNet(32, remember_less=remember_less).to(memory_format=torch.channels_last)
    pixels, into = picture(8, 3, 112, 112), torch.randn(8, 32)
    exact = gradient(copy.deepcopy(network).double(), pixels.double(), into.double())
    chains, through = [], bottleneck.through
    monkeypatch.setattr(bottleneck, "through", lambda *given, **more: chains.append(1) or through(*given, **more))
    mine = gradient(network, pixels, into)
    assert len(chains) == (32 if remember_less else 17)  # stem, blocks, tail; blocks twice where they are done again
    monkeypatch.setattr(bottleneck, "suits", lambda x: False)
    plain = gradient(network, pixels, into)
    assert not torch.equal(mine, plain)
    assert (mine - exact).norm() <= 2 * (plain - exact).norm()
    assert (mine - exact).norm() <= 3e-3 * exact.norm()


def test_without_a_compiler_or_a_gradient_pytorch_s_own_operations_do_it(monkeypatch):
    x = picture(2, 32, 6, 6)
    with torch.no_grad():
        assert not bottleneck.suits(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not bottleneck.suits(x)
    assert not bottleneck.suits(x.contiguous())
    assert not bottleneck.suits(x.double())
    monkeypatch.setenv("CC", "/nowhere/cc")
    compiled.cache_clear()
    try:
        assert not bottleneck.suits(x)
        assert torch.isfinite(MobileFaceNet(32).to(memory_format=torch.channels_last)(picture(2, 3, 112, 112))).all()
    finally:
        compiled.cache_clear()
