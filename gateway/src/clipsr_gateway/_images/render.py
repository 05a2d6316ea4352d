"""Renders a decoded picture at a larger size, in tiles through the backend."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipsr.v1 import types_pb2
from clipsr_gateway._admission.controller import upscale_units
from clipsr_gateway._backend.core import Core
from clipsr_gateway._calls.call import Call, gather_or_cancel
from clipsr_gateway._images.decode import Picture
from clipsr_gateway._images.output import CONTENT_FIELD, as_rgb, grey_of, refuse
from clipsr_gateway._images.tiles import Tile, TilePlan, plan_tiles
from clipsr_gateway._manifest import UpscaleModel
from clipsr_gateway.errors import BackendFaultError

MAX_REQUEST_PIXELS = 32 * 128 * 128
"""Canvas pixels in one request to the backend: what a full batch of the largest canvas has when images are classified,
which the models' warm-up proves to fit."""

# One group of tiles computes while the next one travels; more would only push other callers back.
_REQUESTS_IN_FLIGHT = 2


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A plane or three that go through the model together.

    Attributes:
        source: UINT8 [3, H, W]; a single plane stands three times.
        target: UINT8 [C, rows, columns] that the tiles are written into; C is 1 for a single plane.
    """

    source: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]


class Clock:
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


async def render_picture(
    picture: Picture, target_hw: tuple[int, int], model: UpscaleModel, *, core: Core, call: Call, clock: Clock
) -> Picture:
    """Render all planes of a picture at a larger size.

    Args:
        picture: decoded.
        target_hw: rows and columns of the output, at least those of the picture.
        model: what renders it.
        core: what is served.
        call: whose turns it takes.
        clock: measures it.

    Raises:
        InvalidRequestError: the model must see more pixels at once than fit.
        BackendError, DeadlineExceededError: as InferenceBackend.upscale.
    """
    tiles = plan_tiles(
        picture.size_hw,
        target_hw,
        tile_px=core.manifest.image_size_px,
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
        await core.backend.max_tiles(model.name, timeout_s=call.time_remaining_s()),
        max(1, MAX_REQUEST_PIXELS // tiles.window_pixels),
    )
    groups = _group([(layer, tile) for layer in layers for tile in tiles], most)

    clock.wait()

    async def work() -> None:
        for group in groups:  # shared: each worker takes the next one
            await _render_group(model.name, group, tiles, core, call, clock)

    await gather_or_cancel(work() for _ in range(_REQUESTS_IN_FLIGHT))
    return replace(picture, color=color.target, alpha=alpha)


async def _render_group(
    model_name: str, group: Sequence[tuple[_Layer, Tile]], tiles: TilePlan, core: Core, call: Call, clock: Clock
) -> None:
    units = len(group) * upscale_units(pixels=0, target_hw=(tiles.tile_px, tiles.tile_px))
    async with call.acquire_slot(units, nouns="tiles") as turn:
        clock.send()
        with call.inference(units):
            request = core.backend.upscale(
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
