"""Turns requests about images into work: what can be refused is refused here, before any image is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipsr.v1 import classifier_pb2, embedding_pb2, library_pb2, types_pb2
from clipsr_gateway._admission import image_units
from clipsr_gateway._labels import LabelQuery, resolve_label_space
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._probe import check_image
from clipsr_gateway._response_size import check_classify_response, check_embedding_response
from clipsr_gateway.backend import Fit, Route
from clipsr_gateway.errors import ImageRejectedError, InvalidRequestError, Violation

__all__ = [
    "EmbedPlan",
    "NoneRule",
    "PlannedImage",
    "Question",
    "plan_embed_images",
    "plan_image",
    "plan_images",
    "plan_options",
    "plan_question",
    "planning_bytes",
    "total_units",
]

# Opening an image file and reading its header: about as long as parsing so many bytes.
_OPENING_BYTES = 16 * 1024

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


@dataclass(frozen=True, kw_only=True)
class PlannedImage:
    """An image that passed all checks that need no decoding.

    Attributes:
        number: its place in the request, or the caller's number in a stream; for logs.
        field: path of its bytes in the request.
        content: the file.
        media_type: of the file, such as "image/jpeg".
        size_hw: rows and columns after EXIF orientation.
        route: the ensemble to run.
    """

    number: int
    field: str
    content: bytes
    media_type: str
    size_hw: tuple[int, int]
    route: Route

    def units(self, *, labels: int = 0) -> float:
        """Returns what it costs to ask about it, as admission counts."""
        return image_units(pixels=self.size_hw[0] * self.size_hw[1], labels=labels)


@dataclass(frozen=True, kw_only=True)
class NoneRule:
    """When an image shows none of the labels.

    Attributes:
        min_cosine: least cosine of the best label; None if it does not count.
        min_probability: least probability of the best label; None if it does not count.
    """

    min_cosine: float | None
    min_probability: float | None

    def applies(self, *, cosine: float, probability: float) -> bool:
        """Says whether the best label stays below a threshold."""
        is_far = self.min_cosine is not None and cosine < self.min_cosine
        return is_far or (self.min_probability is not None and probability < self.min_probability)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about every image of a Classify or ClassifyStream call.

    Attributes:
        query: labels and templates.
        fit: how images that are not square are fitted; empty for the checkpoint's own way.
        route: the route that the caller forces, or None.
        top_k: predictions to return for an image, between 1 and the number of labels.
        none_rule: when an image shows none of the labels; None: never.
        wants_embedding: whether the image's embedding is returned.
        wants_encoder_input: whether what the encoder saw is returned.
    """

    query: LabelQuery
    fit: Fit
    route: Route | None
    top_k: int
    none_rule: NoneRule | None
    wants_embedding: bool
    wants_encoder_input: bool


@dataclass(frozen=True, kw_only=True)
class EmbedPlan:
    """A checked EmbedImagesRequest.

    Attributes:
        fit: as in Question.
        images: in the order of the request; a Violation stands for an image that is refused.
    """

    fit: Fit
    images: tuple[PlannedImage | Violation, ...]


def plan_question(
    request: classifier_pb2.ClassifyRequest | classifier_pb2.ClassifyStreamConfig,
    *,
    manifest: Manifest,
    limits: Limits,
    known: LabelQuery | None = None,
) -> Question:
    """Checks everything of a request but its images.

    Takes milliseconds for thousands of labels that are not known, so call it outside of the event loop then.

    Args:
        request: what is asked.
        manifest: what is served.
        limits: what a request may hold.
        known: what its label space was resolved to before.

    Raises:
        InvalidRequestError: the request as a whole is refused, with one violation for every wrong field.
    """
    is_stream = isinstance(request, classifier_pb2.ClassifyStreamConfig)
    path = "config." if is_stream else ""
    violations = [] if is_stream else _count_violations(request.images, limits)
    violations += [*_option_violations(request, path), *_none_violations(request, path)]
    query = known or LabelQuery(labels=(), templates=())
    try:
        if known is None:
            label_path = f"{path}label_space"
            query = resolve_label_space(request.label_space, path=label_path, manifest=manifest, limits=limits)
    except InvalidRequestError as error:
        violations += error.violations
    if violations:
        raise InvalidRequestError(violations)
    question = Question(
        query=query,
        fit=_FITS[request.fit],
        route=_ROUTES[request.route],
        top_k=min(request.top_k or len(query.labels), len(query.labels)),
        none_rule=_none_rule(request.none_of_these) if request.HasField("none_of_these") else None,
        wants_embedding=request.return_embedding,
        wants_encoder_input=request.return_encoder_input,
    )
    check_classify_response(
        label_bytes=query.label_bytes,
        top_k=question.top_k,
        embed_dim=manifest.embed_dim if question.wants_embedding else 0,
        encoder_side_px=manifest.image_size_px if question.wants_encoder_input else 0,
        image_count=1 if is_stream else len(request.images),
        field=f"{path}top_k",
        limits=limits,
    )
    return question


