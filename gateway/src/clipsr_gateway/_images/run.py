"""One image through the backend: a place, the deadline, the clock, and what goes wrong with this image alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file

from clipsr.v1 import types_pb2
from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._backend.protocol import Route
from clipsr_gateway._calls import status
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.plan import PlannedImage
from clipsr_gateway._logs import log_event
from clipsr_gateway.errors import BackendFaultError, DeadlineExceededError, ImageRejectedError, Violation

_T = TypeVar("_T")

ROUTE_NUMBERS: dict[Route, types_pb2.Route] = {
    "upscaled": types_pb2.ROUTE_UPSCALED,
    "native": types_pb2.ROUTE_NATIVE,
}


@dataclass(frozen=True, kw_only=True)
class ImageResult(Generic[_T]):
    """What the backend said.

    Attributes:
        image: the image that was asked about.
        answer: the backend's.
        timing: waiting and computing.
    """

    image: PlannedImage
    answer: _T
    timing: types_pb2.Timing


async def infer_image(
    image: PlannedImage | Violation,
    ask: Callable[[PlannedImage, float | None], Awaitable[_T]],
    *,
    slots: FairSlots,
    call: Call,
    labels: int = 0,
) -> ImageResult[_T] | status_pb2.Status:
    """Ask the backend about an image once there is a place.

    Args:
        image: as planned; a refused one costs nothing.
        ask: sends the image, given the seconds left; raises BackendFaultError for an answer that makes no sense.
        slots: places in the backend.
        call: whose turn it takes.
        labels: how many the image is compared with.

    Returns:
        The answer, or the status of this image alone.

    Raises:
        BackendUnavailableError, DeadlineExceededError: the other images of the call would fare no better.
    """
    if isinstance(image, Violation):
        return status.invalid_argument([image])
    queued_s = time.perf_counter()
    try:
        units = image.units(labels=labels)
        async with call.acquire_slot(slots, units):
            if call.is_past_deadline():
                raise DeadlineExceededError("The deadline passed before all images were sent to Triton.")
            sent_s = time.perf_counter()
            with call.inference(units):
                answer = await ask(image, call.time_remaining_s())
            answered_s = time.perf_counter()
    except ImageRejectedError as error:
        return status.invalid_argument([Violation(field=image.field, reason=error.reason, message=error.message)])
    except BackendFaultError as error:
        fields = {"request_id": call.request_id, "image": image.number, "cause": str(error)}
        log_event("backend_fault", fields, level=logging.ERROR)
        return status.internal(call.request_id)
    timing = types_pb2.Timing(queue_ms=(sent_s - queued_s) * 1000, inference_ms=(answered_s - sent_s) * 1000)
    return ImageResult(image=image, answer=answer, timing=timing)


def size_message(size_hw: tuple[int, int]) -> types_pb2.Size:
    """Return rows and columns as the message."""
    return types_pb2.Size(height=size_hw[0], width=size_hw[1])
