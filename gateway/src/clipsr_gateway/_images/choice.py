"""Which image encoder embeds an image, where the caller leaves it open: the plain embedding decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipsr.v1 import types_pb2
from clipsr_gateway._backend.protocol import Encoder
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.plan import PlannedImage
from clipsr_gateway._images.turn import ImageTurn
from clipsr_gateway._manifest import DamageHead, Manifest
from clipsr_gateway.errors import EncoderMissingError, Violation

_Answer = TypeVar("_Answer")
_Infer = Callable[[PlannedImage | Violation], Awaitable[tuple[ImageTurn, _Answer]]]

ENCODERS: dict[int, Encoder] = {
    types_pb2.ENCODER_UNSPECIFIED: "plain",
    types_pb2.ENCODER_PLAIN: "plain",
    types_pb2.ENCODER_ROBUST: "robust",
    types_pb2.ENCODER_AUTO: "auto",
}
ENCODER_NUMBERS: dict[Encoder, types_pb2.Encoder] = {
    "plain": types_pb2.ENCODER_PLAIN,
    "robust": types_pb2.ENCODER_ROBUST,
    # What an image that looked clean was embedded by.
    "auto": types_pb2.ENCODER_PLAIN,
}


def encoder_violations(number: int, path: str) -> list[Violation]:
    """Find an encoder that is unknown."""
    if number in ENCODERS:
        return []
    names = "ENCODER_PLAIN, ENCODER_ROBUST or ENCODER_AUTO"
    message = f"Encoder {number} is unknown; use {names}, or leave it unspecified."
    return [Violation(field=f"{path}encoder", reason="ENCODER_UNKNOWN", message=message)]


def resolve_encoder(number: int, manifest: Manifest) -> Encoder:
    """Return the encoder that a request with a known number asks for.

    Raises:
        EncoderMissingError: the model has none of the kind.
    """
    encoder, has_robust = ENCODERS[number], bool(manifest.degradation_kinds)
    if (encoder == "robust" and not has_robust) or (encoder == "auto" and manifest.damage_head is None):
        raise EncoderMissingError(has_robust=has_robust)
    return encoder


async def infer_by_choice(
    image: PlannedImage | Violation,
    infer: _Infer[_Answer],
    embedding_of: Callable[[_Answer], npt.NDArray[np.float32] | None],
    *,
    head: DamageHead | None,
    call: Call,
    labels: int = 0,
) -> tuple[ImageTurn, _Answer]:
    """Run an inference, and where the encoder is to be chosen and the image looks damaged, the robust one after it.

    Args:
        image: as planned.
        infer: holds a slot around one inference.
        embedding_of: returns the embedding [D] of its answer.
        head: judges it.
        call: whose work grows by the second inference.
        labels: how many the image is compared with.

    Returns:
        The last turn, with the time of both, and its answer.
    """
    held, answer = await infer(image)
    if held.image.encoder != "auto" or head is None:
        return held, answer
    embedding = embedding_of(answer)
    if embedding is None or not head.is_damaged(embedding):
        return held, answer
    robust = replace(held.image, encoder="robust")
    call.ledger.units += robust.units(labels=labels)
    first = held.turn.timing
    held, answer = await infer(robust)
    held.turn.timing.queue_ms += first.queue_ms
    held.turn.timing.inference_ms += first.inference_ms
    return held, answer
