"""UpscaleRequest and UpscaleResponse, to and from values; nothing here reads files or talks to anyone."""

from __future__ import annotations

from typing import get_args

from clipsr._codecs.arguments import as_count, as_number, invalid, show
from clipsr._codecs.classify import MAX_MESSAGE_BYTES, RECIPES, unreadable
from clipsr._types import UpscaledImage, UpscaleFormat, UpscaleRecipe
from clipsr.v1 import types_pb2, upscaler_pb2

_FORMATS: dict[str, upscaler_pb2.ImageFormat] = {
    "png": upscaler_pb2.IMAGE_FORMAT_PNG,
    "jpeg": upscaler_pb2.IMAGE_FORMAT_JPEG,
    "webp": upscaler_pb2.IMAGE_FORMAT_WEBP,
    "tiff": upscaler_pb2.IMAGE_FORMAT_TIFF,
    "bmp": upscaler_pb2.IMAGE_FORMAT_BMP,
}
_FORMAT_NAMES: dict[int, UpscaleFormat] = {
    _FORMATS[name]: name
    for name in get_args(UpscaleFormat)  # a format that is declared and not listed above fails at import
}
_RECIPES = {name: number for number, name in RECIPES.items()}


def encode_upscale(
    content: bytes,
    *,
    scale: float | None,
    size_hw: tuple[int, int] | None,
    output_format: UpscaleFormat,
    recipe: UpscaleRecipe,
) -> upscaler_pb2.UpscaleRequest:
    """Return the request for one image.

    Raises:
        InvalidRequestError: there is not exactly one of scale and size_hw, one of them is outside of its range, the
            format or the recipe is not known, or the image is larger than any request. Everything else is the
            service's to judge.
    """
    if output_format not in _FORMATS:
        choices = ", ".join(map(repr, _FORMATS))
        sentence = f"Format {show(output_format)} is not known; use one of {choices}."
        raise invalid("format", sentence, reason="FORMAT_UNKNOWN")
    if recipe not in _RECIPES:
        choices = ", ".join(map(repr, _RECIPES))
        raise invalid("recipe", f"Recipe {show(recipe)} is not known; use one of {choices}.", reason="RECIPE_UNKNOWN")
    if (scale is None) == (size_hw is None):
        sentence = "Give either scale or size_hw: how large shall the output be?"
        raise invalid("scale", sentence, reason="TARGET_MISSING")
    request = upscaler_pb2.UpscaleRequest(
        image=types_pb2.Image(content=content), format=_FORMATS[output_format], recipe=_RECIPES[recipe]
    )
    if size_hw is not None:
        request.size.CopyFrom(_encode_size(size_hw))
    elif scale is not None:
        request.scale = as_number("scale", scale, least=1, reason="SCALE_OUT_OF_RANGE")
    if request.ByteSize() > MAX_MESSAGE_BYTES:
        sentence = f"The file has {len(content):,} bytes; a request holds {MAX_MESSAGE_BYTES:,}. Make it smaller."
        raise invalid("image.content", sentence, reason="IMAGE_TOO_LARGE")
    return request


def _encode_size(size_hw: tuple[int, int]) -> types_pb2.Size:
    advice = "give the output's rows and columns, above 0"
    try:
        height, width = size_hw
    except (TypeError, ValueError):
        raise TypeError(f"size_hw is {show(size_hw)}; {advice}") from None
    sides = {
        name: as_count("size_hw", side, least=1, advice=advice, reason="SIZE_TOO_SMALL")
        for name, side in (("height", height), ("width", width))
    }
    return types_pb2.Size(**sides)


def decode_upscaled(response: upscaler_pb2.UpscaleResponse) -> UpscaledImage:
    """Return the upscaled image.

    Raises:
        ServiceError: the answer has a format that this version does not know.
    """
    name = _FORMAT_NAMES.get(response.format)
    if name is None:
        raise unreadable(f"format {response.format}")
    return UpscaledImage(
        content=response.content,
        format=name,
        input_hw=(response.input_size.height, response.input_size.width),
        output_hw=(response.output_size.height, response.output_size.width),
        queue_ms=response.timing.queue_ms,
        inference_ms=response.timing.inference_ms,
        model_digest=response.model_digest,
    )
