"""Values to messages and back; nothing here reads files or talks to anyone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar, get_args

from google.rpc import code_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file

from clipsr._codecs.arguments import as_count, as_flag, as_number, as_text, as_texts, invalid, show
from clipsr._codecs.status_details import parse_details
from clipsr._errors import ServiceError
from clipsr._types import (
    AnswerWarning,
    Classification,
    ClassifyOptions,
    Degradation,
    Encoder,
    EncoderTaken,
    FailedImage,
    Fit,
    Prediction,
    Route,
    RouteTaken,
)
from clipsr.v1 import classifier_pb2, embedding_pb2, types_pb2

MAX_IMAGES = 256
"""Images of one message; the service's Limits.max_images."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Bytes of one message; the service's Limits.max_message_bytes."""

_Query = TypeVar("_Query", classifier_pb2.ClassifyRequest, embedding_pb2.EmbedImagesRequest)

_FITS: dict[str, types_pb2.Fit] = {
    "auto": types_pb2.FIT_UNSPECIFIED,
    "center_crop": types_pb2.FIT_CENTER_CROP,
    "squash": types_pb2.FIT_SQUASH,
}
_ROUTES: dict[str, types_pb2.Route] = {
    "auto": types_pb2.ROUTE_UNSPECIFIED,
    "upscaled": types_pb2.ROUTE_UPSCALED,
    "native": types_pb2.ROUTE_NATIVE,
}
_ENCODERS: dict[str, types_pb2.Encoder] = {
    # Unspecified is the same, and what a service without any other knows.
    "plain": types_pb2.ENCODER_UNSPECIFIED,
    "robust": types_pb2.ENCODER_ROBUST,
    "auto": types_pb2.ENCODER_AUTO,
}
# A service without any other says none.
_ENCODERS_TAKEN: dict[int, EncoderTaken] = {
    types_pb2.ENCODER_UNSPECIFIED: "plain",
    types_pb2.ENCODER_PLAIN: "plain",
    types_pb2.ENCODER_ROBUST: "robust",
}
ROUTES_TAKEN: dict[int, RouteTaken] = {types_pb2.ROUTE_UPSCALED: "upscaled", types_pb2.ROUTE_NATIVE: "native"}


def encode_given_options(given: ClassifyOptions | None, keywords: ClassifyOptions) -> classifier_pb2.ClassifyOptions:
    """Return the options of a call, given as one value or by keywords.

    Raises:
        InvalidRequestError: as encode_options().
        TypeError: both are given, or it is another value.
    """
    if given is None:
        return encode_options(keywords)
    if not isinstance(given, ClassifyOptions):  # pyright: ignore[reportUnnecessaryIsInstance] - by callers without types
        raise TypeError(f"options is {show(given)}; give ClassifyOptions(…)")
    if keywords != ClassifyOptions():
        raise TypeError("options and single options are given at once; change them by dataclasses.replace(options, …)")
    return encode_options(given)


def encode_options(options: ClassifyOptions) -> classifier_pb2.ClassifyOptions:
    """Return what is asked about every image.

    Raises:
        InvalidRequestError: an option is outside of its range, or a text cannot be written as UTF-8. Everything else
            is the service's to judge.
        TypeError: labels or templates are no sequence of strings, or an option is of another kind.
    """
    label_space = types_pb2.LabelSpace(
        labels=as_texts("labels", options.labels),
        label_set=as_text("label_set", options.label_set),
        templates=as_texts("templates", options.templates),
    )
    none_of_these = None
    is_calibrated = as_flag("none_of_these", options.none_of_these)
    if is_calibrated or options.min_cosine is not None or options.min_probability is not None:
        none_of_these = classifier_pb2.NoneOfThese(
            min_cosine=encode_min_cosine(options.min_cosine),
            min_probability=None
            if options.min_probability is None
            else as_number("min_probability", options.min_probability, least=0, most=1),
            calibrated=is_calibrated,
        )
    return classifier_pb2.ClassifyOptions(
        label_space=label_space,
        fit=encode_fit(options.fit),
        route=encode_route(options.route),
        encoder=encode_encoder(options.encoder),
        top_k=as_count("top_k", options.top_k, advice="use 0 for all labels, or the number of the best ones"),
        none_of_these=none_of_these,
        return_embedding=as_flag("return_embedding", options.return_embedding),
        return_encoder_input=as_flag("return_encoder_input", options.return_encoder_input),
    )


def encode_min_cosine(min_cosine: float | None) -> float | None:
    """Return a threshold on the cosine; raise InvalidRequestError for one that no cosine can reach or miss."""
    return None if min_cosine is None else as_number("min_cosine", min_cosine, least=-1, most=1)


def encode_fit(fit: Fit) -> types_pb2.Fit:
    """Return the wire's word; raise InvalidRequestError for one that is not known."""
    if fit not in _FITS:
        raise invalid("fit", f"Fit {show(fit)} is not known; use one of {_choices(Fit)}.", reason="FIT_UNKNOWN")
    return _FITS[fit]


