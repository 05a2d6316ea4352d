"""ClassifierService: checks, inference, ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from clipsr.v1 import classifier_pb2, classifier_pb2_grpc
from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._backend.protocol import InferenceBackend
from clipsr_gateway._calls.call import Call, CallRunner, gather_or_cancel
from clipsr_gateway._classifier.classifier import ImageClassifier
from clipsr_gateway._classifier.stream import ClassifyStream
from clipsr_gateway._images.plan import PlannedImage, plan_images, planning_bytes, total_units
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._offload import run_off_loop

MAX_STREAM_AGE_S = 9 * 60.0
"""How long a stream is read from. A connection is closed ten minutes after its age is reached (`_server/gateway.py`),
whatever still runs on it; a stream that ends before loses nothing."""


class ClassifierService(classifier_pb2_grpc.ClassifierServiceServicer):
    """Implements clipsr.v1.ClassifierService over an inference backend.

    Args:
        backend: what computes.
        manifest: what is served.
        limits: what a request may hold.
        slots: places for requests in the backend, over all calls.
        gate: counts the calls.
        gateway_version: published by GetModelInfo.
    """

    def __init__(
        self,
        *,
        backend: InferenceBackend,
        manifest: Manifest,
        limits: Limits,
        slots: FairSlots,
        gate: CallRunner,
        gateway_version: str,
    ) -> None:
        self._manifest = manifest
        self._limits = limits
        self._classifier = ImageClassifier(backend=backend, manifest=manifest, limits=limits, slots=slots)
        self._gate = gate
        self._info = manifest.model_info(limits=limits, gateway_version=gateway_version)

    async def Classify(  # noqa: N802 - the name in the proto
        self,
        request: classifier_pb2.ClassifyRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> classifier_pb2.ClassifyResponse:
        """Classify images; see classifier.proto."""
        return await self._gate.run("Classify", context, lambda call: self._classify(request, call))

    async def ClassifyStream(  # noqa: N802 - the name in the proto
        self,
        request_iterator: AsyncIterator[classifier_pb2.ClassifyStreamRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Classify the images of a stream; see classifier.proto."""

        async def answer(call: Call) -> None:
            stream = ClassifyStream(
                classifier=self._classifier,
                manifest=self._manifest,
                limits=self._limits,
                draining=self._gate.draining,
                max_age_s=MAX_STREAM_AGE_S,
                write=context.write,
                call=call,
            )
            await stream.answer(request_iterator)

        await self._gate.run("ClassifyStream", context, answer)

    async def GetModelInfo(  # noqa: N802 - the name in the proto
        self,
        request: classifier_pb2.GetModelInfoRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> classifier_pb2.GetModelInfoResponse:
        """Describe the model; see classifier.proto."""
        return await self._gate.run("GetModelInfo", context, self._get_model_info)

    async def _get_model_info(self, call: Call) -> classifier_pb2.GetModelInfoResponse:
        response = classifier_pb2.GetModelInfoResponse(model_info=self._info)
        if call.caller is not None:
            response.model_info.limits.caller.CopyFrom(call.caller.to_proto())
        return response

    async def _classify(self, request: classifier_pb2.ClassifyRequest, call: Call) -> classifier_pb2.ClassifyResponse:
        call.fields["images"] = len(request.images)
        prepared = await self._classifier.prepare(request.options, call, images=request.images)
        images = await run_off_loop(
            planning_bytes(request.images),
            plan_images,
            request.images,
            forced=prepared.question.route,
            manifest=self._manifest,
            limits=self._limits,
        )
        labels = len(prepared.question.query.labels)
        call.admit(items=len(images), units=total_units(images, labels=labels))
        results = await gather_or_cancel(self._classifier.classify(image, prepared, call) for image in images)
        call.fields["failed"] = sum(result.HasField("error") for result in results)
        call.fields["routes"] = Counter(image.route for image in images if isinstance(image, PlannedImage))
        return classifier_pb2.ClassifyResponse(results=results)
