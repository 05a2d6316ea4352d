"""What each ONNX graph computes, as PyTorch modules with the tensor contract's names and types."""

# torch, onnx, onnxruntime and Pillow ship partial types: what comes out of them is unknown to the checker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipsr_training.clip import ClipCheckpoint
from clipsr_training.controller import ControlledClip
from clipsr_training.liif import Upscaler


class UpscaleGraph(nn.Module):
    """`upscale`: a region of a low-resolution canvas, rendered on the encoder's pixel grid.

    Args:
        upscaler: a LIIF.
        image_size_px: R.
    """

    def __init__(self, upscaler: Upscaler, image_size_px: int) -> None:
        super().__init__()
        self.upscaler = upscaler
        self.image_size_px = image_size_px

    def forward(self, canvas: Tensor, box: Tensor) -> tuple[Tensor, ...]:
        """Map canvas UINT8 [N, 3, S, S] and box FP32 [N, 4] to pixels UINT8 [N, 3, R, R] and the inner tensors."""
        image, inner = self._render(canvas, box)
        return (image.clamp(0, 1) * 255).round().to(torch.uint8), *inner

    def rgb(self, canvas: Tensor, box: Tensor) -> Tensor:
        """Return what `forward` rounds: a number that is not finite would become a level there."""
        return self._render(canvas, box)[0]

    def _render(self, canvas: Tensor, box: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.upscaler.render_image(canvas, box, (self.image_size_px, self.image_size_px))


class _PixelGraph(nn.Module):
    """What begins with the normalization of a checkpoint."""

    gain: Tensor
    offset: Tensor

    def __init__(self, checkpoint: ClipCheckpoint) -> None:
        super().__init__()
        mean, std = (_channels(values) for values in (checkpoint.mean, checkpoint.std))
        # (x / 255 - mean) / std as one product and one sum.
        self.register_buffer("gain", 1 / (255 * std))
        self.register_buffer("offset", -mean / std)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Map pixels UINT8 [N, 3, R, R] to what the image tower takes."""
        return pixels.float() * self.gain + self.offset


class ImageEncoderGraph(_PixelGraph):
    """`image_encoder`: normalization, image tower, L2 normalization."""

    def __init__(self, checkpoint: ClipCheckpoint) -> None:
        super().__init__(checkpoint)
        self.encode_image = checkpoint.encode_image
        self.towers = checkpoint.model

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels UINT8 [N, 3, R, R] to image_embedding FP32 [N, D], L2-normalized."""
        return _normalize(self.encode_image(self.normalize(pixels)))


class RobustEncoderGraph(_PixelGraph):
    """`robust_encoder`: as `image_encoder`, steered by a controller, which also names the damage."""

    def __init__(self, controlled: ControlledClip) -> None:
        super().__init__(controlled.clip)
        self.encode = controlled.encode
        self.towers = controlled.clip.model
        self.controller = controlled.controller

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map pixels UINT8 [N, 3, R, R] to what the image shows and what is wrong with it.

        Returns:
            image_embedding FP32 [N, D], L2-normalized; degradation_cosine FP32 [N, C] and degradation_probability
            FP32 [N, C] of the controller's kinds of damage.
        """
        encoding = self.encode(self.normalize(pixels))
        probability = (self.controller.logit_scale.exp() * encoding.cosines).softmax(dim=-1)
        return _normalize(encoding.content), encoding.cosines, probability


class TextEncoderGraph(nn.Module):
    """`text_encoder`: text tower, L2 normalization."""

    def __init__(self, checkpoint: ClipCheckpoint) -> None:
        super().__init__()
        self.encode_text = checkpoint.encode_text
        self.towers = checkpoint.model

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens INT64 [N, L] to text_embedding FP32 [N, D], L2-normalized."""
        return _normalize(self.encode_text(tokens))


def _normalize(embedding: Tensor) -> Tensor:
    """L2 normalization, as functional.normalize, but without the Expand node that it leaves in the ONNX graph.

    openvino 2026.4.1 gives that node wrong values in graphs that were quantized: embeddings of the bundled encoder had
    a mean cosine of 0.95 with those of fp32 then, instead of 0.9996.
    """
    return embedding / embedding.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