def encode_route(route: Route) -> types_pb2.Route:
    """Return the wire's word; raise InvalidRequestError for one that is not known."""
    if route not in _ROUTES:
        raise invalid("route", f"Route {show(route)} is not known; use one of {_choices(Route)}.")
    return _ROUTES[route]


def encode_encoder(encoder: Encoder) -> types_pb2.Encoder:
    """Return the wire's word; raise InvalidRequestError for one that is not known."""
    if encoder not in _ENCODERS:
        raise invalid("encoder", f"Encoder {show(encoder)} is not known; use one of {_choices(Encoder)}.")
    return _ENCODERS[encoder]


def decode_route(route: int) -> RouteTaken:
    """Return the route taken; raise ServiceError for one that this version does not know."""
    name = ROUTES_TAKEN.get(route)
    if name is None:
        raise unreadable(f"route {route}")
    return name


def decode_encoder(encoder: int) -> EncoderTaken:
    """Return what embedded an image; raise ServiceError for an encoder that this version does not know."""
    name = _ENCODERS_TAKEN.get(encoder)
    if name is None:
        raise unreadable(f"encoder {encoder}")
    return name


def decode_degradations(degradations: Iterable[types_pb2.Degradation]) -> tuple[Degradation, ...]:
    """Return what may be wrong with an image."""
    return tuple(Degradation(kind=each.kind, cosine=each.cosine, probability=each.probability) for each in degradations)


