"""What a RestoreRequest asks for: everything that the header of the image can refuse is refused here."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr.v1 import restorer_pb2, types_pb2, upscaler_pb2
from clipsr_gateway._admission.controller import restore_units
from clipsr_gateway._images.encode import OUTPUT_FORMATS, OutputFormat
from clipsr_gateway._images.header import check_image
from clipsr_gateway._images.output import CONTENT_FIELD, check_sides, format_violation
from clipsr_gateway._images.target import scale_size
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import CLEAN, Manifest, ServedRestorer, UpscaleModel
from clipsr_gateway._restorer.kinds import match_kinds
from clipsr_gateway.errors import ImageRejectedError, InvalidRequestError, Violation


@dataclass(frozen=True, kw_only=True)
class RestorePlan:
    """A checked request.

    Attributes:
        format_number: what is written, as the wire calls it; never unspecified.
        output: the same, as the encoder knows it.
        size_hw: rows and columns of the image by its header, after EXIF orientation.
        target_hw: rows and columns of the output.
        upscaler: what renders them; None where they are those of the image.
        work_pixels: that decoding goes over, all passes counted.
        removed: kinds of damage that the caller names, by their published names.
        steps: evaluations of the network for each pixel.
        seed: of the noise.
        is_forced: whether an image that is judged clean is restored as well.
        is_jpeg: whether the image is a JPEG, and the same is asked for at the same size.
    """

    format_number: upscaler_pb2.ImageFormat
    output: OutputFormat
    size_hw: tuple[int, int]
    target_hw: tuple[int, int]
    upscaler: UpscaleModel | None
    work_pixels: int
    removed: tuple[str, ...]
    steps: int
    seed: int
    is_forced: bool
    is_jpeg: bool

    @property
    def units(self) -> float:
        """What restoring, without upscaling, costs, as admission control counts."""
        return restore_units(pixels=self.work_pixels, size_hw=self.size_hw, steps=self.steps)


def plan_restore(
    request: restorer_pb2.RestoreRequest, *, limits: Limits, restorer: ServedRestorer, manifest: Manifest
) -> RestorePlan:
    """Check a request without decoding its image.

    Args:
        request: as it came.
        limits: what it may hold.
        restorer: what restores.
        manifest: what else is served.

    Raises:
        InvalidRequestError: with one violation for every wrong field.
    """
    removed, violations = match_kinds(request.remove, restorer.words)
    if not (request.remove or request.force or manifest.degradation_kinds):
        violations.append(_nothing_to_remove(restorer))
    if request.steps > restorer.max_steps:
        message = f"{request.steps:,} steps are more than the {restorer.max_steps} that this service takes."
        violations.append(Violation(field="steps", reason="STEPS_OUT_OF_RANGE", message=message))
    upscaler = manifest.upscale_models.get(types_pb2.UPSCALE_RECIPE_CLEAN)
    if request.upscale and upscaler is None:
        message = "This service upscales no restored pictures: its model was exported without the recipe clean."
        violations.append(Violation(field="upscale", reason="RECIPE_UNAVAILABLE", message=message))
    output = OUTPUT_FORMATS.get(request.format)
    if output is None:
        violations.append(format_violation(request.format))
    header, target_hw = None, (0, 0)
    try:
        header = check_image(request.image.content, limits=limits)
        if header.size_hw[0] * header.size_hw[1] > limits.max_restore_pixels:
            violations.append(_too_large(header.size_hw, limits))
        target_hw = header.size_hw
        if request.upscale:
            target_hw = scale_size(header.size_hw, request.upscale, field="upscale", limits=limits)
    except ImageRejectedError as error:
        violations.append(Violation(field=CONTENT_FIELD, reason=error.reason, message=error.message))
    except InvalidRequestError as error:
        violations += error.violations
    if output is None or header is None or violations:
        raise InvalidRequestError(violations)
    check_sides(target_hw, output)
    number = request.format or upscaler_pb2.IMAGE_FORMAT_PNG
    is_jpeg = number == upscaler_pb2.IMAGE_FORMAT_JPEG and header.media_type == "image/jpeg"
    return RestorePlan(
        format_number=number,
        output=output,
        size_hw=header.size_hw,
        target_hw=target_hw,
        upscaler=upscaler if target_hw != header.size_hw else None,
        work_pixels=header.work_pixels,
        removed=removed,
        steps=request.steps or restorer.default_steps,
        seed=request.seed,
        is_forced=request.force,
        is_jpeg=is_jpeg and target_hw == header.size_hw,
    )


def _nothing_to_remove(restorer: ServedRestorer) -> Violation:
    names = ", ".join(kind for kind in restorer.words if kind != CLEAN)
    message = (
        f"Nothing says what to remove; give one or more of {names}. This service does not detect damage (that takes "
        "a controller: clipsr-export --controller): with force it restores whatever it may be."
    )
    return Violation(field="remove", reason="REMOVE_MISSING", message=message)


def _too_large(size_hw: tuple[int, int], limits: Limits) -> Violation:
    message = (
        f"The image has {size_hw[0] * size_hw[1]:,} pixels; at most {limits.max_restore_pixels:,} are restored. Reduce "
        "it, or restore parts of it."
    )
    return Violation(field=CONTENT_FIELD, reason="IMAGE_TOO_MANY_PIXELS", message=message)
