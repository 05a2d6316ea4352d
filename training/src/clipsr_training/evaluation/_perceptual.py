"""LPIPS, a distance between pictures as people see them.

Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"; AlexNet with the
linear weights of version 0.1, by torchmetrics.
"""

# torchmetrics ships partial types: what comes out of it is unknown to the checker.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

__all__ = ["Lpips", "check_side"]

# Of smaller pictures AlexNet's pooling leaves nothing.
_SMALLEST_PX = 32


def check_side(side_px: int) -> None:
    """Make sure that AlexNet can see pictures of this shorter side; ValueError says how large they have to be."""
    if side_px < _SMALLEST_PX:
        raise ValueError(f"LPIPS needs pictures of {_SMALLEST_PX} px or more, and one has {side_px}")


class Lpips:
    """Measures the distance, 0 for equal pictures.

    Args:
        device: where AlexNet runs.

    Raises:
        ValueError: its weights can be neither found nor downloaded.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", reduction="none", normalize=True)
        except (OSError, RuntimeError) as error:
            url = AlexNet_Weights.DEFAULT.url
            place = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
            reason = str(error).splitlines()[0]
            raise ValueError(f"LPIPS needs AlexNet's weights ({reason}); put {url} at {place}") from error
        self._metric = metric.to(device)
        self._device = device

    @torch.inference_mode()
    def distances(self, pictures: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
        """Return the distances [N] between pictures, RGB uint8 [H, W, 3] of one size, and as many others.

        See `check_side` for their size.
        """
        found = self._metric(self._tensor(pictures), self._tensor(others))
        self._metric.reset()
        return found.reshape(-1).double().cpu().numpy()

    def _tensor(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy()).to(self._device) / 255
