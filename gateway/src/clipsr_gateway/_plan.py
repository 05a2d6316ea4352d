"""Turns a ClassifyRequest into work: everything that can be refused is refused here, before any image is computed."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway._labels import LabelQuery, resolve_label_space
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._probe import check_image
from clipsr_gateway.backend import Fit, Route
from clipsr_gateway.errors import ImageRejectedError, InvalidRequestError, Violation

__all__ = ["ClassifyPlan", "PlannedImage", "content_field", "plan_classify"]

_FITS: dict[int, Fit] = {
    types_pb2.FIT_UNSPECIFIED: "",
    types_pb2.FIT_CENTER_CROP: "center_crop",
    types_pb2.FIT_SQUASH: "squash",
}
_ROUTES: dict[int, Route | None] = {
    types_pb2.ROUTE_UNSPECIFIED: None,
    types_pb2.ROUTE_UPSCALED: "upscaled",
    types_pb2.ROUTE_NATIVE: "native",
}

# Upper bounds of what the wire format adds: to one Prediction (two tags and lengths, two floats) and to one
# ClassifyResult (tags and lengths, size, route, timing, a digest of 71 characters).
_PREDICTION_OVERHEAD_BYTES = 20
_RESULT_OVERHEAD_BYTES = 160


@dataclass(frozen=True, kw_only=True)
class PlannedImage:
    """An image that passed all checks that need no decoding.

    Attributes:
        index: position in the request.
        content: the file.
        size_hw: rows and columns after EXIF orientation.
        route: the ensemble to run.
    """

    index: int
    content: bytes
    size_hw: tuple[int, int]
    route: Route


@dataclass(frozen=True, kw_only=True)
class ClassifyPlan:
    """A checked request.

    Attributes:
        query: labels and templates.
        fit: how images that are not square are fitted; empty for the checkpoint's own way.
        top_k: predictions to return for an image, between 1 and the number of labels.
        images: in the order of the request; a Violation stands for an image that is refused.
    """

    query: LabelQuery
    fit: Fit
    top_k: int
    images: tuple[PlannedImage | Violation, ...]


def plan_classify(request: classifier_pb2.ClassifyRequest, *, manifest: Manifest, limits: Limits) -> ClassifyPlan:
    """Checks a request and decides the route of every image.

    Takes milliseconds for thousands of labels or hundreds of images, so call it outside of the event loop.

    Raises:
        InvalidRequestError: the request as a whole is refused, with one violation for every wrong field.
    """
    violations = _option_violations(request, limits)
    query = LabelQuery(labels=(), templates=())
    try:
        query = resolve_label_space(request.label_space, manifest=manifest, limits=limits)
    except InvalidRequestError as error:
        violations += error.violations
    if violations:
        raise InvalidRequestError(violations)
    top_k = min(request.top_k or len(query.labels), len(query.labels))
    _check_response_size(query, top_k, len(request.images), limits)
    forced = _ROUTES[request.route]
    return ClassifyPlan(
        query=query,
        fit=_FITS[request.fit],
        top_k=top_k,
        images=tuple(
            _plan_image(index, image.content, forced, manifest, limits) for index, image in enumerate(request.images)
        ),
    )


def content_field(index: int) -> str:
    """Returns the path of an image's bytes in the request."""
    return f"images[{index}].content"


def _option_violations(request: classifier_pb2.ClassifyRequest, limits: Limits) -> list[Violation]:
    violations: list[Violation] = []
    if not request.images:
        sentence = "There are no images; send at least one."
        violations.append(Violation(field="images", reason="IMAGES_EMPTY", sentence=sentence))
    elif len(request.images) > limits.max_images:
        sentence = f"{len(request.images):,} images are too many; send at most {limits.max_images:,} in one request."
        violations.append(Violation(field="images", reason="TOO_MANY_IMAGES", sentence=sentence))
    if request.fit not in _FITS:
        sentence = f"Fit {request.fit} is unknown; use FIT_CENTER_CROP or FIT_SQUASH."
        violations.append(Violation(field="fit", reason="FIT_UNKNOWN", sentence=sentence))
    if request.route not in _ROUTES:
        sentence = f"Route {request.route} is unknown; use ROUTE_UPSCALED or ROUTE_NATIVE, or leave it unspecified."
        violations.append(Violation(field="route", reason="ROUTE_UNKNOWN", sentence=sentence))
    return violations


def _check_response_size(query: LabelQuery, top_k: int, image_count: int, limits: Limits) -> None:
    """Refuses what could not be answered: found out after computing, it would be a bare RESOURCE_EXHAUSTED.

    Raises:
        InvalidRequestError: the answer, with the longest labels first, would not fit one message.
    """
    sizes = sorted((len(label.encode()) for label in query.labels), reverse=True)[:top_k]
    response_bytes = image_count * (_RESULT_OVERHEAD_BYTES + sum(sizes) + top_k * _PREDICTION_OVERHEAD_BYTES)
    if response_bytes > limits.max_message_bytes:
        sentence = (
            f"{top_k:,} predictions for each of {image_count:,} images could take {response_bytes:,} bytes; a message "
            f"holds {limits.max_message_bytes:,}. Set a smaller top_k or send fewer images."
        )
        raise InvalidRequestError([Violation(field="top_k", reason="RESPONSE_TOO_LARGE", sentence=sentence)])


def _plan_image(
    index: int, content: bytes, forced: Route | None, manifest: Manifest, limits: Limits
) -> PlannedImage | Violation:
    try:
        header = check_image(content, limits=limits)
    except ImageRejectedError as error:
        return Violation(field=content_field(index), reason=error.reason, sentence=error.sentence)
    is_native = min(header.size_hw) >= manifest.native_min_side_px
    route: Route = forced or ("native" if is_native else "upscaled")
    return PlannedImage(index=index, content=content, size_hw=header.size_hw, route=route)
