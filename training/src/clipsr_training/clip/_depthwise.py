"""Depthwise convolutions, written so that processors differentiate them fast."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional

# Columns of a kernel whose weights oneDNN differentiates by a fast kernel; rows may be more.
_FAST_COLUMNS = 3


def speed_up_depthwise(model: nn.Module) -> None:
    """Let a model's depthwise convolutions be differentiated by oneDNN's fast kernels, where gradients are asked for.

    Same values and gradients. oneDNN is fast where the stride is 1, and for weights of at most three columns, and takes
    its reference kernels otherwise. So a stride of 2 is differentiated as the four convolutions of stride 1 that it
    consists of, each of every second row and column, and a wide kernel by three columns at a time. EfficientNet-Lite0
    at 96 px, bf16, one core: 49 pictures a second forward and backward by the reference kernels, 107 so. Nothing
    changes on other devices or without gradients.

    Args:
        model: its convolutions get another `forward`; weights and names stay.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_slow(module):
            module.forward = partial(_forward, module)


def _is_slow(conv: nn.Conv2d) -> bool:
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    is_plain = conv.padding_mode == "zeros" and isinstance(conv.padding, tuple) and max(conv.dilation) == 1
    return is_depthwise and is_plain and (max(conv.stride) > 1 or conv.kernel_size[1] > _FAST_COLUMNS)


def _forward(conv: nn.Conv2d, input: Tensor) -> Tensor:
    if input.device.type != "cpu" or not torch.is_grad_enabled():
        return type(conv).forward(conv, input)
    if isinstance(conv, Conv2dSame):
        input = pad_same(input, list(conv.kernel_size), list(conv.stride))
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
    bias = None if conv.bias is None else conv.bias.to(dtype)
    return _Depthwise.apply(input.to(dtype), conv.weight.to(dtype), bias, conv.stride, conv.padding)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution that is differentiated as convolutions of stride 1, of weights of few columns."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        """See `torch.nn.functional.conv2d`."""
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(input, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input, weight and bias."""
        (gradient,), (input, weight) = gradients, ctx.saved_tensors
        wants_input, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_bias = gradient.sum((0, 2, 3)) if wants_bias else None
        above, before = ctx.padding
        padded = functional.pad(input, (before, before, above, above))
        of_weight = _weight_gradient(gradient, padded, weight, ctx.stride) if wants_weight else None
        of_input = None
        if wants_input and max(ctx.stride) == 1:
            of_input = _differentiate(gradient, input, weight, 0, ctx.padding)
        elif wants_input:
            height, width = input.shape[2:]
            every = _input_gradient(gradient, padded, weight, ctx.stride)
            of_input = every[..., above : above + height, before : before + width]
        return of_input, of_weight, of_bias, None, None


def _phases(stride: tuple[int, int]) -> Iterator[tuple[Any, ...]]:
    """Yield an index of the pixels, and of the weights, of each convolution of stride 1 of a strided one."""
    rows, columns = stride
    for row, column in product(range(rows), range(columns)):
        yield ..., slice(row, None, rows), slice(column, None, columns)


def _input_gradient(gradient: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    result = torch.zeros_like(input)
    for phase in _phases(stride):
        part = weight[phase]
        seen = _seen(gradient, part)
        result[phase][seen] = _differentiate(gradient, input[phase][seen], part, 0)
    return result


def _weight_gradient(gradient: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    result = torch.zeros_like(weight)
    for phase in _phases(stride):
        for start in range(0, weight[phase].shape[-1], _FAST_COLUMNS):
            few = (..., slice(start, start + _FAST_COLUMNS))
            part = weight[phase][few]
            seen = input[phase][..., start:][_seen(gradient, part)]
            result[phase][few] = _differentiate(gradient, seen, part, 1)
    return result


def _seen(gradient: Tensor, weight: Tensor) -> tuple[Any, ...]:
    """Return an index of the pixels that a convolution of stride 1 without padding reads."""
    height, width = (side + kernel - 1 for side, kernel in zip(gradient.shape[2:], weight.shape[2:], strict=True))
    return ..., slice(height), slice(width)


def _differentiate(
    gradient: Tensor, input: Tensor, weight: Tensor, which: int, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Return the gradient of input (0) or weight (1) of a depthwise convolution of stride 1."""
    wanted = [which == 0, which == 1, False]
    input = input.contiguous(memory_format=torch.channels_last)
    fixed = (None, [1, 1], list(padding), [1, 1], False, [0, 0], len(weight))
    return torch.ops.aten.convolution_backward(gradient, input, weight, *fixed, wanted)[which]
