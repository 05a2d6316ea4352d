"""Batch normalization folded into convolutions: the same answers and gradients of pixels, and nothing else touched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clipsr_training.clip._folding import fold_batch_norms
from tests.training.tiny_clips import TOWERS, tiny_clip


def gradient(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    pixels = pixels.clone().requires_grad_()
    features = tower(pixels)
    (features * torch.linspace(-1, 1, features.numel()).view(features.shape)).sum().backward()
    assert pixels.grad is not None
    return pixels.grad


def count_norms(tower: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in tower.modules())


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_a_folded_tower_answers_as_the_original(name):
    clip = tiny_clip(name)
    tower = clip.model.visual.requires_grad_(requires_grad=False).eval()
    before = copy.deepcopy(tower.state_dict())
    folded = fold_batch_norms(tower, clip.image_size_px)
    pixels = torch.randn(3, 3, clip.image_size_px, clip.image_size_px)
    torch.testing.assert_close(folded(pixels), tower(pixels), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(gradient(folded, pixels), gradient(tower, pixels), atol=1e-4, rtol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())
    assert not any(p.requires_grad for p in folded.parameters())
    assert not folded.training
    if name in ("efficientnet", "resnet"):
        assert count_norms(tower) > 0
        assert count_norms(folded) == 0


def test_a_normalization_of_something_else_stays():
    """Beside a convolution, not behind it."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)
            nn.init.normal_(self.norm.weight)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return (self.conv(pixels) + self.norm(pixels)).mean((2, 3))

    tower = Branches().eval()
    folded = fold_batch_norms(tower, 8)
    assert folded is tower
    assert count_norms(tower) == 1
