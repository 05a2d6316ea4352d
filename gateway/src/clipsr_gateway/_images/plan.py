"""Plans images before any is computed: what can be refused by a header is refused, and each image gets its route."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipsr.v1 import classifier_pb2, embedding_pb2, library_pb2, types_pb2
from clipsr_gateway._admission.controller import image_units
from clipsr_gateway._backend.core import Core
from clipsr_gateway._backend.protocol import Encoder, Fit, Route
from clipsr_gateway._images.decode import decode_on_white
from clipsr_gateway._images.header import check_image
from clipsr_gateway._limits import Limits
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway.errors import ImageRejectedError, InvalidRequestError, Violation

# Opening an image file and reading its header: about as long as parsing so many bytes.
_OPENING_BYTES = 16 * 1024

_ImageOptions = (
    classifier_pb2.ClassifyOptions
    | embedding_pb2.EmbedImagesRequest
    | library_pb2.AddImagesOptions
    | library_pb2.SearchByImageRequest
)

FITS: dict[int, Fit] = {
    types_pb2.FIT_UNSPECIFIED: "",
    types_pb2.FIT_CENTER_CROP: "center_crop",
    types_pb2.FIT_SQUASH: "squash",
}
ROUTES: dict[int, Route | None] = {
    types_pb2.ROUTE_UNSPECIFIED: None,
    types_pb2.ROUTE_UPSCALED: "upscaled",
    types_pb2.ROUTE_NATIVE: "native",
}
# What an encoder takes, in passes of the plain one: the controller is a copy of it, and there are its connections. 2.48
# times the processor time for the bundled model in onnxruntime.
_ENCODER_PASSES: dict[Encoder, float] = {"plain": 1, "robust": 2.5}


@dataclass(frozen=True, kw_only=True)
class PlannedImage:
    """An image that passed all checks that need no decoding.

    Attributes:
        field: path of its bytes in the request.
        content: the file.
        media_type: of the file, such as "image/jpeg".
        size_hw: rows and columns after EXIF orientation.
        work_pixels: that decoding goes over, all passes counted.
        route: the ensemble to run.
        encoder: the image encoder in it.
    """

    field: str
    content: bytes
    media_type: str
    size_hw: tuple[int, int]
    work_pixels: int
    route: Route
    encoder: Encoder

    def units(self, *, labels: int = 0) -> float:
        """Return what one inference about it costs, as admission control counts."""
        return image_units(pixels=self.work_pixels, labels=labels, encoder_passes=_ENCODER_PASSES[self.encoder])


def parse_image_options(request: _ImageOptions, *, path: str) -> tuple[Fit, Route | None]:
    """Return the fit, and the route that the caller forces, of the images of a request.

    Raises:
        InvalidRequestError: with one violation for every wrong field.
    """
    if violations := list(option_violations(request, path)):
        raise InvalidRequestError(violations)
    return FITS[request.fit], ROUTES[request.route]


async def plan_images(
    images: Sequence[types_pb2.Image], *, forced: Route | None, core: Core, encoder: Encoder = "plain"
) -> tuple[PlannedImage | Violation, ...]:
    """Check the images of a request by their headers and decide their routes; a Violation stands for a refused one."""

    def plan() -> tuple[PlannedImage | Violation, ...]:
        return tuple(
            _plan_image(image.content, f"images[{index}].content", forced, core, encoder)
            for index, image in enumerate(images)
        )

    return await run_off_loop(sum(len(image.content) + _OPENING_BYTES for image in images), plan)


async def plan_image(
    content: bytes, *, field: str, forced: Route | None, core: Core, encoder: Encoder = "plain"
) -> PlannedImage | Violation:
    """Check one image by its header and decide its route."""
    return await run_off_loop(len(content), _plan_image, content, field, forced, core, encoder)


def _plan_image(
    content: bytes, field: str, forced: Route | None, core: Core, encoder: Encoder
) -> PlannedImage | Violation:
    try:
        header = check_image(content, limits=core.limits)
    except ImageRejectedError as error:
        return Violation(field=field, reason=error.reason, message=error.message)
    return PlannedImage(
        field=field,
        content=content,
        media_type=header.media_type,
        size_hw=header.size_hw,
        work_pixels=header.work_pixels,
        route=forced or _choose_route(content, header.size_hw, core),
        encoder=encoder,
    )


def _choose_route(content: bytes, size_hw: tuple[int, int], core: Core) -> Route:
    try:
        return core.manifest.routes.choose(content, size_hw, lambda: decode_on_white(content))
    except ImageRejectedError:
        return "native"  # either route says what is wrong with the pixels


def total_units(images: Sequence[PlannedImage | Violation], *, labels: int = 0) -> float:
    """Return what inference about all images that are not refused costs, as admission control counts."""
    return sum(image.units(labels=labels) for image in images if isinstance(image, PlannedImage))


def count_violations(images: Sequence[types_pb2.Image], limits: Limits) -> list[Violation]:
    """Find out whether there are no images, or too many."""
    if not images:
        message = "There are no images; send at least one."
        return [Violation(field="images", reason="IMAGES_EMPTY", message=message)]
    if len(images) > limits.max_images:
        message = f"{len(images):,} images are too many; send at most {limits.max_images:,} in one request."
        return [Violation(field="images", reason="TOO_MANY_IMAGES", message=message)]
    return []


def option_violations(request: _ImageOptions, path: str) -> Iterator[Violation]:
    """Find a fit or a route that is unknown."""
    if request.fit not in FITS:
        message = f"Fit {request.fit} is unknown; use FIT_CENTER_CROP or FIT_SQUASH."
        yield Violation(field=f"{path}fit", reason="FIT_UNKNOWN", message=message)
    if request.route not in ROUTES:
        message = f"Route {request.route} is unknown; use ROUTE_UPSCALED or ROUTE_NATIVE, or leave it unspecified."
        yield Violation(field=f"{path}route", reason="ROUTE_UNKNOWN", message=message)
