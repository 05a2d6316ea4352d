"""Embeds one image, for EmbedImages and for libraries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file

from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._backend.protocol import Fit, InferenceBackend, embedding_fault
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.plan import PlannedImage
from clipsr_gateway._images.run import ImageResult, infer_image
from clipsr_gateway._manifest import Manifest
from clipsr_gateway.errors import BackendFaultError, Violation


class ImageEmbedder:
    """Embeds images of libraries on the way of EmbedImages.

    Args:
        backend: what computes.
        manifest: what is served.
        slots: places in the backend.
    """

    def __init__(self, *, backend: InferenceBackend, manifest: Manifest, slots: FairSlots) -> None:
        self._backend = backend
        self._manifest = manifest
        self._slots = slots

    async def embed(
        self, image: PlannedImage | Violation, *, fit: Fit, call: Call
    ) -> ImageResult[npt.NDArray[np.float32]] | status_pb2.Status:
        """Embed one image; answers and errors are those of `infer_image`."""

        async def ask(image: PlannedImage, timeout_s: float | None) -> npt.NDArray[np.float32]:
            values = await self._backend.embed_image(
                image.content,
                fit=fit,
                route=image.route,
                request_id=call.request_id,
                timeout_s=timeout_s,
                size_hw=image.size_hw,
            )
            if fault := embedding_fault(values, (self._manifest.embed_dim,)):
                raise BackendFaultError(fault)
            return values

        return await infer_image(image, ask, slots=self._slots, call=call)
