"""Depthwise convolutions, written so that processors differentiate them fast."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional

# Smaller kernels are as fast in either type.
_WIDE_KERNEL = 5


def speed_up_depthwise(model: nn.Module) -> None:
    """Let a model's depthwise convolutions be differentiated by oneDNN's fast kernels, where gradients are asked for.

    Same values; gradients are the same, those of weights more exact. With strides oneDNN differentiates by its
    reference kernel; in EfficientNet-Lite0 at 128 px, bf16, without gradients of weights, the four such layers take 242
    ms of a batch of 32 so, and 44 ms as slices of the result of stride 1. Gradients of the weights of 5 x 5 kernels
    take 1,000 ms of a batch of 64 in bf16, and 320 ms in fp32. Nothing changes on other devices or without gradients.

    Args:
        model: its convolutions get another `forward`; weights and names stay.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_slow(module):
            module.forward = partial(_forward, module)


def _is_slow(conv: nn.Conv2d) -> bool:
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    is_wide = min(conv.kernel_size) >= _WIDE_KERNEL
    return is_depthwise and conv.padding_mode == "zeros" and (max(conv.stride) > 1 or is_wide)


def _forward(conv: nn.Conv2d, input: Tensor) -> Tensor:
    if input.device.type != "cpu" or not torch.is_grad_enabled():
        return type(conv).forward(conv, input)
    padding = conv.padding
    if isinstance(conv, Conv2dSame):
        input = pad_same(input, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
        padding = 0
    rows, columns = conv.stride
    if torch.is_autocast_enabled("cpu") and isinstance(padding, tuple) and conv.weight.requires_grad:
        dtype = torch.get_autocast_dtype("cpu")
        bias = None if conv.bias is None else conv.bias.to(dtype)
        every = _ExactWeightGradient.apply(input.to(dtype), conv.weight, bias, padding, conv.dilation)
    else:
        every = functional.conv2d(input, conv.weight, conv.bias, 1, padding, conv.dilation, conv.groups)
    return every[..., ::rows, ::columns]


class _ExactWeightGradient(torch.autograd.Function):
    """A depthwise convolution of stride 1 in half precision, whose weights get their gradient in fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> Tensor:
        """See `torch.nn.functional.conv2d`."""
        ctx.save_for_backward(input, weight)
        ctx.geometry = ([1, 1], list(padding), list(dilation), False, [0, 0], len(weight))
        ctx.has_bias = bias is not None
        return functional.conv2d(input, weight.to(input.dtype), bias, 1, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input, weight and bias."""
        (gradient,), (input, weight) = gradients, ctx.saved_tensors
        differentiate = torch.ops.aten.convolution_backward
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            own = (gradient, input, weight.to(input.dtype), None, *ctx.geometry, [True, False, False])
            of_input = differentiate(*own)[0]
        if ctx.needs_input_grad[1]:
            own = (gradient.float(), input.float(), weight, None, *ctx.geometry, [False, True, False])
            of_weight = differentiate(*own)[1]
        of_bias = gradient.sum((0, 2, 3)) if ctx.has_bias else None
        return of_input, of_weight, of_bias, None, None
