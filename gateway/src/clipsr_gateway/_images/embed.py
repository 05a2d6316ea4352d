"""Embeds one image, for EmbedImages and for libraries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsr.v1 import types_pb2
from clipsr_gateway._backend.core import Core
from clipsr_gateway._backend.protocol import Fit, embedding_fault
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.plan import PlannedImage
from clipsr_gateway._images.turn import image_turn
from clipsr_gateway.errors import BackendFaultError, Violation


@dataclass(frozen=True, kw_only=True)
class EmbeddedImage:
    """An image and its embedding.

    Attributes:
        image: as planned.
        embedding: [D] float32, L2-normalized.
        timing: waiting and computing.
    """

    image: PlannedImage
    embedding: npt.NDArray[np.float32]
    timing: types_pb2.Timing


async def embed_image(image: PlannedImage | Violation, *, fit: Fit, core: Core, call: Call) -> EmbeddedImage:
    """Embed one image.

    Raises:
        GatewayError: as `image_turn`.
    """
    async with image_turn(image, call) as held:
        request = core.backend.embed_image(
            held.image.content,
            fit=fit,
            route=held.image.route,
            request_id=call.request_id,
            timeout_s=held.turn.timeout_s,
            size_hw=held.image.size_hw,
        )
        embedding = await held.turn.infer(request)
        if fault := embedding_fault(embedding, (core.manifest.embed_dim,)):
            raise BackendFaultError(fault)
    return EmbeddedImage(image=held.image, embedding=embedding, timing=held.turn.timing)
