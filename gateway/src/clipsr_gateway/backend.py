"""The seam between the gateway and whatever computes: Triton in production, a fake in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Fit", "InferenceBackend", "PreparedLabels", "Route", "Scores"]

# Empty: the checkpoint's own, which the models read from the manifest.
Fit = Literal["", "center_crop", "squash"]
Route = Literal["upscaled", "native"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the models say about one image.

    Attributes:
        cosine: [K] float32 in [-1, 1], in the order of the labels.
        probability: [K] float32 in [0, 1], in the order of the labels.
    """

    cosine: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float32]

    def fault(self, label_count: int) -> str | None:
        """Returns what makes these scores unusable for `label_count` labels, or None if they are sound."""
        if self.cosine.shape != (label_count,) or self.probability.shape != (label_count,):
            return (
                f"{label_count} labels were sent, but cosine has shape {self.cosine.shape} "
                f"and probability {self.probability.shape}"
            )
        if not (np.isfinite(self.cosine).all() and np.isfinite(self.probability).all()):
            return "cosine or probability is not finite"
        return None


class PreparedLabels(Protocol):
    """Labels and templates, encoded once for all images of a call."""

    async def classify(
        self, image: bytes, *, fit: Fit, route: Route, request_id: str, timeout_s: float | None
    ) -> Scores:
        """Classifies one image.

        Args:
            image: an encoded image file.
            fit: how an image that is not square meets the square input; empty for the checkpoint's own way.
            route: which ensemble runs.
            request_id: shown in the backend's own log.
            timeout_s: seconds until the caller stops waiting; None waits forever.

        Raises:
            BackendUnavailableError: the backend does not answer or has not loaded the ensemble.
            DeadlineExceededError: `timeout_s` passed.
            ImageRejectedError: the image is at fault.
            BackendFaultError: anything else.
        """
        ...


class InferenceBackend(Protocol):
    """Runs the models."""

    @property
    def target(self) -> str:
        """Where the backend is, as shown in messages: HOST:PORT."""
        ...

    async def is_ready(self, *, timeout_s: float) -> bool:
        """Says whether the backend and both routes are ready; False, never an error, for one that is down."""
        ...

    def prepare(self, *, labels: Sequence[str], templates: Sequence[str]) -> PreparedLabels:
        """Encodes labels and templates for any number of images. Pure computation; may run in any thread."""
        ...

    async def max_tiles(self, *, timeout_s: float | None) -> int:
        """Returns how many tiles one call of `upscale` may hold, at least 1.

        Raises:
            BackendError, DeadlineExceededError: as PreparedLabels.classify.
        """
        ...

    async def upscale(
        self,
        canvas: npt.NDArray[np.uint8],
        box: npt.NDArray[np.float32],
        *,
        request_id: str,
        timeout_s: float | None,
    ) -> npt.NDArray[np.uint8]:
        """Renders regions of low-resolution images.

        Args:
            canvas: [N, 3, H, W] RGB, N at most `max_tiles`.
            box: [N, 4] (top, left, height, width) of each region, in canvas pixels.
            request_id: shown in the backend's own log.
            timeout_s: seconds until the caller stops waiting; None waits forever.

        Returns:
            [N, 3, R, R] RGB.

        Raises:
            BackendError, DeadlineExceededError: as PreparedLabels.classify.
        """
        ...

    async def close(self) -> None:
        """Releases connections; calls in progress fail."""
        ...
