"""ClassifierService: checks, one backend request an image, ranking."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

import grpc.aio
import numpy as np

from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, types_pb2
from clipsr_gateway import _status
from clipsr_gateway._calls import Call, CallGate, gather_or_cancel
from clipsr_gateway._limits import Limits
from clipsr_gateway._logs import log_event
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._plan import ClassifyPlan, PlannedImage, content_field, plan_classify
from clipsr_gateway.backend import InferenceBackend, PreparedLabels, Route, Scores
from clipsr_gateway.errors import BackendFaultError, DeadlineExceededError, ImageRejectedError, Violation

__all__ = ["ClassifierService", "rank"]

_ROUTES: dict[Route, types_pb2.Route] = {
    "upscaled": types_pb2.ROUTE_UPSCALED,
    "native": types_pb2.ROUTE_NATIVE,
}


class ClassifierService(classifier_pb2_grpc.ClassifierServiceServicer):
    """Implements clipsr.v1.ClassifierService over an inference backend.

    Args:
        backend: what computes.
        manifest: what is served.
        limits: what a request may hold.
        slots: places for requests in the backend, over all calls; who finds none waits in order of arrival.
        gate: counts the calls.
        gateway_version: published by GetModelInfo.
    """

    def __init__(
        self,
        *,
        backend: InferenceBackend,
        manifest: Manifest,
        limits: Limits,
        slots: asyncio.Semaphore,
        gate: CallGate,
        gateway_version: str,
    ) -> None:
        self._backend = backend
        self._manifest = manifest
        self._limits = limits
        self._slots = slots
        self._gate = gate
        self._info = manifest.model_info(limits=limits, gateway_version=gateway_version)

    async def Classify(  # noqa: N802 - the name in the proto
        self,
        request: classifier_pb2.ClassifyRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> classifier_pb2.ClassifyResponse:
        """Classifies images; see classifier.proto."""
        return await self._gate.run("Classify", context, lambda call: self._classify(request, call))

    async def GetModelInfo(  # noqa: N802 - the name in the proto
        self,
        request: classifier_pb2.GetModelInfoRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> classifier_pb2.GetModelInfoResponse:
        """Describes the model; see classifier.proto."""
        return await self._gate.run("GetModelInfo", context, self._get_model_info)

    async def _get_model_info(self, call: Call) -> classifier_pb2.GetModelInfoResponse:
        return classifier_pb2.GetModelInfoResponse(model_info=self._info)

    async def _classify(self, request: classifier_pb2.ClassifyRequest, call: Call) -> classifier_pb2.ClassifyResponse:
        call.fields["images"] = len(request.images)
        plan, prepared = await asyncio.to_thread(self._prepare, request)
        call.fields["labels"] = len(plan.query.labels)
        call.fields["templates"] = len(plan.query.templates)
        results = await gather_or_cancel(self._classify_image(image, plan, prepared, call) for image in plan.images)
        call.fields["failed"] = sum(result.HasField("error") for result in results)
        call.fields["routes"] = Counter(image.route for image in plan.images if isinstance(image, PlannedImage))
        return classifier_pb2.ClassifyResponse(results=results)

    def _prepare(self, request: classifier_pb2.ClassifyRequest) -> tuple[ClassifyPlan, PreparedLabels]:
        plan = plan_classify(request, manifest=self._manifest, limits=self._limits)
        return plan, self._backend.prepare(labels=plan.query.labels, templates=plan.query.templates)

    async def _classify_image(
        self, image: PlannedImage | Violation, plan: ClassifyPlan, prepared: PreparedLabels, call: Call
    ) -> classifier_pb2.ClassifyResult:
        if isinstance(image, Violation):
            return classifier_pb2.ClassifyResult(error=_status.invalid_argument([image]))
        try:
            return await self._score_image(image, plan, prepared, call)
        except ImageRejectedError as error:
            violation = Violation(field=content_field(image.index), reason=error.reason, sentence=error.sentence)
            return classifier_pb2.ClassifyResult(error=_status.invalid_argument([violation]))
        except BackendFaultError as error:
            fields = {"request_id": call.request_id, "image": image.index, "cause": str(error)}
            log_event("backend_fault", fields, level=logging.ERROR)
            return classifier_pb2.ClassifyResult(error=_status.internal(call.request_id))

    async def _score_image(
        self, image: PlannedImage, plan: ClassifyPlan, prepared: PreparedLabels, call: Call
    ) -> classifier_pb2.ClassifyResult:
        queued_s = time.perf_counter()
        async with self._slots:
            if call.is_past_deadline():
                raise DeadlineExceededError("The deadline passed before all images were sent to Triton.")
            sent_s = time.perf_counter()
            scores = await prepared.classify(
                image.content,
                fit=plan.fit,
                route=image.route,
                request_id=call.request_id,
                timeout_s=call.time_remaining_s(),
            )
            answered_s = time.perf_counter()
        if fault := scores.fault(len(plan.query.labels)):
            raise BackendFaultError(fault)
        height, width = image.size_hw
        return classifier_pb2.ClassifyResult(
            classification=classifier_pb2.Classification(
                predictions=rank(scores, plan.query.labels, plan.top_k),
                input_size=types_pb2.Size(height=height, width=width),
                route=_ROUTES[image.route],
                timing=types_pb2.Timing(queue_ms=(sent_s - queued_s) * 1000, inference_ms=(answered_s - sent_s) * 1000),
                model_digest=self._manifest.digest,
            )
        )


def rank(scores: Scores, labels: tuple[str, ...], top_k: int) -> list[types_pb2.Prediction]:
    """Returns the `top_k` best labels, best first, ties in the order of the labels.

    Ranks by cosine: probability is monotone in it, but in float32 the small ones all become 0.
    """
    order: list[int] = np.argsort(-scores.cosine, kind="stable")[:top_k].tolist()
    cosine: list[float] = scores.cosine[order].tolist()
    probability: list[float] = scores.probability[order].tolist()
    return [
        types_pb2.Prediction(label=labels[index], cosine=cosine[place], probability=probability[place])
        for place, index in enumerate(order)
    ]
