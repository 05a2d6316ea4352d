"""UpscaleRequest and UpscaleResponse, to and from values; nothing here reads files or talks to anyone."""

from __future__ import annotations

from clipsr._codecs.arguments import as_count, as_number, invalid, show
from clipsr._codecs.formats import check_message_size, decode_format, encode_format
from clipsr._codecs.model_info import RECIPES
from clipsr._picture_types import UpscaledImage, UpscaleFormat
from clipsr._types import UpscaleRecipe
from clipsr.v1 import types_pb2, upscaler_pb2

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
    number = encode_format(output_format)
    if recipe not in _RECIPES:
        choices = ", ".join(map(repr, _RECIPES))
        raise invalid("recipe", f"Recipe {show(recipe)} is not known; use one of {choices}.", reason="RECIPE_UNKNOWN")
    if (scale is None) == (size_hw is None):
        sentence = "Give either scale or size_hw: how large shall the output be?"
        raise invalid("scale", sentence, reason="TARGET_MISSING")
    request = upscaler_pb2.UpscaleRequest(
        image=types_pb2.Image(content=content), format=number, recipe=_RECIPES[recipe]
    )
    if size_hw is not None:
        request.size.CopyFrom(_encode_size(size_hw))
    elif scale is not None:
        request.scale = as_number("scale", scale, least=1, reason="SCALE_OUT_OF_RANGE")
    check_message_size(request, content)
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
    return UpscaledImage(
        content=response.content,
        format=decode_format(response.format),
        input_hw=(response.input_size.height, response.input_size.width),
        output_hw=(response.output_size.height, response.output_size.width),
        queue_ms=response.timing.queue_ms,
        inference_ms=response.timing.inference_ms,
        model_digest=response.model_digest,
    )
