"""RestorerService: decodes an image, restores it through the backend, and encodes the result."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt

from clipsr.v1 import restorer_pb2, restorer_pb2_grpc, types_pb2
from clipsr_gateway._admission.controller import upscale_units
from clipsr_gateway._admission.hold import Hold, hold_until_done
from clipsr_gateway._backend.core import Core
from clipsr_gateway._backend.protocol import Damage
from clipsr_gateway._calls.call import Call, current_call
from clipsr_gateway._images.damage import describe_damage
from clipsr_gateway._images.decode import Picture
from clipsr_gateway._images.embed import embed_image
from clipsr_gateway._images.output import CONTENT_FIELD, as_rgb, decode_for, encode_within, grey_of, refuse
from clipsr_gateway._images.plan import PlannedImage, plan_image
from clipsr_gateway._images.render import Clock, render_picture
from clipsr_gateway._images.turn import size_message
from clipsr_gateway._manifest import ServedRestorer
from clipsr_gateway._offload import run_in_own_thread
from clipsr_gateway._restorer.kinds import context_of, is_clean, make_context
from clipsr_gateway._restorer.plan import RestorePlan, plan_restore
from clipsr_gateway.errors import DeadlineExceededError, ImageRejectedError, RestorerMissingError, Violation

# Calls that hold decoded pixels at once.
_CALLS_AT_ONCE = 4

# Speeds that are remembered. The highest counts: a busy moment must not refuse what takes less time later.
_SPEEDS = 32


class RestorerService(restorer_pb2_grpc.RestorerServiceServicer):
    """Implements clipsr.v1.RestorerService over an inference backend."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kinds = core.manifest.degradation_kinds
        self._room = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._pixel_steps_per_s: deque[float] = deque(maxlen=_SPEEDS)

    async def Restore(  # noqa: N802 - the name in the proto
        self, request: restorer_pb2.RestoreRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> restorer_pb2.RestoreResponse:
        """Restore one image; see restorer.proto."""
        call, restorer, limits = current_call(), self._core.manifest.restorer, self._core.limits
        if restorer is None:
            raise RestorerMissingError
        manifest = self._core.manifest
        plan = await asyncio.to_thread(plan_restore, request, limits=limits, restorer=restorer, manifest=manifest)
        self._check_deadline(plan, call)
        image = await self._plan_detection(request.image.content)
        call.admit(items=1, units=_total_units(plan, image))
        call.fields |= {"input_hw": plan.size_hw, "steps": plan.steps, "removed": plan.removed}
        try:
            found = None if image is None else await embed_image(image, fit="", core=self._core, call=call)
            damage = None if found is None else found.damage
            async with hold_until_done(self._room) as room:
                if damage is not None and is_clean(damage, self._kinds) and not plan.is_forced:
                    response = await self._leave(request.image.content, plan, call, room)
                else:
                    told = _make_context(plan, damage, self._kinds, restorer)
                    response = await self._restore(request.image.content, plan, told, call, room)
        except ImageRejectedError as error:
            raise refuse(CONTENT_FIELD, error.reason, error.message) from error
        response.detected.extend(describe_damage(damage, self._kinds))
        if found is not None:
            _add(response.timing, found.timing)
        return response

    async def _plan_detection(self, content: bytes) -> PlannedImage | Violation | None:
        """Plan the embedding that says what is wrong with an image, on the route that it has when it is classified."""
        if not self._kinds:
            return None
        return await plan_image(content, field=CONTENT_FIELD, forced=None, core=self._core, encoder="robust")

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

    async def _leave(self, content: bytes, plan: RestorePlan, call: Call, room: Hold) -> restorer_pb2.RestoreResponse:
        """Return an image as it is, upscaled where that is asked for."""
        call.ledger.done(plan.units)
        if plan.is_jpeg:  # written again, it would lose
            return self._response(content, plan, types_pb2.Timing(), steps=0, is_unchanged=True)
        picture = await _decode(content, plan, call, room)
        written, timing = await self._write(picture, plan, call, room)
        return self._response(written, plan, timing, steps=0, is_unchanged=True)

    async def _restore(
        self, content: bytes, plan: RestorePlan, told: npt.NDArray[np.float32], call: Call, room: Hold
    ) -> restorer_pb2.RestoreResponse:
        picture = await _decode(content, plan, call, room)
        restored, timing = await self._restore_picture(picture, plan, told, call)
        is_unchanged = np.array_equal(restored.color, picture.color)
        written, upscaling = await self._write(restored, plan, call, room)
        _add(timing, upscaling)
        return self._response(written, plan, timing, steps=plan.steps, is_unchanged=is_unchanged)

    async def _restore_picture(
        self, picture: Picture, plan: RestorePlan, told: npt.NDArray[np.float32], call: Call
    ) -> tuple[Picture, types_pb2.Timing]:
        """Restore the colours; transparency is no damage and stays as it is."""
        async with call.infer_in_turn(plan.units, nouns="images") as turn:
            began_s = time.perf_counter()
            # Not through `turn.infer`: the sampler stops when it is cancelled, so the slot is free at once.
            pixels = await self._core.backend.restore(
                np.ascontiguousarray(as_rgb(picture.color)),
                told,
                steps=plan.steps,
                seed=plan.seed,
                request_id=call.request_id,
                timeout_s=call.time_remaining_s(),
            )
            self._pixel_steps_per_s.append(_pixel_steps(plan) / max(1e-6, time.perf_counter() - began_s))
        return replace(picture, color=grey_of(pixels) if picture.is_grey else pixels), turn.timing

    async def _write(
        self, picture: Picture, plan: RestorePlan, call: Call, room: Hold
    ) -> tuple[bytes, types_pb2.Timing]:
        """Upscale where that is asked for, and return the file."""
        timing = types_pb2.Timing()
        if plan.upscaler is not None:
            clock = Clock()
            picture = await render_picture(
                picture, plan.target_hw, plan.upscaler, core=self._core, call=call, clock=clock
            )
            timing = clock.timing()
        with call.stage("encode"):
            return await room.finish(run_in_own_thread(self._encode, picture, plan)), timing

    def _encode(self, picture: Picture, plan: RestorePlan) -> bytes:
        most = self._core.limits.max_message_bytes
        return encode_within(picture, plan.output, max_message_bytes=most, advice="Restore parts of it")

    def _response(
        self, content: bytes, plan: RestorePlan, timing: types_pb2.Timing, *, steps: int, is_unchanged: bool
    ) -> restorer_pb2.RestoreResponse:
        return restorer_pb2.RestoreResponse(
            content=content,
            format=plan.format_number,
            size=size_message(plan.size_hw),
            output_size=size_message(plan.target_hw),
            removed=plan.removed if steps else (),
            steps=steps,
            unchanged=is_unchanged,
            timing=timing,
            model_digest=self._core.manifest.digest,
        )


async def _decode(content: bytes, plan: RestorePlan, call: Call, room: Hold) -> Picture:
    with call.stage("decode"):
        return await room.finish(run_in_own_thread(decode_for, content, plan.output))


def _make_context(
    plan: RestorePlan, damage: Damage | None, kinds: Sequence[str], restorer: ServedRestorer
) -> npt.NDArray[np.float32]:
    """Return what the network is told of the damage: what the caller names, else what was detected."""
    if plan.removed or damage is None:
        return make_context(plan.removed, restorer.words)
    return context_of(damage, kinds, restorer.words)


def _add(timing: types_pb2.Timing, more: types_pb2.Timing) -> None:
    timing.queue_ms += more.queue_ms
    timing.inference_ms += more.inference_ms


def _total_units(plan: RestorePlan, image: PlannedImage | Violation | None) -> float:
    units = plan.units + (image.units() if isinstance(image, PlannedImage) else 0)
    return units + (upscale_units(pixels=0, target_hw=plan.target_hw) if plan.upscaler else 0)


def _pixel_steps(plan: RestorePlan) -> int:
    return plan.steps * plan.size_hw[0] * plan.size_hw[1]
