"""What a RestoreRequest asks for: everything that the header of the image can refuse is refused here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsr.v1 import restorer_pb2, upscaler_pb2
from clipsr_gateway._images.encode import OUTPUT_FORMATS, OutputFormat
from clipsr_gateway._images.header import check_image
from clipsr_gateway._images.output import CONTENT_FIELD, check_sides, format_violation
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import CLEAN, ServedRestorer
from clipsr_gateway._restorer.kinds import make_context, match_kinds
from clipsr_gateway.errors import ImageRejectedError, InvalidRequestError, Violation


@dataclass(frozen=True, kw_only=True)
class RestorePlan:
    """A checked request.

    Attributes:
        format_number: what is written, as the wire calls it; never unspecified.
        output: the same, as the encoder knows it.
        size_hw: rows and columns of the image by its header, after EXIF orientation.
        work_pixels: that decoding goes over, all passes counted.
        removed: kinds of damage, by their published names.
        context: [K] what the network is told of them.
        steps: evaluations of the network for each pixel.
        seed: of the noise.
    """

    format_number: upscaler_pb2.ImageFormat
    output: OutputFormat
    size_hw: tuple[int, int]
    work_pixels: int
    removed: tuple[str, ...]
    context: npt.NDArray[np.float32]
    steps: int
    seed: int


def plan_restore(request: restorer_pb2.RestoreRequest, *, limits: Limits, restorer: ServedRestorer) -> RestorePlan:
    """Check a request without decoding its image.

    Raises:
        InvalidRequestError: with one violation for every wrong field.
    """
    removed, violations = match_kinds(request.remove, restorer.words)
    if not request.remove and not request.force:
        violations.append(_nothing_to_remove(restorer))
    if request.steps > restorer.max_steps:
        message = f"{request.steps:,} steps are more than the {restorer.max_steps} that this service takes."
        violations.append(Violation(field="steps", reason="STEPS_OUT_OF_RANGE", message=message))
    output = OUTPUT_FORMATS.get(request.format)
    if output is None:
        violations.append(format_violation(request.format))
    header = None
    try:
        header = check_image(request.image.content, limits=limits)
        if header.size_hw[0] * header.size_hw[1] > limits.max_restore_pixels:
            violations.append(_too_large(header.size_hw, limits))
    except ImageRejectedError as error:
        violations.append(Violation(field=CONTENT_FIELD, reason=error.reason, message=error.message))
    if output is None or header is None or violations:
        raise InvalidRequestError(violations)
    check_sides(header.size_hw, output)
    return RestorePlan(
        format_number=request.format or upscaler_pb2.IMAGE_FORMAT_PNG,
        output=output,
        size_hw=header.size_hw,
        work_pixels=header.work_pixels,
        removed=removed,
        context=make_context(removed, restorer.words),
        steps=request.steps or restorer.default_steps,
        seed=request.seed,
    )


def _nothing_to_remove(restorer: ServedRestorer) -> Violation:
    names = ", ".join(kind for kind in restorer.words if kind != CLEAN)
    message = (
        f"Nothing says what to remove; give one or more of {names}. This service does not detect damage: with force "
        "it restores whatever it may be."
    )
    return Violation(field="remove", reason="REMOVE_MISSING", message=message)


def _too_large(size_hw: tuple[int, int], limits: Limits) -> Violation:
    message = (
        f"The image has {size_hw[0] * size_hw[1]:,} pixels; at most {limits.max_restore_pixels:,} are restored. Reduce "
        "it, or restore parts of it."
    )
    return Violation(field=CONTENT_FIELD, reason="IMAGE_TOO_MANY_PIXELS", message=message)
