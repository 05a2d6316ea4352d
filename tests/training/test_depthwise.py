"""Strided depthwise convolutions written as slices: the values and gradients of the originals."""

from __future__ import annotations

import copy

import clipsr_training  # noqa: F401  (torchvision imports beside a torch without its operators)

# isort: split
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from clipsr_training.clip._depthwise import slice_strided_depthwise


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
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (5, (1, 3))])
def test_a_sliced_convolution_and_its_gradients_are_the_strided_ones(
    kind: type[nn.Conv2d], padding: int, kernel: int, stride: int | tuple[int, int], side: int
) -> None:
    torch.manual_seed(0)
    strided = kind(6, 6, kernel, stride=stride, padding=padding, groups=6)
    sliced = copy.deepcopy(strided)
    slice_strided_depthwise(sliced)
    pixels = torch.randn(2, 6, side, side)
    for mine, own in zip(gradients(sliced, pixels), gradients(strided, pixels), strict=True):
        torch.testing.assert_close(mine, own)
    with torch.no_grad():
        assert torch.equal(sliced(pixels), strided(pixels))


def test_a_copy_of_a_sliced_model_uses_its_own_weights() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=4), nn.Conv2d(4, 4, 3, stride=2))
    slice_strided_depthwise(model)
    assert ["forward" in vars(conv) for conv in model] == [True, False]
    other = copy.deepcopy(model)
    nn.init.zeros_(next(other.parameters()))
    pixels = torch.randn(1, 4, 16, 16)
    assert not torch.equal(model(pixels), other(pixels))
