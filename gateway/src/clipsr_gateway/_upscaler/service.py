"""UpscalerService: decodes an image, renders it in tiles through the backend, and encodes the result."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from clipsr.v1 import upscaler_pb2, upscaler_pb2_grpc
from clipsr_gateway._admission.controller import upscale_units
from clipsr_gateway._admission.hold import hold_until_done
from clipsr_gateway._backend.core import Core
from clipsr_gateway._calls.call import current_call
from clipsr_gateway._images.decode import Picture
from clipsr_gateway._images.output import CONTENT_FIELD, decode_for, encode_within, refuse
from clipsr_gateway._images.render import Clock, render_picture
from clipsr_gateway._images.turn import size_message
from clipsr_gateway._offload import run_in_own_thread
from clipsr_gateway._upscaler.plan import UpscalePlan, plan_upscale
from clipsr_gateway.errors import ImageRejectedError

# Calls that hold decoded pixels at once; the largest output takes 64 MiB, and as much again while it is encoded.
_CALLS_AT_ONCE = 4


class UpscalerService(upscaler_pb2_grpc.UpscalerServiceServicer):
    """Implements clipsr.v1.UpscalerService over an inference backend."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._room = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def Upscale(  # noqa: N802 - the name in the proto
        self, request: upscaler_pb2.UpscaleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> upscaler_pb2.UpscaleResponse:
        """Upscale one image; see upscaler.proto."""
        call = current_call()
        models = self._core.manifest.upscale_models
        plan = await asyncio.to_thread(plan_upscale, request, limits=self._core.limits, models=models)
        call.admit(items=1, units=upscale_units(pixels=plan.work_pixels, target_hw=plan.target_hw))
        clock = Clock()
        try:
            async with hold_until_done(self._room) as room:
                clock.proceed()
                with call.stage("decode"):
                    picture = await room.finish(run_in_own_thread(decode_for, request.image.content, plan.output))
                call.fields["input_hw"], call.fields["output_hw"] = picture.size_hw, plan.target_hw
                rendered = await render_picture(
                    picture, plan.target_hw, plan.model, core=self._core, call=call, clock=clock
                )
                with call.stage("encode"):
                    content = await room.finish(run_in_own_thread(self._encode, rendered, plan))
        except ImageRejectedError as error:
            raise refuse(CONTENT_FIELD, error.reason, error.message) from error
        return upscaler_pb2.UpscaleResponse(
            content=content,
            format=plan.format_number,
            input_size=size_message(picture.size_hw),
            output_size=size_message(plan.target_hw),
            timing=clock.timing(),
            model_digest=self._core.manifest.digest,
        )

    def _encode(self, picture: Picture, plan: UpscalePlan) -> bytes:
        most = self._core.limits.max_message_bytes
        advice = "Ask for a smaller scale or size"
        return encode_within(picture, plan.output, max_message_bytes=most, advice=advice)
