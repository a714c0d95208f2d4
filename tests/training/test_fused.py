"""The quick forms for CPUs give what PyTorch's own operations give, values and gradients."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.backbones import MobileFaceNet
from training.fused import Depthwise, NormPReLU
from training.native import compiled, compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here, so nothing is fused")


def activation(n=6, channels=48, side=9, *, mean=0.0):
    torch.manual_seed(1)
    x = (torch.randn(n, channels, side, side) * 2 + mean).to(torch.bfloat16)
    return x.contiguous(memory_format=torch.channels_last)


def slow(x, norm, into):
    """Batch normalisation and PReLU from their definitions, in float64, and the gradients of sum(out * into)."""
    x = x.double().requires_grad_()
    given = [each.detach().double().requires_grad_() for each in norm.parameters()]
    gamma, beta, *slope = given
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    y = (x - mean) / torch.sqrt(variance + 1e-5) * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)
    if slope:
        y = torch.maximum(y, torch.zeros(())) + slope[0].view(1, -1, 1, 1) * torch.minimum(y, torch.zeros(()))
    (y * into.double()).sum().backward()
    return y, [x.grad, *(each.grad for each in given)], mean.flatten(), variance.flatten()


def close(one, other, tolerance):
    """Within a share of the largest value, which is how rounding errs."""
    return float((one.double() - other).detach().abs().max()) <= tolerance * float(other.detach().abs().max())


@needs_compiler
@pytest.mark.parametrize("bent", [True, False])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_values_gradients_and_running_statistics_are_those_of_the_definition(bent, mean):
    x, norm = activation(mean=mean), NormPReLU(48, bent=bent)
    with torch.no_grad():
        for each in norm.parameters():
            each.uniform_(0.2, 1.5)
    into = (torch.randn(x.shape) * 0.2).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    y, gradients, expected_mean, expected_variance = slow(x, norm, into)
    x.requires_grad_()
    out = norm(x)
    assert out.grad_fn.name() == "_NormaliseBackward"
    (out * into).sum().backward()
    assert out.dtype is torch.bfloat16
    assert close(out, y, 0.005)
    for mine, expected in zip([x.grad, *(each.grad for each in norm.parameters())], gradients, strict=True):
        assert close(mine, expected, 0.01)
    assert close(norm.running_mean, 0.1 * expected_mean, 1e-4)
    assert close(norm.running_var, 0.9 + 0.1 * expected_variance * 486 / 485, 1e-4)
    assert int(norm.num_batches_tracked) == 1


@needs_compiler
def test_one_row_and_one_value_stay_finite_and_nan_is_not_hidden():
    for same in (torch.ones(1, 16, 1, 1), torch.full((4, 16, 3, 3), 7.0)):
        x = same.to(torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
        out = NormPReLU(16)(x)
        out.sum().backward()
        assert torch.isfinite(out).all()
        assert torch.isfinite(x.grad).all()
    x = activation(channels=16).detach()
    x[3, 5, 2, 2] = math.nan
    out = NormPReLU(16)(x)
    assert torch.isnan(out[:, 5]).all()
    assert torch.isfinite(out[:, 6]).all()


@needs_compiler
def test_the_bits_do_not_depend_on_the_number_of_threads():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x = activation(n=16, side=14).requires_grad_()
            norm = NormPReLU(48)
            out = norm(x)
            (out * out).sum().backward()
            results.append([out, x.grad, norm.weight.grad, norm.slope.grad])
    finally:
        torch.set_num_threads(before)
    for each in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], each, strict=True))


@pytest.mark.parametrize("side", [8, 9])
def test_a_strided_depthwise_convolution_has_the_gradients_of_the_plain_one(side):
    quick, x = Depthwise(32, 2), activation(channels=32, side=side).requires_grad_()
    plain, y = nn.Conv2d(32, 32, 3, 2, 1, groups=32, bias=False).double(), x.detach().double().requires_grad_()
    with torch.no_grad():
        plain.weight.copy_(quick.weight.to(torch.bfloat16))
    out, expected = quick(x), plain(y)
    assert out.grad_fn.name() == "_HalvedDepthwiseBackward"
    into = torch.randn_like(expected).to(torch.bfloat16)
    (out * into).sum().backward()
    (expected * into.double()).sum().backward()
    assert close(out, expected, 0.01)
    assert close(x.grad, y.grad, 0.01)
    assert close(quick.weight.grad, plain.weight.grad, 0.01)


def test_without_a_compiler_pytorch_s_own_operations_do_it(monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc")
    compiled.cache_clear()
    try:
        assert compiled("fused.c") is None
        x, norm = activation().requires_grad_(), NormPReLU(48)
        expected = functional.prelu(functional.batch_norm(x, None, None, training=True), torch.full((48,), 0.25).to(x))
        assert close(norm(x), expected.double(), 0.01)
    finally:
        compiled.cache_clear()


def test_a_network_in_bfloat16_has_nearly_the_gradient_of_float32():
    torch.manual_seed(0)
    network = MobileFaceNet(32).to(memory_format=torch.channels_last)
    pixels = torch.rand(8, 3, 112, 112).contiguous(memory_format=torch.channels_last)
    into = torch.randn(8, 32)
    found = []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = network(pixels)
        (out.float() * into).sum().backward()
        found.append(torch.cat([each.grad.flatten() for each in network.parameters()]))
    assert functional.cosine_similarity(*found, dim=0) > 0.9
