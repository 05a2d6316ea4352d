"""How large an upscaled picture becomes."""

from __future__ import annotations

import math

from clipsr_gateway._images.output import refuse
from clipsr_gateway._limits import Limits


def scale_size(source_hw: tuple[int, int], scale: float, *, field: str, limits: Limits) -> tuple[int, int]:
    """Return rows and columns of a picture of `source_hw`, multiplied and rounded to the nearest pixel.

    Args:
        source_hw: rows and columns of the picture.
        scale: as asked for.
        field: path of the scale in the request.
        limits: how large an output may be.

    Raises:
        InvalidRequestError: SCALE_OUT_OF_RANGE or OUTPUT_TOO_LARGE.
    """
    if not (math.isfinite(scale) and scale >= 1):
        raise refuse(field, "SCALE_OUT_OF_RANGE", f"Scale {scale:g} is not at least 1; give 2 or 3.5.")
    height, width = (side * scale for side in source_hw)
    return check_size(height, width, source_hw, field=field, limits=limits)


def check_size(
    height: float, width: float, source_hw: tuple[int, int], *, field: str, limits: Limits
) -> tuple[int, int]:
    """Return rows and columns of the output, each rounded to the nearest pixel, halves upwards.

    Raises:
        InvalidRequestError: SIZE_TOO_SMALL or OUTPUT_TOO_LARGE.
    """
    if height < source_hw[0] or width < source_hw[1]:
        message = (
            f"An output of {width:g} x {height:g} pixels is smaller than the image ({source_hw[1]} x {source_hw[0]}); "
            "give at least the image's own width and height, as upscaling reduces neither."
        )
        raise refuse(field, "SIZE_TOO_SMALL", message)
    if height * width < 4 * limits.max_output_pixels:  # beyond, what follows might not even be a sensible integer
        rows, columns = (math.floor(side + 0.5) for side in (height, width))
        if rows * columns <= limits.max_output_pixels:
            return rows, columns
    message = (
        f"The output would have {width:,.6g} x {height:,.6g} pixels, more than the {limits.max_output_pixels:,} that "
        "GetModelInfo (`clipsr-client info`) gives as the limit; ask for a smaller scale or size."
    )
    raise refuse(field, "OUTPUT_TOO_LARGE", message)
