"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from clipsr import _call_errors, _channel, _codec, _health, _images, _upscale_codec
from clipsr._errors import ServiceError
from clipsr._types import (
    Classification,
    FailedImage,
    Fit,
    ImageSource,
    ModelInfo,
    Route,
    UpscaledImage,
    UpscaleFormat,
)
from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, upscaler_pb2, upscaler_pb2_grpc

__all__ = ["AsyncClient"]


class AsyncClient:
    """Calls a clipsr service without blocking the event loop; Client's methods, awaited.

    It belongs to the event loop of its first call. Several calls may be under way at once.

    Args:
        url: HOST:PORT of the gateway; a host name may stand for several, which share the calls.
        timeout_s: deadline of a call that does not set its own, in seconds.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT.
    """

    def __init__(self, url: str = "localhost:50051", *, timeout_s: float = 30.0) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._target = _channel.target_of(url)
        self._channel: grpc.aio.Channel | None = None

    async def classify(
        self,
        images: Sequence[ImageSource],
        labels: Sequence[str] = (),
        *,
        label_set: str = "",
        templates: Sequence[str] = (),
        top_k: int = 5,
        fit: Fit = "auto",
        route: Route = "auto",
        timeout_s: float | None = None,
    ) -> list[Classification | FailedImage]:
        """Classifies images; as Client.classify(), but files are read in a thread."""
        sources = _images.as_sequence(images)
        query = _codec.encode_query(
            labels=labels, label_set=label_set, templates=templates, top_k=top_k, fit=fit, route=route
        )
        stub: Any = classifier_pb2_grpc.ClassifierServiceStub(self._open())
        parts = _codec.split(_images.read_images(sources), query)
        outcomes: list[Classification | FailedImage] = []
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                response: classifier_pb2.ClassifyResponse = await self._call(stub.Classify, part, timeout_s)
                outcomes += _codec.decode_results(response, image_count=len(part.images))
        return outcomes

    async def upscale(
        self,
        image: ImageSource,
        *,
        scale: float | None = None,
        size_hw: tuple[int, int] | None = None,
        output_format: UpscaleFormat = "png",
        timeout_s: float | None = None,
    ) -> UpscaledImage:
        """Renders an image at a higher resolution; as Client.upscale(), but the file is read in a thread."""
        content = await asyncio.to_thread(_images.read_image, image)
        request = _upscale_codec.encode_upscale(content, scale=scale, size_hw=size_hw, output_format=output_format)
        stub: Any = upscaler_pb2_grpc.UpscalerServiceStub(self._open())
        response: upscaler_pb2.UpscaleResponse = await self._call(stub.Upscale, request, timeout_s)
        return _upscale_codec.decode_upscaled(response)

    async def model_info(self, *, timeout_s: float | None = None) -> ModelInfo:
        """Describes the model; as Client.model_info()."""
        stub: Any = classifier_pb2_grpc.ClassifierServiceStub(self._open())
        request = classifier_pb2.GetModelInfoRequest()
        return _codec.decode_model_info(await self._call(stub.GetModelInfo, request, timeout_s))

    async def health(self, *, service: str = "", timeout_s: float | None = None) -> str:
        """Asks the standard health service; as Client.health()."""
        check = self._open().unary_unary(
            _health.CHECK, request_serializer=_health.encode_service, response_deserializer=_health.decode_status
        )
        try:
            return await self._call(check, service, timeout_s)
        except ServiceError as error:
            if error.code == grpc.StatusCode.NOT_FOUND.name:
                return _health.SERVICE_UNKNOWN
            raise

    async def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> grpc.aio.Channel:
        # Not in __init__: a channel takes hold of the running event loop, and there may be none yet.
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=_channel.channel_options(self._url))
        return self._channel

    async def _call(self, method: Callable[..., Any], request: object, timeout_s: float | None) -> Any:
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return await method(request, timeout=allowed_s)
        except grpc.RpcError as error:
            raise _call_errors.of_call(error, url=self._url, timeout_s=allowed_s) from error
