"""ClassifierService: checks, inference, ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from clipsr.v1 import classifier_pb2, classifier_pb2_grpc
from clipsr_gateway._backend.core import Core
from clipsr_gateway._calls.call import current_call, gather_or_cancel
from clipsr_gateway._calls.streams import ImageStream
from clipsr_gateway._classifier.classifier import ImageClassifier
from clipsr_gateway._images.plan import PlannedImage, plan_image, plan_images, total_units

_Context = grpc.aio.ServicerContext[Any, Any]


class ClassifierService(classifier_pb2_grpc.ClassifierServiceServicer):
    """Implements clipsr.v1.ClassifierService over an inference backend.

    Args:
        core: what every service works with.
        gateway_version: published by GetModelInfo.
    """

    def __init__(self, core: Core, *, gateway_version: str) -> None:
        self._core = core
        self._classifier = ImageClassifier(core)
        self._info = core.manifest.model_info(limits=core.limits, gateway_version=gateway_version)

    async def Classify(  # noqa: N802 - the name in the proto
        self, request: classifier_pb2.ClassifyRequest, context: _Context
    ) -> classifier_pb2.ClassifyResponse:
        """Classify images; see classifier.proto."""
        call = current_call()
        call.fields["images"] = len(request.images)
        options = await self._classifier.resolve_options(request.options, call, images=request.images)
        images = await plan_images(request.images, forced=options.route, core=self._core, encoder=options.encoder)
        call.admit(items=len(images), units=total_units(images, labels=len(options.labels)))
        results = await gather_or_cancel(
            self._classifier.classify(image, options, call, number=number) for number, image in enumerate(images)
        )
        call.fields["failed"] = sum(result.HasField("error") for result in results)
        call.fields["routes"] = Counter(image.route for image in images if isinstance(image, PlannedImage))
        return classifier_pb2.ClassifyResponse(results=results, warnings=options.known.warnings or ())

    async def ClassifyStream(  # noqa: N802 - the name in the proto
        self, request_iterator: AsyncIterator[classifier_pb2.ClassifyStreamRequest], context: _Context
    ) -> None:
        """Classify the images of a stream; see classifier.proto."""
        call, limits = current_call(), self._core.limits
        counts: Counter[str] = Counter(images=0, failed=0)
        routes: Counter[str] = Counter()
        async with ImageStream(request_iterator, call=call, max_age_s=self._core.max_stream_age_s) as stream:
            options = await self._classifier.resolve_options((await stream.read_first()).options, call)
            is_warned = False

            async def classify(
                message: classifier_pb2.ClassifyStreamRequest,
            ) -> classifier_pb2.ClassifyStreamResponse:
                index, content = message.image.index, message.image.image.content
                nonlocal is_warned
                image = await plan_image(
                    content,
                    field="image.image.content",
                    forced=options.route,
                    core=self._core,
                    encoder=options.encoder,
                )
                if isinstance(image, PlannedImage):
                    await call.admit_next(units=image.units(labels=len(options.labels)))
                result = await self._classifier.classify(image, options, call, number=index)
                counts.update(images=1, failed=int(result.HasField("error")))
                routes.update([image.route] if isinstance(image, PlannedImage) else ())
                call.fields.update(counts, routes=routes)
                warnings = () if is_warned else options.known.warnings or ()
                is_warned = is_warned or bool(warnings)
                return classifier_pb2.ClassifyStreamResponse(index=index, result=result, warnings=warnings)

            await stream.answer_images(
                classify, write=context.write, max_items=limits.max_stream_images, max_bytes=limits.max_message_bytes
            )

    async def GetModelInfo(  # noqa: N802 - the name in the proto
        self, request: classifier_pb2.GetModelInfoRequest, context: _Context
    ) -> classifier_pb2.GetModelInfoResponse:
        """Describe the model; see classifier.proto."""
        response = classifier_pb2.GetModelInfoResponse(model_info=self._info)
        if (caller := current_call().caller) is not None:
            response.model_info.limits.caller.CopyFrom(caller.to_proto())
        return response