def split(
    contents: Iterable[bytes | FailedImage],
    query: _Query,
    *,
    max_images: int = MAX_IMAGES,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> Iterator[_Query | FailedImage]:
    """Divide images among as few requests as their order allows; reads `contents` no further than it must.

    Args:
        contents: image files, or why one cannot be sent.
        query: a request that lacks nothing but its images.
        max_images: images in one request.
        max_message_bytes: bytes of one request.

    Yields:
        Requests in the order of the images, and in its place a FailedImage for each image that cannot be sent, or is
        too large for any request.

    Raises:
        InvalidRequestError: labels and templates alone fill a request.
    """
    query_bytes = query.ByteSize()
    if query_bytes >= max_message_bytes:
        sentence = f"Labels and templates take {query_bytes} bytes of {max_message_bytes}; send fewer or shorter ones."
        raise invalid("label_space", sentence)
    request, size_bytes = _copy(query), query_bytes
    for content in contents:
        content_bytes = 0 if isinstance(content, FailedImage) else message_bytes(len(content))
        if not isinstance(content, FailedImage) and query_bytes + content_bytes > max_message_bytes:
            content = too_large(len(content), max_message_bytes)
        is_full = len(request.images) == max_images or size_bytes + content_bytes > max_message_bytes
        if request.images and (is_full or isinstance(content, FailedImage)):
            yield request
            request, size_bytes = _copy(query), query_bytes
        if isinstance(content, FailedImage):
            yield content
        else:
            request.images.add(content=content)
            size_bytes += content_bytes
    if request.images:
        yield request


def decode_results(
    response: classifier_pb2.ClassifyResponse, *, image_count: int
) -> list[Classification | FailedImage]:
    """Return one outcome an image, in their order.

    Raises:
        ServiceError: the answer does not fit the request, or says something that this version does not know.
    """
    if len(response.results) != image_count:
        raise unreadable(f"{len(response.results)} results for {image_count} images")
    warnings = decode_warnings(response.warnings)
    return [decode_result(result, warnings=warnings) for result in response.results]


def decode_warnings(warnings: Iterable[types_pb2.Warning]) -> tuple[AnswerWarning, ...]:
    """Return what is doubtful about a request."""
    return tuple(AnswerWarning(reason=each.reason, message=each.message, field=each.field) for each in warnings)


def decode_result(
    result: classifier_pb2.ClassifyResult, *, warnings: tuple[AnswerWarning, ...]
) -> Classification | FailedImage:
    """Return the outcome for one image.

    Args:
        result: of the image.
        warnings: of its request.

    Raises:
        ServiceError: it says something that this version does not know.
    """
    outcome = result.WhichOneof("outcome")
    if outcome == "error":
        return decode_failure(result.error)
    if outcome is None:
        raise unreadable("a result without outcome")
    found = result.classification
    return Classification(
        predictions=tuple(
            Prediction(label=prediction.label, cosine=prediction.cosine, probability=prediction.probability)
            for prediction in found.predictions
        ),
        input_hw=(found.input_size.height, found.input_size.width),
        route=decode_route(found.route),
        queue_ms=found.timing.queue_ms,
        inference_ms=found.timing.inference_ms,
        model_digest=found.model_digest,
        none_of_these=found.none_of_these,
        none_probability=found.none_probability if found.HasField("none_probability") else None,
        embedding=tuple(found.embedding) or None,
        encoder_input=found.encoder_input or None,
        warnings=warnings,
        encoder=decode_encoder(found.encoder),
        degradations=decode_degradations(found.degradations),
    )


def decode_failure(status: status_pb2.Status) -> FailedImage:
    """Return why one image failed; a code from the future is named by its number."""
    known = status.code in code_pb2.Code.values()
    code = code_pb2.Code.Name(status.code) if known else f"CODE_{status.code}"
    return FailedImage(code=code, reason=parse_details(status).reason, message=status.message)


def _copy(query: _Query) -> _Query:
    request = type(query)()
    request.CopyFrom(query)
    return request


def message_bytes(content_bytes: int) -> int:
    """Return what an image adds to a request: itself, and a tag and a length for each of the two messages around it.

    Source: the encoding of length-delimited fields in the Protocol Buffers documentation; an empty field is not sent.
    """
    inner = 1 + _varint_bytes(content_bytes) + content_bytes if content_bytes else 0
    return 1 + _varint_bytes(inner) + inner


def _varint_bytes(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def too_large(content_bytes: int, max_message_bytes: int) -> FailedImage:
    """Return the failure of an image that fits no request."""
    return FailedImage(
        code="INVALID_ARGUMENT",
        reason="IMAGE_TOO_LARGE",
        message=f"The file has {content_bytes} bytes and was not sent: a whole request has at most "
        f"{max_message_bytes}. Make the image smaller.",
    )


def _choices(literal: object) -> str:
    return ", ".join(repr(choice) for choice in get_args(literal))


def unreadable(what: str) -> ServiceError:
    """Return the error of an answer that this version does not understand."""
    sentence = f"The service's answer holds {what}; it may be newer than this client: upgrade clipsr."
    return ServiceError(sentence, code="INTERNAL")
