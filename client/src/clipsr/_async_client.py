"""The client for asyncio."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from clipsr import _call_errors, _channel, _codec, _embed_codec, _health, _images, _upscale_codec
from clipsr._access import FilePath, make_access
from clipsr._errors import DeadlineError, ServiceError, ServiceUnavailableError
from clipsr._retry import DEFAULT_RETRIES, Deadline, RetryPolicy
from clipsr._stream_codec import Outcome, classify_codec
from clipsr._task_stream import TaskStream
from clipsr._types import (
    Classification,
    FailedImage,
    Fit,
    ImageEmbedding,
    ImageSource,
    ModelInfo,
    Route,
    TextEmbedding,
    UpscaledImage,
    UpscaleFormat,
)
from clipsr._window import READ_AHEAD, Window
from clipsr.v1 import (
    classifier_pb2,
    classifier_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    upscaler_pb2,
    upscaler_pb2_grpc,
)

__all__ = ["AsyncClient"]

_NEVER = RetryPolicy(retries=0)


class AsyncClient:
    """Calls a clipsr service without blocking the event loop; Client's methods, awaited.

    It belongs to the event loop of its first call. Several calls may be under way at once.

    Args:
        url: HOST:PORT of the gateway; this and the options are Client's.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT, or these options contradict each other or name no usable file.
    """

    def __init__(
        self,
        url: str = "localhost:50051",
        *,
        timeout_s: float = 30.0,
        retries: int = DEFAULT_RETRIES,
        tls: bool | FilePath = False,
        cert_file: FilePath | None = None,
        key_file: FilePath | None = None,
        api_key: str | None = None,
        allow_insecure_key: bool = False,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._retry = RetryPolicy(retries=retries)
        self._target = _channel.target_of(url)
        self._access = make_access(
            url,
            tls=tls,
            cert_file=cert_file,
            key_file=key_file,
            api_key=api_key,
            allow_insecure_key=allow_insecure_key,
        )
        self._channel: grpc.aio.Channel | None = None

    @property
    def url(self) -> str:
        """The address that was given."""
        return self._url

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
        min_cosine: float | None = None,
        min_probability: float | None = None,
        return_embedding: bool = False,
        return_encoder_input: bool = False,
        timeout_s: float | None = None,
    ) -> list[Classification | FailedImage]:
        """Classifies images; as Client.classify(), but files are read in a thread."""
        sources = _images.as_sequence(images)
        query = _codec.encode_query(
            labels=labels,
            label_set=label_set,
            templates=templates,
            top_k=top_k,
            fit=fit,
            route=route,
            min_cosine=min_cosine,
            min_probability=min_probability,
            return_embedding=return_embedding,
            return_encoder_input=return_encoder_input,
        )
        stub = self._stub()
        parts = _codec.split(_images.read_images(sources), query)
        outcomes: list[Classification | FailedImage] = []
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                response: classifier_pb2.ClassifyResponse = await self._call(stub.Classify, part, timeout_s)
                outcomes += _codec.decode_results(response, image_count=len(part.images))
        return outcomes

    def classify_stream(
        self,
        images: Iterable[ImageSource | FailedImage] | AsyncIterable[ImageSource | FailedImage],
        labels: Sequence[str] = (),
        *,
        label_set: str = "",
        templates: Sequence[str] = (),
        top_k: int = 5,
        fit: Fit = "auto",
        route: Route = "auto",
        min_cosine: float | None = None,
        min_probability: float | None = None,
        return_embedding: bool = False,
        return_encoder_input: bool = False,
        read_ahead: int = READ_AHEAD,
        idle_timeout_s: float | None = None,
    ) -> AsyncIterator[Outcome]:
        """Classifies any number of images; as Client.classify_stream(), for `async for`.

        `images` may be an asynchronous iterable; an ordinary one is read in a thread. To end the stream before
        its images do, close the iterator: `async with contextlib.aclosing(client.classify_stream(...)) as outcomes`.
        """
        query = _codec.encode_query(
            labels=labels,
            label_set=label_set,
            templates=templates,
            top_k=top_k,
            fit=fit,
            route=route,
            min_cosine=min_cosine,
            min_probability=min_probability,
            return_embedding=return_embedding,
            return_encoder_input=return_encoder_input,
        )
        stream = TaskStream(
            open_call=lambda requests: self._stub().ClassifyStream(requests, metadata=self._access.call_metadata()),
            images=_images.as_iterable(images),
            window=Window(classify_codec(query), max_images=read_ahead),
            retry=self._retry,
            idle_timeout_s=self._timeout_s if idle_timeout_s is None else idle_timeout_s,
            url=self._url,
        )
        return stream.outcomes()

    async def embed_images(
        self,
        images: Sequence[ImageSource],
        *,
        fit: Fit = "auto",
        route: Route = "auto",
        timeout_s: float | None = None,
    ) -> list[ImageEmbedding | FailedImage]:
        """Embeds images; as Client.embed_images(), but files are read in a thread."""
        query = _embed_codec.encode_embed_query(fit=fit, route=route)
        parts = _codec.split(_images.read_images(_images.as_sequence(images)), query)
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(self._open())
        outcomes: list[ImageEmbedding | FailedImage] = []
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                response: embedding_pb2.EmbedImagesResponse = await self._call(stub.EmbedImages, part, timeout_s)
                outcomes += _embed_codec.decode_image_embeddings(response, image_count=len(part.images))
        return outcomes

    async def embed_texts(
        self, texts: Sequence[str], *, templates: Sequence[str] = (), timeout_s: float | None = None
    ) -> list[TextEmbedding]:
        """Embeds texts into the same space as images; as Client.embed_texts()."""
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(self._open())
        embeddings: list[TextEmbedding] = []
        for part in _embed_codec.encode_texts(texts, templates=templates):
            response: embedding_pb2.EmbedTextsResponse = await self._call(stub.EmbedTexts, part, timeout_s)
            embeddings += _embed_codec.decode_text_embeddings(response, text_count=len(part.texts))
        return embeddings

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
        stub = self._stub()
        request = classifier_pb2.GetModelInfoRequest()
        return _codec.decode_model_info(await self._call(stub.GetModelInfo, request, timeout_s))

    async def health(self, *, service: str = "", timeout_s: float | None = None) -> str:
        """Asks the standard health service; as Client.health()."""
        check = self._open().unary_unary(
            _health.CHECK, request_serializer=_health.encode_service, response_deserializer=_health.decode_status
        )
        try:
            return await self._call(check, service, timeout_s, retry=_NEVER)
        except ServiceError as error:
            if error.code == grpc.StatusCode.NOT_FOUND.name:
                return _health.SERVICE_UNKNOWN
            raise

    async def wait_for_ready(self, *, service: str = "", timeout_s: float | None = None) -> None:
        """Waits until the service is there and says that it can work; as Client.wait_for_ready()."""
        patience = _health.Patience(self._url, self._timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                is_ready = patience.is_over(await self.health(service=service, timeout_s=patience.ask_s()))
            except (DeadlineError, ServiceUnavailableError) as error:
                is_ready = patience.is_over(error)
            if is_ready:
                return
            await asyncio.sleep(patience.pause_s())

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
            options = _channel.channel_options(self._url)
            credentials = self._access.credentials
            if credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, options=options)
            else:
                self._channel = grpc.aio.secure_channel(self._target, credentials, options=options)
        return self._channel

    def _stub(self) -> Any:
        return classifier_pb2_grpc.ClassifierServiceStub(self._open())

    async def _call(
        self, method: Callable[..., Any], request: object, timeout_s: float | None, *, retry: RetryPolicy | None = None
    ) -> Any:
        """Make a call, again where its failure allows it, within one deadline."""
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s)
        for attempt in itertools.count(1):
            try:
                return await method(request, timeout=deadline.left_s(), metadata=self._access.call_metadata())
            except grpc.RpcError as error:
                failure = _call_errors.of_call(error, url=self._url, timeout_s=deadline.allowed_s)
                delay_s = (retry or self._retry).delay_s(failure, attempt=attempt, left_s=deadline.left_s())
                if delay_s is None:
                    raise failure from error
            await asyncio.sleep(delay_s)
