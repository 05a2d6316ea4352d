"""The blocks of an image tower, between which a controller's signals are read and added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

# Where trunks of timm keep their blocks, or stages of blocks; residual networks have four layers.
_TIMM_CONTAINERS = ("blocks", "stages", "layers")
_RESIDUAL_LAYERS = ("layer1", "layer2", "layer3", "layer4")

AfterBlock = Callable[[int, Tensor], Tensor | None]
"""Called with a block's number and output; what it returns, if anything, goes on in its place."""


def find_blocks(tower: nn.Module) -> list[nn.Module]:
    """Return the residual blocks of an image tower, in the order in which an image passes them.

    Raises:
        ValueError: the tower is of a kind whose blocks aren't known.
    """
    if isinstance(tower, VisionTransformer):
        return list(tower.transformer.resblocks)
    if isinstance(tower, ModifiedResNet):
        return list(_flatten(getattr(tower, name) for name in _RESIDUAL_LAYERS))
    trunk = cast("Any", getattr(tower, "trunk", None))
    for name in _TIMM_CONTAINERS:
        if isinstance(container := getattr(trunk, name, None), nn.Module):
            return list(_flatten(container.children()))
    if all(hasattr(trunk, name) for name in _RESIDUAL_LAYERS):
        return list(_flatten(getattr(trunk, name) for name in _RESIDUAL_LAYERS))
    raise ValueError(f"a {type(trunk if trunk is not None else tower).__name__} has no blocks that could be controlled")


def _flatten(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield single blocks of stages, whatever is around them."""
    for module in modules:
        inner = getattr(module, "blocks", None)
        if isinstance(inner, nn.Module):
            yield from _flatten(inner.children())
        elif isinstance(module, nn.Sequential | nn.ModuleList):
            yield from _flatten(module)
        else:
            yield module


def run_tower(tower: nn.Module, pixels: Tensor, after_block: AfterBlock | None = None) -> Tensor:
    """Return a tower's embeddings [B, D], not of unit length, of normalized RGB [B, 3, R, R].

    Args:
        tower: an image tower of OpenCLIP.
        pixels: what it sees.
        after_block: called after every block.
    """
    blocks = [] if after_block is None else find_blocks(tower)
    handles = [
        block.register_forward_hook(partial(_after, cast("AfterBlock", after_block), i))
        for i, block in enumerate(blocks)
    ]
    try:
        output = tower(pixels)
    finally:
        for handle in handles:
            handle.remove()
    # Towers that also write captions return their tokens as well.
    return output[0] if isinstance(output, tuple) else output


def _after(after_block: AfterBlock, index: int, module: nn.Module, arguments: object, output: Tensor) -> Tensor | None:
    return after_block(index, output)


@torch.no_grad()
def make_connections(tower: nn.Module, image_size_px: int) -> tuple[nn.ModuleList, int]:
    """Return a linear map of zeros for the output of every block, over its channels; and D, the tower's width.

    Raises:
        ValueError: the tower is of a kind whose blocks aren't known.
    """
    made: list[nn.Module] = []
    is_channels_last = getattr(getattr(tower, "trunk", None), "output_fmt", "NCHW") == "NHWC"

    def connect(_: int, output: Tensor) -> None:
        if not isinstance(output, Tensor) or output.ndim not in {3, 4}:
            raise ValueError(f"a {type(tower).__name__} has blocks that return neither tokens nor maps")
        if output.ndim == 3 or is_channels_last:
            made.append(nn.Linear(output.shape[-1], output.shape[-1]))
        else:
            made.append(nn.Conv2d(output.shape[1], output.shape[1], 1))

    first = next(tower.parameters())
    was_training = tower.training
    blank = torch.zeros(1, 3, image_size_px, image_size_px, device=first.device, dtype=first.dtype)
    embedding = run_tower(tower.eval(), blank, connect)
    tower.train(was_training)
    connections = nn.ModuleList(made).to(first.device)
    for parameter in connections.parameters():
        parameter.zero_()
    return connections, embedding.shape[-1]


def compare_shapes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Return the names that `state` lacks, those that it has beyond `own`, and those of another shape."""
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name}: {list(state[name].shape)} in the file, {list(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return missing, unexpected, reshaped
