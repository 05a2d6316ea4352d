"""The controller: a trained copy of an image tower that steers the frozen one and says what is wrong with a picture.

Source: Luo et al. 2024 (DA-CLIP, arXiv 2310.01018), section 3; the signals as in Zhang et al. 2023 (ControlNet).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from open_clip import transformer
from timm.layers import patch_dropout
from torch import Tensor, nn
from torch.nn import functional

from clipsr_training.controller._blocks import make_connections, run_tower
from clipsr_training.degradation import CLEAN

ControlOrder = Literal["same", "reversed"]
CONTROL_ORDERS: tuple[ControlOrder, ...] = get_args(ControlOrder)

# CLIP's own beginning (Radford et al. 2021, section 2.4).
_FIRST_LOGIT_SCALE = 1 / 0.07


class Signals(NamedTuple):
    """What a controller makes of a batch.

    Attributes:
        controls: what is added to the output of each block of the frozen tower, first block first.
        degradation: [B, D], the embedding of what is wrong, not of unit length.
    """

    controls: list[Tensor]
    degradation: Tensor


class Encoding(NamedTuple):
    """What a tower and its controller say of a batch.

    Attributes:
        content: [B, D], the controlled embedding, not of unit length.
        degradation: [B, D], the embedding of what is wrong, not of unit length.
        cosines: [B, C] with the controller's prototypes.
    """

    content: Tensor
    degradation: Tensor
    cosines: Tensor


class Controller(nn.Module):
    """What is trained: the copy, its connections, and prototypes of the kinds of damage.

    Untrained, its connections are zero, and the frozen tower answers as it does alone.

    Args:
        tower: the image tower to control; it is copied.
        image_size_px: R.
        kinds: names of the C kinds that it tells apart; `clean` among them opens the gate (see `encode`).
        order: which of the controller's blocks steers which of the tower's: the same one, or, as in DA-CLIP, the last
            the first.

    Raises:
        ValueError: the tower is of a kind whose blocks aren't known, or its blocks differ in shape and the order is
            reversed; or the kinds repeat.
    """

    def __init__(
        self, tower: nn.Module, image_size_px: int, kinds: Sequence[str], *, order: ControlOrder = "same"
    ) -> None:
        super().__init__()
        if len(set(kinds)) != len(kinds):
            raise ValueError(f"a kind is named twice: {', '.join(kinds)}")
        self.kinds = tuple(kinds)
        self.order: ControlOrder = order
        self.tower = copy.deepcopy(tower).requires_grad_(requires_grad=True)
        self.connections, embed_dim = make_connections(self.tower, image_size_px)
        widths = {tuple(p.shape) for p in self.connections.parameters() if p.ndim > 1}
        if order == "reversed" and len(widths) > 1:
            raise ValueError(f"the blocks of a {type(tower).__name__} differ in shape: control them in the same order")
        self.prototypes = nn.Parameter(torch.zeros(len(kinds), embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(_FIRST_LOGIT_SCALE)))

    @property
    def clean(self) -> int | None:
        """Number of the kind that says that nothing is wrong; None where there is none."""
        return self.kinds.index(CLEAN) if CLEAN in self.kinds else None

    def train(self, mode: bool = True) -> Controller:
        """Switch to training, but for the dropping of patches: copy and tower must see the same."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, transformer.PatchDropout | patch_dropout.PatchDropout):
                module.eval()
        return self

    def forward(self, pixels: Tensor) -> Signals:
        """Return signals and degradation embeddings of normalized RGB [B, 3, R, R]."""
        controls: list[Tensor] = []

        def keep(index: int, output: Tensor) -> None:
            controls.append(self.connections[index](output))

        degradation = run_tower(self.tower, pixels, keep)
        return Signals(controls if self.order == "same" else controls[::-1], degradation)

    def cosines(self, degradation: Tensor) -> Tensor:
        """Map degradation embeddings [B, D] to cosines [B, C] with the prototypes."""
        with torch.autocast(degradation.device.type, enabled=False):
            directions = functional.normalize(self.prototypes.float(), dim=-1)
            degradation = degradation.float()
            # As functional.normalize, but without the Expand node that it leaves in an ONNX graph: openvino 2026.4.1
            # gives that wrong values in graphs that were quantized.
            return degradation / degradation.norm(dim=-1, keepdim=True).clamp(min=1e-12) @ directions.T


def steer(tower: nn.Module, pixels: Tensor, controls: Sequence[Tensor]) -> Tensor:
    """Return a tower's embeddings [B, D], not of unit length, with signals added to the outputs of its blocks."""
    return run_tower(tower, pixels, lambda index, output: output + controls[index].to(output.dtype))


def encode(tower: nn.Module, controller: Controller, pixels: Tensor, *, is_gated: bool = True) -> Encoding:
    """Embed images by a frozen tower with its controller.

    Args:
        tower: the frozen tower, in evaluation mode.
        controller: made for it.
        pixels: normalized RGB [B, 3, R, R].
        is_gated: leave images alone of which the controller says that they are clean: they get the tower's own
            embedding, bit for bit. Without effect on a controller that doesn't know the kind.
    """
    controls, degradation = controller(pixels)
    cosines = controller.cosines(degradation)
    if is_gated and controller.clean is not None:
        is_damaged = cosines.argmax(dim=1) != controller.clean
        controls = [_where(is_damaged, control) for control in controls]
    return Encoding(steer(tower, pixels, controls), degradation, cosines)


def _where(is_damaged: Tensor, control: Tensor) -> Tensor:
    return torch.where(is_damaged.view(-1, *[1] * (control.ndim - 1)), control, torch.zeros_like(control))
