"""What an UpscaleRequest asks for: everything that the header of the image can refuse is refused here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from clipsr.v1 import types_pb2, upscaler_pb2
from clipsr_gateway._images.encode import OUTPUT_FORMATS, OutputFormat
from clipsr_gateway._images.header import check_image
from clipsr_gateway._images.output import CONTENT_FIELD, check_sides, format_violation, refuse
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import UpscaleModel
from clipsr_gateway.errors import ImageRejectedError, InvalidRequestError, Violation


@dataclass(frozen=True, kw_only=True)
class UpscalePlan:
    """A checked request.

    Attributes:
        format_number: what is written, as the wire calls it; never unspecified.
        output: the same, as the encoder knows it.
        source_hw: rows and columns of the image by its header, after EXIF orientation.
        work_pixels: that decoding goes over, all passes counted.
        target_hw: rows and columns of the output.
        model: what renders it.
    """

    format_number: upscaler_pb2.ImageFormat
    output: OutputFormat
    source_hw: tuple[int, int]
    work_pixels: int
    target_hw: tuple[int, int]
    model: UpscaleModel


def plan_upscale(
    request: upscaler_pb2.UpscaleRequest, *, limits: Limits, models: Mapping[types_pb2.UpscaleRecipe, UpscaleModel]
) -> UpscalePlan:
    """Check a request without decoding its image.

    Args:
        request: as it came.
        limits: what it may hold.
        models: what is served, by the recipe's number.

    Raises:
        InvalidRequestError: with one violation for every wrong field.
    """
    violations: list[Violation] = []
    output = OUTPUT_FORMATS.get(request.format)
    if output is None:
        violations.append(format_violation(request.format))
    model = models.get(request.recipe or types_pb2.UPSCALE_RECIPE_CLEAN)
    if model is None:
        violations.append(_recipe_violation(request.recipe, models))
    target = request.WhichOneof("target")
    if target is None:
        message = "Nothing says how large the output is; set scale or size."
        violations.append(Violation(field="scale", reason="TARGET_MISSING", message=message))
    header, target_hw = None, (0, 0)
    try:
        header = check_image(request.image.content, limits=limits)
        if target is not None:
            target_hw = _resolve_target(request, header.size_hw, limits=limits)
    except ImageRejectedError as error:
        violations.append(Violation(field=CONTENT_FIELD, reason=error.reason, message=error.message))
    except InvalidRequestError as error:
        violations += error.violations
    if output is None or model is None or header is None or violations:
        raise InvalidRequestError(violations)
    check_sides(target_hw, output)
    number = request.format or upscaler_pb2.IMAGE_FORMAT_PNG
    return UpscalePlan(
        format_number=number,
        output=output,
        source_hw=header.size_hw,
        work_pixels=header.work_pixels,
        target_hw=target_hw,
        model=model,
    )


def _recipe_violation(number: int, models: Mapping[types_pb2.UpscaleRecipe, UpscaleModel]) -> Violation:
    names = {value: name for name, value in types_pb2.UpscaleRecipe.items()}
    published = ", ".join(names[each] for each in sorted(models))
    if number in names:
        message = f"{names[number]} is not published by this service; it has {published}."
        return Violation(field="recipe", reason="RECIPE_UNAVAILABLE", message=message)
    message = f"Recipe {number} is unknown; this service has {published}."
    return Violation(field="recipe", reason="RECIPE_UNKNOWN", message=message)


def _resolve_target(
    request: upscaler_pb2.UpscaleRequest, source_hw: tuple[int, int], *, limits: Limits
) -> tuple[int, int]:
    """Return rows and columns of the output for an image of `source_hw`.

    Raises:
        InvalidRequestError: SCALE_OUT_OF_RANGE, SIZE_TOO_SMALL or OUTPUT_TOO_LARGE.
    """
    field = request.WhichOneof("target") or "scale"
    if field == "scale":
        if not (math.isfinite(request.scale) and request.scale >= 1):
            raise refuse(field, "SCALE_OUT_OF_RANGE", f"Scale {request.scale:g} is not at least 1; give 2 or 3.5.")
        sides = [side * request.scale for side in source_hw]
    else:
        sides = [float(request.size.height), float(request.size.width)]
    height, width = sides
    if height < source_hw[0] or width < source_hw[1]:
        message = (
            f"An output of {width:g} x {height:g} pixels is smaller than the image ({source_hw[1]} x {source_hw[0]}); "
            "give at least the image's own width and height, as upscaling reduces neither."
        )
        raise refuse(field, "SIZE_TOO_SMALL", message)
    if height * width < 4 * limits.max_output_pixels:  # beyond, what follows might not even be a sensible integer
        rows, columns = (math.floor(side + 0.5) for side in sides)
        if rows * columns <= limits.max_output_pixels:
            return rows, columns
    message = (
        f"The output would have {width:,.6g} x {height:,.6g} pixels, more than the {limits.max_output_pixels:,} that "
        "GetModelInfo (`clipsr-client info`) gives as the limit; ask for a smaller scale or size."
    )
    raise refuse(field, "OUTPUT_TOO_LARGE", message)
