"""One image's turn in Triton: a slot, the deadline, the clock, and what goes wrong with this image alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clipsr.v1 import types_pb2
from clipsr_gateway._backend.protocol import Encoder, Route
from clipsr_gateway._calls.call import Call, Turn
from clipsr_gateway._images.plan import PlannedImage
from clipsr_gateway.errors import BackendFaultError, ImageRejectedError, InvalidRequestError, Violation

ROUTE_NUMBERS: dict[Route, types_pb2.Route] = {
    "upscaled": types_pb2.ROUTE_UPSCALED,
    "native": types_pb2.ROUTE_NATIVE,
}
ENCODER_NUMBERS: dict[Encoder, types_pb2.Encoder] = {
    "plain": types_pb2.ENCODER_PLAIN,
    "robust": types_pb2.ENCODER_ROBUST,
}

IMAGE_ERRORS = (InvalidRequestError, BackendFaultError)
"""What `image_turn` raises of one image alone; the other images of the call are not affected."""


@dataclass(frozen=True, kw_only=True)
class ImageTurn:
    """An image in Triton.

    Attributes:
        image: as planned.
        turn: its slot.
    """

    image: PlannedImage
    turn: Turn


@asynccontextmanager
async def image_turn(image: PlannedImage | Violation, call: Call, *, labels: int = 0) -> AsyncGenerator[ImageTurn]:
    """Hold a slot around one inference about an image.

    Args:
        image: as planned; a refused one costs nothing.
        call: whose turn it takes.
        labels: how many the image is compared with.

    Raises:
        InvalidRequestError, BackendFaultError: of this image alone.
        BackendUnavailableError, DeadlineExceededError: fails the whole call.
    """
    if isinstance(image, Violation):
        raise InvalidRequestError([image])
    try:
        async with call.infer_in_turn(image.units(labels=labels), nouns="images") as turn:
            yield ImageTurn(image=image, turn=turn)
    except ImageRejectedError as error:
        violation = Violation(field=image.field, reason=error.reason, message=error.message)
        raise InvalidRequestError([violation]) from error


def size_message(size_hw: tuple[int, int]) -> types_pb2.Size:
    """Return rows and columns as the message."""
    return types_pb2.Size(height=size_hw[0], width=size_hw[1])
