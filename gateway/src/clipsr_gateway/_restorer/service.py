"""RestorerService: decodes an image, restores it through the backend, and encodes the result."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from typing import Any

import grpc.aio
import numpy as np

from clipsr.v1 import restorer_pb2, restorer_pb2_grpc, types_pb2
from clipsr_gateway._admission.controller import restore_units
from clipsr_gateway._admission.hold import hold_until_done
from clipsr_gateway._backend.core import Core
from clipsr_gateway._calls.call import Call, current_call
from clipsr_gateway._images.decode import Picture
from clipsr_gateway._images.output import CONTENT_FIELD, as_rgb, decode_for, encode_within, grey_of, refuse
from clipsr_gateway._images.turn import size_message
from clipsr_gateway._offload import run_in_own_thread
from clipsr_gateway._restorer.plan import RestorePlan, plan_restore
from clipsr_gateway.errors import DeadlineExceededError, ImageRejectedError, RestorerMissingError

# Calls that hold decoded pixels at once.
_CALLS_AT_ONCE = 4

# Speeds that are remembered. The highest counts: a busy moment must not refuse what takes less time later.
_SPEEDS = 32


class RestorerService(restorer_pb2_grpc.RestorerServiceServicer):
    """Implements clipsr.v1.RestorerService over an inference backend."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._room = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._pixel_steps_per_s: deque[float] = deque(maxlen=_SPEEDS)

    async def Restore(  # noqa: N802 - the name in the proto
        self, request: restorer_pb2.RestoreRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> restorer_pb2.RestoreResponse:
        """Restore one image; see restorer.proto."""
        call, restorer, limits = current_call(), self._core.manifest.restorer, self._core.limits
        if restorer is None:
            raise RestorerMissingError
        plan = await asyncio.to_thread(plan_restore, request, limits=limits, restorer=restorer)
        self._check_deadline(plan, call)
        call.admit(items=1, units=_units(plan))
        call.fields |= {"input_hw": plan.size_hw, "steps": plan.steps, "removed": plan.removed}
        try:
            async with hold_until_done(self._room) as room:
                with call.stage("decode"):
                    picture = await room.finish(run_in_own_thread(decode_for, request.image.content, plan.output))
                restored, timing = await self._restore(picture, plan, call)
                with call.stage("encode"):
                    content = await room.finish(run_in_own_thread(self._encode, restored, plan))
        except ImageRejectedError as error:
            raise refuse(CONTENT_FIELD, error.reason, error.message) from error
        return restorer_pb2.RestoreResponse(
            content=content,
            format=plan.format_number,
            size=size_message(picture.size_hw),
            removed=plan.removed,
            steps=plan.steps,
            unchanged=np.array_equal(restored.color, picture.color),
            timing=timing,
            model_digest=self._core.manifest.digest,
        )

    def _check_deadline(self, plan: RestorePlan, call: Call) -> None:
        """Refuse what an idle service could not do in time.

        Raises:
            DeadlineExceededError: saying how long it takes.
        """
        left_s = call.time_remaining_s()
        if left_s is None or not self._pixel_steps_per_s:
            return
        needed_s = _pixel_steps(plan) / max(self._pixel_steps_per_s)
        if needed_s > left_s:
            raise DeadlineExceededError(
                f"To restore {plan.size_hw[1]} x {plan.size_hw[0]} pixels in {plan.steps} steps takes this service "
                f"{needed_s:.1f} s, and the deadline is in {left_s:.1f} s; set a later one, or ask for fewer steps."
            )

    async def _restore(self, picture: Picture, plan: RestorePlan, call: Call) -> tuple[Picture, types_pb2.Timing]:
        """Restore the colours; transparency is no damage and stays as it is."""
        async with call.infer_in_turn(_units(plan), nouns="images") as turn:
            began_s = time.perf_counter()
            # Not through `turn.infer`: the sampler stops when it is cancelled, so the slot is free at once.
            pixels = await self._core.backend.restore(
                np.ascontiguousarray(as_rgb(picture.color)),
                plan.context,
                steps=plan.steps,
                seed=plan.seed,
                request_id=call.request_id,
                timeout_s=call.time_remaining_s(),
            )
            self._pixel_steps_per_s.append(_pixel_steps(plan) / max(1e-6, time.perf_counter() - began_s))
        return replace(picture, color=grey_of(pixels) if picture.is_grey else pixels), turn.timing

    def _encode(self, picture: Picture, plan: RestorePlan) -> bytes:
        most = self._core.limits.max_message_bytes
        return encode_within(picture, plan.output, max_message_bytes=most, advice="Restore parts of it")


def _units(plan: RestorePlan) -> float:
    return restore_units(pixels=plan.work_pixels, size_hw=plan.size_hw, steps=plan.steps)


def _pixel_steps(plan: RestorePlan) -> int:
    return plan.steps * plan.size_hw[0] * plan.size_hw[1]
