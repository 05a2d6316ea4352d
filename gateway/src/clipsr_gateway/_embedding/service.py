"""EmbeddingService: checks, inference, texts in portions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt

from clipsr.v1 import embedding_pb2, embedding_pb2_grpc
from clipsr_gateway._admission.controller import text_units
from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._backend.protocol import Fit, InferenceBackend, embedding_fault
from clipsr_gateway._calls.call import Call, CallRunner, gather_or_cancel
from clipsr_gateway._calls.response_size import check_embedding_response
from clipsr_gateway._images.plan import (
    FITS,
    ROUTES,
    PlannedImage,
    count_violations,
    option_violations,
    plan_images,
    planning_bytes,
    total_units,
)
from clipsr_gateway._images.run import ROUTE_NUMBERS, ImageResult, infer_image, size_message
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway._texts.labels import CHECKING_BYTES, TextQuery, resolve_texts
from clipsr_gateway._texts.run import run_texts
from clipsr_gateway.errors import BackendFaultError, InvalidRequestError, Violation

# Passes through the text encoder in one request to the backend: a full batch of `text_encoder`. Portions of other calls
# come between, so that many texts of one caller do not hold up another's few.
_PASSES_PER_REQUEST = 64

# One portion computes while the next one travels; `embed_text` takes one at a time.
_REQUESTS_IN_FLIGHT = 2


@dataclass(frozen=True, kw_only=True)
class EmbedPlan:
    """A checked EmbedImagesRequest.

    Attributes:
        fit: as in Question.
        images: in the order of the request; a Violation stands for an image that is refused.
    """

    fit: Fit
    images: tuple[PlannedImage | Violation, ...]


class EmbeddingService(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Implements clipsr.v1.EmbeddingService over an inference backend.

    Args:
        backend: what computes.
        manifest: what is served.
        limits: what a request may hold.
        slots: places for requests in the backend, over all calls.
        gate: counts the calls.
    """

    def __init__(
        self,
        *,
        backend: InferenceBackend,
        manifest: Manifest,
        limits: Limits,
        slots: FairSlots,
        gate: CallRunner,
    ) -> None:
        self._backend = backend
        self._manifest = manifest
        self._limits = limits
        self._slots = slots
        self._gate = gate

    async def EmbedImages(  # noqa: N802 - the name in the proto
        self,
        request: embedding_pb2.EmbedImagesRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> embedding_pb2.EmbedImagesResponse:
        """Embed images; see embedding.proto."""
        return await self._gate.run("EmbedImages", context, lambda call: self._embed_images(request, call))

    async def EmbedTexts(  # noqa: N802 - the name in the proto
        self,
        request: embedding_pb2.EmbedTextsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> embedding_pb2.EmbedTextsResponse:
        """Embed texts; see embedding.proto."""
        return await self._gate.run("EmbedTexts", context, lambda call: self._embed_texts(request, call))

    async def _embed_images(
        self, request: embedding_pb2.EmbedImagesRequest, call: Call
    ) -> embedding_pb2.EmbedImagesResponse:
        call.fields["images"] = len(request.images)
        plan = await run_off_loop(
            planning_bytes(request.images), plan_embed_images, request, manifest=self._manifest, limits=self._limits
        )
        call.admit(items=len(plan.images), units=total_units(plan.images))
        results = await gather_or_cancel(self._embed_image(image, plan, call) for image in plan.images)
        call.fields["failed"] = sum(result.HasField("error") for result in results)
        call.fields["routes"] = Counter(image.route for image in plan.images if isinstance(image, PlannedImage))
        return embedding_pb2.EmbedImagesResponse(results=results, model_digest=self._manifest.digest)

    async def _embed_image(
        self, image: PlannedImage | Violation, plan: EmbedPlan, call: Call
    ) -> embedding_pb2.EmbedImageResult:
        async def ask(image: PlannedImage, timeout_s: float | None) -> npt.NDArray[np.float32]:
            values = await self._backend.embed_image(
                image.content,
                fit=plan.fit,
                route=image.route,
                request_id=call.request_id,
                timeout_s=timeout_s,
                size_hw=image.size_hw,
            )
            if fault := embedding_fault(values, (self._manifest.embed_dim,)):
                raise BackendFaultError(fault)
            return values

        answered = await infer_image(image, ask, slots=self._slots, call=call)
        if not isinstance(answered, ImageResult):
            return embedding_pb2.EmbedImageResult(error=answered)
        return embedding_pb2.EmbedImageResult(
            embedding=embedding_pb2.ImageEmbedding(
                values=answered.answer.tolist(),
                input_size=size_message(answered.image.size_hw),
                route=ROUTE_NUMBERS[answered.image.route],
                timing=answered.timing,
            )
        )

    async def _embed_texts(
        self, request: embedding_pb2.EmbedTextsRequest, call: Call
    ) -> embedding_pb2.EmbedTextsResponse:
        call.fields["texts"] = len(request.texts)
        size_bytes = request.ByteSize() + len(request.texts) * CHECKING_BYTES
        query = await run_off_loop(size_bytes, self._plan_texts, request)
        call.fields["templates"] = len(query.templates)
        call.admit(items=len(query.texts), units=text_units(len(query.texts) * len(query.templates)))
        size = max(1, _PASSES_PER_REQUEST // len(query.templates))
        starts = range(0, len(query.texts), size)
        portions: dict[int, npt.NDArray[np.float32]] = {}
        queue = iter(starts)

        async def work() -> None:
            for start in queue:  # shared: each worker takes the next one
                portions[start] = await self._embed_portion(query.texts[start : start + size], query, call)

        await gather_or_cancel(work() for _ in range(_REQUESTS_IN_FLIGHT))
        return embedding_pb2.EmbedTextsResponse(
            embeddings=[
                embedding_pb2.TextEmbedding(values=row) for start in starts for row in portions[start].tolist()
            ],
            model_digest=self._manifest.digest,
        )

    def _plan_texts(self, request: embedding_pb2.EmbedTextsRequest) -> TextQuery:
        query = resolve_texts(request.texts, request.templates, manifest=self._manifest, limits=self._limits)
        check_embedding_response(
            count=len(query.texts), embed_dim=self._manifest.embed_dim, field="texts", limits=self._limits
        )
        return query

    async def _embed_portion(self, texts: tuple[str, ...], query: TextQuery, call: Call) -> npt.NDArray[np.float32]:
        return await run_texts(
            texts,
            templates=query.templates,
            embed_dim=self._manifest.embed_dim,
            backend=self._backend,
            slots=self._slots,
            call=call,
        )


def plan_embed_images(request: embedding_pb2.EmbedImagesRequest, *, manifest: Manifest, limits: Limits) -> EmbedPlan:
    """Check a request and decide the route of every image; call it outside of the event loop.

    Raises:
        InvalidRequestError: as `plan_question`.
    """
    violations = [*count_violations(request.images, limits), *option_violations(request, "")]
    if violations:
        raise InvalidRequestError(violations)
    check_embedding_response(count=len(request.images), embed_dim=manifest.embed_dim, field="images", limits=limits)
    forced = ROUTES[request.route]
    return EmbedPlan(
        fit=FITS[request.fit], images=plan_images(request.images, forced=forced, manifest=manifest, limits=limits)
    )