def plan_options(
    request: library_pb2.AddImagesConfig | library_pb2.SearchByImageRequest, *, path: str
) -> tuple[Fit, Route | None]:
    """Returns the fit, and the route that the caller forces, of images that a request is about.

    Raises:
        InvalidRequestError: as `plan_question`.
    """
    if violations := list(_option_violations(request, path)):
        raise InvalidRequestError(violations)
    return _FITS[request.fit], _ROUTES[request.route]


def plan_embed_images(request: embedding_pb2.EmbedImagesRequest, *, manifest: Manifest, limits: Limits) -> EmbedPlan:
    """Checks a request and decides the route of every image; call it outside of the event loop.

    Raises:
        InvalidRequestError: as `plan_question`.
    """
    violations = [*_count_violations(request.images, limits), *_option_violations(request, "")]
    if violations:
        raise InvalidRequestError(violations)
    check_embedding_response(count=len(request.images), embed_dim=manifest.embed_dim, field="images", limits=limits)
    forced = _ROUTES[request.route]
    return EmbedPlan(
        fit=_FITS[request.fit], images=plan_images(request.images, forced=forced, manifest=manifest, limits=limits)
    )


def planning_bytes(images: Sequence[types_pb2.Image]) -> int:
    """Returns how much there is to look at, for `run_off_loop`: bytes of files, and what opening each is worth."""
    return sum(len(image.content) + _OPENING_BYTES for image in images)


def plan_images(
    images: Sequence[types_pb2.Image], *, forced: Route | None, manifest: Manifest, limits: Limits
) -> tuple[PlannedImage | Violation, ...]:
    """Checks the images of a request by their headers; takes milliseconds for hundreds."""
    return tuple(
        plan_image(
            image.content,
            number=index,
            field=f"images[{index}].content",
            forced=forced,
            manifest=manifest,
            limits=limits,
        )
        for index, image in enumerate(images)
    )


def plan_image(
    content: bytes, *, number: int, field: str, forced: Route | None, manifest: Manifest, limits: Limits
) -> PlannedImage | Violation:
    """Checks one image by its header and decides its route."""
    try:
        header = check_image(content, limits=limits)
    except ImageRejectedError as error:
        return Violation(field=field, reason=error.reason, sentence=error.sentence)
    is_native = min(header.size_hw) >= manifest.native_min_side_px
    route: Route = forced or ("native" if is_native else "upscaled")
    return PlannedImage(
        number=number,
        field=field,
        content=content,
        media_type=header.media_type,
        size_hw=header.size_hw,
        route=route,
    )


def _count_violations(images: Sequence[types_pb2.Image], limits: Limits) -> list[Violation]:
    if not images:
        sentence = "There are no images; send at least one."
        return [Violation(field="images", reason="IMAGES_EMPTY", sentence=sentence)]
    if len(images) > limits.max_images:
        sentence = f"{len(images):,} images are too many; send at most {limits.max_images:,} in one request."
        return [Violation(field="images", reason="TOO_MANY_IMAGES", sentence=sentence)]
    return []


def _option_violations(
    request: classifier_pb2.ClassifyRequest
    | classifier_pb2.ClassifyStreamConfig
    | embedding_pb2.EmbedImagesRequest
    | library_pb2.AddImagesConfig
    | library_pb2.SearchByImageRequest,
    path: str,
) -> Iterator[Violation]:
    if request.fit not in _FITS:
        sentence = f"Fit {request.fit} is unknown; use FIT_CENTER_CROP or FIT_SQUASH."
        yield Violation(field=f"{path}fit", reason="FIT_UNKNOWN", sentence=sentence)
    if request.route not in _ROUTES:
        sentence = f"Route {request.route} is unknown; use ROUTE_UPSCALED or ROUTE_NATIVE, or leave it unspecified."
        yield Violation(field=f"{path}route", reason="ROUTE_UNKNOWN", sentence=sentence)


def _none_violations(
    request: classifier_pb2.ClassifyRequest | classifier_pb2.ClassifyStreamConfig, path: str
) -> Iterator[Violation]:
    if not request.HasField("none_of_these"):
        return
    rule, field = _none_rule(request.none_of_these), f"{path}none_of_these"
    if rule.min_cosine is None and rule.min_probability is None:
        sentence = "none_of_these has no threshold; set min_cosine or min_probability, or leave none_of_these out."
        yield Violation(field=field, reason="THRESHOLD_MISSING", sentence=sentence)
    for name, value, least in (("min_cosine", rule.min_cosine, -1), ("min_probability", rule.min_probability, 0)):
        if value is not None and not least <= value <= 1:  # nor is NaN
            sentence = f"{name} is {'not a number' if math.isnan(value) else f'{value:g}'}; it lies in [{least}, 1]."
            yield Violation(field=f"{field}.{name}", reason="THRESHOLD_OUT_OF_RANGE", sentence=sentence)


def _none_rule(message: classifier_pb2.NoneOfThese) -> NoneRule:
    return NoneRule(
        min_cosine=message.min_cosine if message.HasField("min_cosine") else None,
        min_probability=message.min_probability if message.HasField("min_probability") else None,
    )


def total_units(images: Sequence[PlannedImage | Violation], *, labels: int = 0) -> float:
    """Returns what it costs to ask about all images that are not refused, as admission counts."""
    return sum(image.units(labels=labels) for image in images if isinstance(image, PlannedImage))
