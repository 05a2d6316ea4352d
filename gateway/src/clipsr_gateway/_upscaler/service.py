"""UpscalerService: decodes an image, renders it in tiles through the backend, and encodes the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt

from clipsr.v1 import types_pb2, upscaler_pb2, upscaler_pb2_grpc
from clipsr_gateway._admission.controller import upscale_units
from clipsr_gateway._admission.hold import hold_until_done
from clipsr_gateway._backend.core import Core
from clipsr_gateway._calls.call import Call, current_call, gather_or_cancel
from clipsr_gateway._images.decode import Picture
from clipsr_gateway._images.output import CONTENT_FIELD, as_rgb, decode_for, encode_within, grey_of, refuse
from clipsr_gateway._images.turn import size_message
from clipsr_gateway._offload import run_in_own_thread
from clipsr_gateway._upscaler.plan import UpscalePlan, plan_upscale
from clipsr_gateway._upscaler.tiles import Tile, TilePlan, plan_tiles
from clipsr_gateway.errors import BackendFaultError, ImageRejectedError

MAX_REQUEST_PIXELS = 32 * 128 * 128
"""Canvas pixels in one request to the backend: what a full batch of the largest canvas has when images are classified,
which the models' warm-up proves to fit."""

# One group of tiles computes while the next one travels; more would only push other callers back.
_REQUESTS_IN_FLIGHT = 2

# Calls that hold decoded pixels at once; the largest output takes 64 MiB, and as much again while it is encoded.
_CALLS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A plane or three that go through the model together.

    Attributes:
        source: UINT8 [3, H, W]; a single plane stands three times.
        target: UINT8 [C, rows, columns] that the tiles are written into; C is 1 for a single plane.
    """

    source: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]


class _Clock:
    """Tells waiting for a slot from computing, in seconds."""

    def __init__(self) -> None:
        self._waiting_since_s = time.perf_counter()
        self._queued_s = 0.0
        self._first_sent_s: float | None = None
        self._last_answered_s = 0.0

    def wait(self) -> None:
        """Begin to wait again."""
        self._waiting_since_s = time.perf_counter()

    def proceed(self) -> None:
        """End waiting."""
        self._queued_s += time.perf_counter() - self._waiting_since_s

    def send(self) -> None:
        """Tiles are sent; of the first ones' waiting this is the end."""
        if self._first_sent_s is None:
            self._first_sent_s = time.perf_counter()
            self.proceed()

    def receive(self) -> None:
        """Tiles came back."""
        self._last_answered_s = time.perf_counter()

    def timing(self) -> types_pb2.Timing:
        """Return what a response says."""
        inference_s = self._last_answered_s - (self._first_sent_s or self._last_answered_s)
        return types_pb2.Timing(queue_ms=self._queued_s * 1000, inference_ms=inference_s * 1000)


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
        clock = _Clock()
        try:
            async with hold_until_done(self._room) as room:
                clock.proceed()
                with call.stage("decode"):
                    picture = await room.finish(run_in_own_thread(decode_for, request.image.content, plan.output))
                call.fields["input_hw"], call.fields["output_hw"] = picture.size_hw, plan.target_hw
                rendered = await self._render(picture, plan, call, clock)
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

    async def _render(self, picture: Picture, plan: UpscalePlan, call: Call, clock: _Clock) -> Picture:
        """Render all planes of a picture."""
        target_hw, model = plan.target_hw, plan.model
        tiles = plan_tiles(
            picture.size_hw,
            target_hw,
            tile_px=self._core.manifest.image_size_px,
            halo_px=model.receptive_field_px,
        )
        _check_window(tiles)
        color = _Layer(source=as_rgb(picture.color), target=_blank(picture.color, target_hw))
        layers, alpha = [color], None
        if picture.alpha is not None:
            alpha = _blank(picture.alpha, target_hw)
            if picture.alpha.min() == picture.alpha.max():
                alpha[...] = picture.alpha[0, 0, 0]  # a constant needs no model, which might be off by a level
            else:
                layers.append(_Layer(source=as_rgb(picture.alpha), target=alpha))
        call.fields["tiles"] = len(layers) * len(tiles)
        most = min(
            await self._core.backend.max_tiles(model.name, timeout_s=call.time_remaining_s()),
            max(1, MAX_REQUEST_PIXELS // tiles.window_pixels),
        )
        groups = _group([(layer, tile) for layer in layers for tile in tiles], most)

        clock.wait()

        async def work() -> None:
            for group in groups:  # shared: each worker takes the next one
                await self._render_group(model.name, group, tiles, call, clock)

        await gather_or_cancel(work() for _ in range(_REQUESTS_IN_FLIGHT))
        return replace(picture, color=color.target, alpha=alpha)

    async def _render_group(
        self, model_name: str, group: Sequence[tuple[_Layer, Tile]], tiles: TilePlan, call: Call, clock: _Clock
    ) -> None:
        units = len(group) * upscale_units(pixels=0, target_hw=(tiles.tile_px, tiles.tile_px))
        async with call.acquire_slot(units, nouns="tiles") as turn:
            clock.send()
            with call.inference(units):
                request = self._core.backend.upscale(
                    model_name,
                    np.stack([tiles.window(layer.source, tile) for layer, tile in group]),
                    np.array([tiles.box(tile) for _, tile in group], dtype=np.float32),
                    request_id=call.request_id,
                    timeout_s=turn.timeout_s,
                )
                pixels = await turn.infer(request)
            clock.receive()
        expected = (len(group), 3, tiles.tile_px, tiles.tile_px)
        if pixels.shape != expected:
            raise BackendFaultError(f"tiles of shape {expected} were expected, {pixels.shape} came")
        for (layer, tile), rendered in zip(group, pixels, strict=True):
            tiles.paste(layer.target, tile, rendered if len(layer.target) == 3 else grey_of(rendered))


def _check_window(tiles: TilePlan) -> None:
    """Refuse what would need more memory than classification ever does.

    Raises:
        InvalidRequestError: IMAGE_TOO_MANY_PIXELS.
    """
    if tiles.window_pixels > MAX_REQUEST_PIXELS:
        message = (
            f"This model must see {tiles.window_pixels:,} pixels of the image at once, more than the "
            f"{MAX_REQUEST_PIXELS:,} that fit; reduce the image, ask for a larger scale, or export the model again."
        )
        raise refuse(CONTENT_FIELD, "IMAGE_TOO_MANY_PIXELS", message)


def _group(items: Sequence[tuple[_Layer, Tile]], size: int) -> Iterator[Sequence[tuple[_Layer, Tile]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _blank(planes: npt.NDArray[np.uint8], target_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.empty((len(planes), *target_hw), dtype=np.uint8)
