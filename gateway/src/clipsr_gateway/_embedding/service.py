"""EmbeddingService: checks, inference, texts in portions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import grpc.aio
import numpy as np

from clipsr.v1 import embedding_pb2, embedding_pb2_grpc
from clipsr_gateway._admission.controller import text_units
from clipsr_gateway._backend.core import Core
from clipsr_gateway._backend.protocol import Fit
from clipsr_gateway._calls.call import Call, current_call, gather_or_cancel
from clipsr_gateway._calls.response_size import check_embedding_response
from clipsr_gateway._images.choice import ENCODER_NUMBERS, encoder_violations, resolve_encoder
from clipsr_gateway._images.damage import describe_damage
from clipsr_gateway._images.embed import embed_image
from clipsr_gateway._images.plan import (
    FITS,
    ROUTES,
    PlannedImage,
    count_violations,
    option_violations,
    plan_images,
    total_units,
)
from clipsr_gateway._images.turn import IMAGE_ERRORS, ROUTE_NUMBERS, size_message
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway._texts.embed import EmbeddedTexts, embed_texts
from clipsr_gateway._texts.labels import CHECKING_BYTES, TextQuery, resolve_texts
from clipsr_gateway._texts.warnings import cut_warnings, unknown_warnings
from clipsr_gateway.errors import InvalidRequestError, Violation

# Passes through the text encoder in one request to the backend: a full batch of `text_encoder`. Portions of other calls
# come between, so that many texts of one caller do not hold up another's few.
_PASSES_PER_REQUEST = 64

# One portion computes while the next one travels; `embed_text` takes one at a time.
_REQUESTS_IN_FLIGHT = 2


class EmbeddingService(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Implements clipsr.v1.EmbeddingService over an inference backend."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def EmbedImages(  # noqa: N802 - the name in the proto
        self, request: embedding_pb2.EmbedImagesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> embedding_pb2.EmbedImagesResponse:
        """Embed images; see embedding.proto."""
        call, core = current_call(), self._core
        call.fields["images"] = len(request.images)
        violations = [*count_violations(request.images, core.limits), *option_violations(request, "")]
        if violations := [*violations, *encoder_violations(request.encoder, "")]:
            raise InvalidRequestError(violations)
        encoder = resolve_encoder(request.encoder, core.manifest)
        check_embedding_response(
            count=len(request.images),
            embed_dim=core.manifest.embed_dim,
            kind_bytes=[len(kind.encode()) for kind in core.manifest.degradation_kinds if encoder != "plain"],
            field="images",
            limits=core.limits,
        )
        images = await plan_images(request.images, forced=ROUTES[request.route], core=core, encoder=encoder)
        call.admit(items=len(images), units=total_units(images))
        fit = FITS[request.fit]
        results = await gather_or_cancel(
            self._embed_image(image, fit, call, number=number) for number, image in enumerate(images)
        )
        call.fields["failed"] = sum(result.HasField("error") for result in results)
        call.fields["routes"] = Counter(image.route for image in images if isinstance(image, PlannedImage))
        return embedding_pb2.EmbedImagesResponse(results=results, model_digest=core.manifest.digest)

    async def EmbedTexts(  # noqa: N802 - the name in the proto
        self, request: embedding_pb2.EmbedTextsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> embedding_pb2.EmbedTextsResponse:
        """Embed texts; see embedding.proto."""
        call = current_call()
        call.fields["texts"] = len(request.texts)
        size_bytes = request.ByteSize() + len(request.texts) * CHECKING_BYTES
        query = await run_off_loop(size_bytes, self._plan_texts, request)
        call.fields["templates"] = len(query.templates)
        call.admit(items=len(query.texts), units=text_units(len(query.texts) * len(query.templates)))
        size = max(1, _PASSES_PER_REQUEST // len(query.templates))
        starts = range(0, len(query.texts), size)
        portions: dict[int, EmbeddedTexts] = {}
        queue = iter(starts)

        async def work() -> None:
            for start in queue:  # shared: each worker takes the next one
                portion = replace(query, texts=query.texts[start : start + size])
                portions[start] = await embed_texts(portion, core=self._core, call=call)

        await gather_or_cancel(work() for _ in range(_REQUESTS_IN_FLIGHT))
        return embedding_pb2.EmbedTextsResponse(
            embeddings=[
                embedding_pb2.TextEmbedding(values=row)
                for start in starts
                for row in portions[start].embeddings.tolist()
            ],
            model_digest=self._core.manifest.digest,
            warnings=[
                *unknown_warnings(query.texts, self._core.vocabulary, noun="text", field="texts[{}]"),
                *cut_warnings(
                    query.texts,
                    np.concatenate([portions[start].is_cut for start in starts]),
                    noun="text",
                    field="texts[{}]",
                    context_length=self._core.manifest.context_length,
                ),
            ],
        )

    async def _embed_image(
        self, image: PlannedImage | Violation, fit: Fit, call: Call, *, number: int
    ) -> embedding_pb2.EmbedImageResult:
        try:
            embedded = await embed_image(image, fit=fit, core=self._core, call=call)
        except IMAGE_ERRORS as error:
            return embedding_pb2.EmbedImageResult(error=call.status_from_error(error, image=number))
        return embedding_pb2.EmbedImageResult(
            embedding=embedding_pb2.ImageEmbedding(
                values=embedded.embedding.tolist(),
                input_size=size_message(embedded.image.size_hw),
                route=ROUTE_NUMBERS[embedded.image.route],
                timing=embedded.timing,
                encoder=ENCODER_NUMBERS[embedded.image.encoder],
                degradations=describe_damage(embedded.damage, self._core.manifest.degradation_kinds),
            )
        )

    def _plan_texts(self, request: embedding_pb2.EmbedTextsRequest) -> TextQuery:
        manifest, limits = self._core.manifest, self._core.limits
        query = resolve_texts(request.texts, request.templates, manifest=manifest, limits=limits)
        check_embedding_response(count=len(query.texts), embed_dim=manifest.embed_dim, field="texts", limits=limits)
        return query
