"""Embeds one image, for EmbedImages, for libraries, and to say what Restore shall remove."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsr.v1 import types_pb2
from clipsr_gateway._backend.core import Core
from clipsr_gateway._backend.protocol import Damage, Fit, ImageFeatures, damage_fault, embedding_fault
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.choice import infer_by_choice
from clipsr_gateway._images.plan import PlannedImage
from clipsr_gateway._images.turn import ImageTurn, image_turn
from clipsr_gateway.errors import BackendFaultError, Violation


@dataclass(frozen=True, kw_only=True)
class EmbeddedImage:
    """An image and its embedding.

    Attributes:
        image: as planned, with the encoder that embedded it.
        embedding: [D] float32, L2-normalized.
        damage: what is wrong with it; None unless the robust encoder embedded it.
        timing: waiting and computing.
    """

    image: PlannedImage
    embedding: npt.NDArray[np.float32]
    damage: Damage | None
    timing: types_pb2.Timing


async def embed_image(image: PlannedImage | Violation, *, fit: Fit, core: Core, call: Call) -> EmbeddedImage:
    """Embed one image by the encoder that it is planned for.

    Raises:
        GatewayError: as `image_turn`.
    """

    async def infer(planned: PlannedImage | Violation) -> tuple[ImageTurn, ImageFeatures]:
        async with image_turn(planned, call) as held:
            return held, await _embed(held, fit, core, call)

    held, features = await infer_by_choice(
        image, infer, lambda features: features.embedding, head=core.manifest.damage_head, call=call
    )
    return EmbeddedImage(
        image=held.image, embedding=features.embedding, damage=features.damage, timing=held.turn.timing
    )


async def _embed(held: ImageTurn, fit: Fit, core: Core, call: Call) -> ImageFeatures:
    request = core.backend.embed_image(
        held.image.content,
        fit=fit,
        route=held.image.route,
        request_id=call.request_id,
        timeout_s=held.turn.timeout_s,
        size_hw=held.image.size_hw,
        encoder=held.image.encoder,
    )
    features = await held.turn.infer(request)
    fault = embedding_fault(features.embedding, (core.manifest.embed_dim,))
    if fault is None and held.image.encoder == "robust":
        fault = damage_fault(features.damage, len(core.manifest.degradation_kinds))
    if fault:
        raise BackendFaultError(fault)
    return features
