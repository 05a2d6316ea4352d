"""How far an upscaler looks: what a caller must send around a region for it to be rendered as from the whole image."""

# torch, onnx, onnxruntime and Pillow ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import copy

import torch
from torch import Tensor

from clipsr_export._errors import ExportError
from clipsr_training.liif import Upscaler

# EDSR-baseline sees 36 pixels and RDN 136; wider than the largest of these is no encoder that is known here.
_LENGTHS_PX = (129, 513, 2049)
# Positions inside one pixel, so that every side of a latent code is rendered.
_SAMPLES = 8


def measure_receptive_field(upscaler: Upscaler) -> int:
    """Return how many pixels beyond a box can reach what is rendered in it, on every side.

    A rendering of [top, bottom) depends on canvas rows floor(top) - r to ceil(bottom) + r - 1, and on no others; the
    same holds for columns. Padding at the canvas's edge is a matter of its own.

    Measured by the gradient of one rendered pixel in a copy whose weights are all positive: nothing cancels and no
    ReLU is closed, so that the gradient is zero exactly where nothing connects. One row, then one column, is enough:
    all layers see squares, and a long thin image costs little.

    Raises:
        ExportError: the field is wider than any that is known.
    """
    probe = _with_positive_weights(upscaler)
    return max(_measure_axis(probe, axis) for axis in (0, 1))


def _with_positive_weights(upscaler: Upscaler) -> Upscaler:
    """Return a copy whose layers average, so that values stay of order one through any number of them."""
    probe = copy.deepcopy(upscaler).eval()
    for parameter in probe.parameters():
        parameter.requires_grad_(False)
        parameter.fill_(1.0 if parameter.ndim < 2 else parameter.shape[0] / parameter.numel())
    return probe


def _measure_axis(probe: Upscaler, axis: int) -> int:
    """Return the field along rows (0) or columns (1)."""
    for length in _LENGTHS_PX:
        centre = length // 2
        reached = _gradient(probe, length, centre, axis).nonzero()[:, 0]
        radius = int((reached - centre).abs().max())
        if radius < centre:  # it ends inside of the image, so all of it was seen
            return radius
    raise ExportError(f"the upscaler sees more than {_LENGTHS_PX[-1] // 2} pixels to each side: it cannot be tiled")


def _gradient(probe: Upscaler, length: int, centre: int, axis: int) -> Tensor:
    """Return [length] the gradient, summed over channels, of what is rendered in the pixel `centre`."""
    shape = (1, 3, length, 1) if axis == 0 else (1, 3, 1, length)
    lr = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    box = [float(centre), 0.0, 1.0, 1.0] if axis == 0 else [0.0, float(centre), 1.0, 1.0]
    # Encoders in fp64: at the edge of RDN's field, a hundred averages deep, fp32 has nothing left.
    feat = copy.deepcopy(probe).double().features(lr).float()
    sr = probe.render(feat, torch.tensor([box]), (_SAMPLES, _SAMPLES))
    (gradient,) = torch.autograd.grad(sr.sum(), lr)
    return gradient.abs().sum(dim=(0, 1)).flatten()
