"""Depthwise convolutions that are differentiated faster: the values and gradients of the originals."""

from __future__ import annotations

import copy

import clipsr_training  # noqa: F401  (torchvision imports beside a torch without its operators)

# isort: split
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from clipsr_training.clip._depthwise import speed_up_depthwise


def gradients(conv: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a convolution's values, and the gradients of its input and weights."""
    pixels = pixels.clone().requires_grad_()
    values = conv(pixels)
    (values * torch.linspace(-1, 1, values.numel()).view(values.shape)).sum().backward()
    assert pixels.grad is not None
    assert isinstance(conv.weight, Tensor)
    assert conv.weight.grad is not None
    return values.detach(), pixels.grad, conv.weight.grad


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize(("kind", "padding"), [(nn.Conv2d, 1), (nn.Conv2d, 0), (Conv2dSame, 0)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (5, (1, 3)), (5, 1), (7, 1), ((2, 4), 1)])
def test_values_and_gradients_are_the_originals(
    kind: type[nn.Conv2d], padding: int, kernel: int | tuple[int, int], stride: int | tuple[int, int], side: int
) -> None:
    torch.manual_seed(0)
    original = kind(6, 6, kernel, stride=stride, padding=padding, groups=6)
    fast = copy.deepcopy(original)
    speed_up_depthwise(fast)
    assert "forward" in vars(fast)
    pixels = torch.randn(2, 6, side, side)
    for mine, own in zip(gradients(fast, pixels), gradients(original, pixels), strict=True):
        torch.testing.assert_close(mine, own)
    with torch.no_grad():
        assert torch.equal(fast(pixels), original(pixels))


@pytest.mark.parametrize(("kind", "stride"), [(nn.Conv2d, 1), (nn.Conv2d, 2), (Conv2dSame, 2)])
def test_in_half_precision_gradients_of_weights_are_no_further_from_those_of_fp32(
    kind: type[nn.Conv2d], stride: int
) -> None:
    torch.manual_seed(0)
    exact = kind(8, 8, 5, stride=stride, groups=8)
    half, fast = copy.deepcopy(exact), copy.deepcopy(exact)
    speed_up_depthwise(fast)
    pixels = torch.randn(16, 8, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        own, mine = gradients(half, pixels), gradients(fast, pixels)
    right = gradients(exact, pixels)
    assert torch.equal(mine[0], own[0])
    torch.testing.assert_close(mine[1], right[1], atol=0.02, rtol=0.05)
    assert float((mine[2] - right[2]).norm()) < 0.01 * float(right[2].norm())
    assert fast.bias is not None
    assert exact.bias is not None
    torch.testing.assert_close(fast.bias.grad, exact.bias.grad, atol=0.05, rtol=0.05)


def test_a_copy_of_a_fast_model_uses_its_own_weights() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=4), nn.Conv2d(4, 4, 3, stride=2))
    speed_up_depthwise(model)
    assert ["forward" in vars(conv) for conv in model] == [True, False]
    other = copy.deepcopy(model)
    nn.init.zeros_(next(other.parameters()))
    pixels = torch.randn(1, 4, 16, 16)
    assert not torch.equal(model(pixels), other(pixels))
