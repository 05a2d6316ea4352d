"""The messages of EmbeddingService, to and from values; nothing here reads files or talks to anyone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clipsr._codecs.arguments import as_texts
from clipsr._codecs.classify import (
    decode_degradations,
    decode_encoder,
    decode_failure,
    decode_route,
    decode_warnings,
    encode_encoder,
    encode_fit,
    encode_route,
    unreadable,
)
from clipsr._embedding_types import ImageEmbedding, TextEmbedding
from clipsr._types import Encoder, FailedImage, Fit, Route
from clipsr.v1 import embedding_pb2

MAX_TEXTS = 1_024
"""Texts of one message; the service's Limits.max_embed_texts."""


def encode_embed_query(*, fit: Fit, route: Route, encoder: Encoder = "plain") -> embedding_pb2.EmbedImagesRequest:
    """Return a request that lacks nothing but its images.

    Raises:
        InvalidRequestError: an option is not known.
    """
    return embedding_pb2.EmbedImagesRequest(
        fit=encode_fit(fit), route=encode_route(route), encoder=encode_encoder(encoder)
    )


def decode_image_embeddings(
    response: embedding_pb2.EmbedImagesResponse, *, image_count: int
) -> list[ImageEmbedding | FailedImage]:
    """Return one outcome an image, in their order.

    Raises:
        ServiceError: the answer does not fit the request, or says something that this version does not know.
    """
    if len(response.results) != image_count:
        raise unreadable(f"{len(response.results)} results for {image_count} images")
    return [_decode_result(result, response.model_digest) for result in response.results]


def encode_texts(
    texts: Sequence[str], *, templates: Sequence[str], max_texts: int = MAX_TEXTS
) -> Iterator[embedding_pb2.EmbedTextsRequest]:
    """Divide texts among as few requests as possible, in their order.

    Raises:
        InvalidRequestError: a text cannot be written as UTF-8. Everything else is the service's to judge.
        TypeError: texts or templates are no sequence of strings.
    """
    texts, templates = as_texts("texts", texts), as_texts("templates", templates)
    for start in range(0, len(texts), max_texts):
        yield embedding_pb2.EmbedTextsRequest(texts=texts[start : start + max_texts], templates=templates)


def decode_text_embeddings(response: embedding_pb2.EmbedTextsResponse, *, text_count: int) -> list[TextEmbedding]:
    """Return one embedding a text, in their order.

    Raises:
        ServiceError: the answer does not fit the request.
    """
    if len(response.embeddings) != text_count:
        raise unreadable(f"{len(response.embeddings)} embeddings for {text_count} texts")
    warnings = decode_warnings(response.warnings)
    return [
        TextEmbedding(values=tuple(embedding.values), model_digest=response.model_digest, warnings=warnings)
        for embedding in response.embeddings
    ]


def _decode_result(result: embedding_pb2.EmbedImageResult, model_digest: str) -> ImageEmbedding | FailedImage:
    outcome = result.WhichOneof("outcome")
    if outcome == "error":
        return decode_failure(result.error)
    if outcome is None:
        raise unreadable("a result without outcome")
    found = result.embedding
    return ImageEmbedding(
        values=tuple(found.values),
        input_hw=(found.input_size.height, found.input_size.width),
        route=decode_route(found.route),
        queue_ms=found.timing.queue_ms,
        inference_ms=found.timing.inference_ms,
        model_digest=model_digest,
        encoder=decode_encoder(found.encoder),
        degradations=decode_degradations(found.degradations),
    )
