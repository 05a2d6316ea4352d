"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any

from clipsr import _images
from clipsr._async.connection import AsyncConnection
from clipsr._async.library import AsyncLibrary, list_libraries
from clipsr._codecs import classify as classify_codec
from clipsr._codecs import embed as embed_codec
from clipsr._codecs import upscale as upscale_codec
from clipsr._codecs.stream import Outcome, classify_stream_codec
from clipsr._errors import DeadlineError, NotFoundError, ServiceUnavailableError
from clipsr._library_types import LibraryInfo
from clipsr._rpc import health
from clipsr._rpc.credentials import FilePath, make_access
from clipsr._rpc.retry import DEFAULT_RETRIES, RetryPolicy
from clipsr._rpc.window import READ_AHEAD
from clipsr._types import (
    Classification,
    ClassifyOptions,
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
from clipsr.v1 import (
    classifier_pb2,
    classifier_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    upscaler_pb2,
    upscaler_pb2_grpc,
)

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
        access = make_access(
            url,
            tls=tls,
            cert_file=cert_file,
            key_file=key_file,
            api_key=api_key,
            allow_insecure_key=allow_insecure_key,
        )
        self._connection = AsyncConnection(url, timeout_s=timeout_s, retry=RetryPolicy(retries=retries), access=access)
        self._call = self._connection.call

    @property
    def url(self) -> str:
        """The address that was given."""
        return self._connection.url

    async def classify(
        self,
        images: Sequence[ImageSource],
        labels: Sequence[str] = (),
        *,
        options: ClassifyOptions | None = None,
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
        """Classify images; as Client.classify(), but files are read in a thread."""
        sources = _images.as_sequence(images)
        asked = classify_codec.encode_options(
            classify_codec.choose_options(
                options,
                ClassifyOptions(
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
                ),
            )
        )
        stub = self._stub()
        parts = classify_codec.split(_images.read_images(sources), classifier_pb2.ClassifyRequest(options=asked))
        outcomes: list[Classification | FailedImage] = []
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                response: classifier_pb2.ClassifyResponse = await self._call(stub.Classify, part, timeout_s)
                outcomes += classify_codec.decode_results(response, image_count=len(part.images))
        return outcomes

    def classify_stream(
        self,
        images: Iterable[ImageSource | FailedImage] | AsyncIterable[ImageSource | FailedImage],
        labels: Sequence[str] = (),
        *,
        options: ClassifyOptions | None = None,
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
        """Classify any number of images; as Client.classify_stream(), for `async for`.

        `images` may be an asynchronous iterable; an ordinary one is read in a thread. To end the stream before
        its images do, close the iterator: `async with contextlib.aclosing(client.classify_stream(...)) as outcomes`.
        """
        asked = classify_codec.encode_options(
            classify_codec.choose_options(
                options,
                ClassifyOptions(
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
                ),
            )
        )
        return self._connection.stream(
            lambda: self._stub().ClassifyStream,
            _images.as_iterable(images),
            classify_stream_codec(asked),
            read_ahead=read_ahead,
            idle_timeout_s=idle_timeout_s,
        )

    async def embed_images(
        self,
        images: Sequence[ImageSource],
        *,
        fit: Fit = "auto",
        route: Route = "auto",
        timeout_s: float | None = None,
    ) -> list[ImageEmbedding | FailedImage]:
        """Embed images; as Client.embed_images(), but files are read in a thread."""
        query = embed_codec.encode_embed_query(fit=fit, route=route)
        parts = classify_codec.split(_images.read_images(_images.as_sequence(images)), query)
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(self._connection.channel)
        outcomes: list[ImageEmbedding | FailedImage] = []
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                response: embedding_pb2.EmbedImagesResponse = await self._call(stub.EmbedImages, part, timeout_s)
                outcomes += embed_codec.decode_image_embeddings(response, image_count=len(part.images))
        return outcomes

    async def embed_texts(
        self, texts: Sequence[str], *, templates: Sequence[str] = (), timeout_s: float | None = None
    ) -> list[TextEmbedding]:
        """Embed texts into the same space as images; as Client.embed_texts()."""
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(self._connection.channel)
        embeddings: list[TextEmbedding] = []
        for part in embed_codec.encode_texts(texts, templates=templates):
            response: embedding_pb2.EmbedTextsResponse = await self._call(stub.EmbedTexts, part, timeout_s)
            embeddings += embed_codec.decode_text_embeddings(response, text_count=len(part.texts))
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
        """Render an image at a higher resolution; as Client.upscale(), but the file is read in a thread."""
        content = await asyncio.to_thread(_images.read_image, image)
        request = upscale_codec.encode_upscale(content, scale=scale, size_hw=size_hw, output_format=output_format)
        stub: Any = upscaler_pb2_grpc.UpscalerServiceStub(self._connection.channel)
        response: upscaler_pb2.UpscaleResponse = await self._call(stub.Upscale, request, timeout_s)
        return upscale_codec.decode_upscaled(response)

    def library(self, name: str) -> AsyncLibrary:
        """Return the library of that name; as Client.library()."""
        return AsyncLibrary(self._connection, name)

    async def list_libraries(self, *, timeout_s: float | None = None) -> list[LibraryInfo]:
        """Describe all libraries of the service; as Client.list_libraries()."""
        return await list_libraries(self._connection, timeout_s=timeout_s)

    async def model_info(self, *, timeout_s: float | None = None) -> ModelInfo:
        """Describe the model; as Client.model_info()."""
        stub = self._stub()
        request = classifier_pb2.GetModelInfoRequest()
        return classify_codec.decode_model_info(await self._call(stub.GetModelInfo, request, timeout_s))

    async def health(self, *, service: str = "", timeout_s: float | None = None) -> str:
        """Ask the standard health service; as Client.health()."""
        check = self._connection.channel.unary_unary(
            health.CHECK, request_serializer=health.encode_service, response_deserializer=health.decode_status
        )
        try:
            return await self._call(check, service, timeout_s, retry=_NEVER)
        except NotFoundError:
            return health.SERVICE_UNKNOWN

    async def wait_for_ready(self, *, service: str = "", timeout_s: float | None = None) -> None:
        """Wait until the service is there and say that it can work; as Client.wait_for_ready()."""
        poller = health.ReadinessPoller(self.url, self._connection.timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                is_ready = poller.observe(await self.health(service=service, timeout_s=poller.next_timeout_s()))
            except (DeadlineError, ServiceUnavailableError) as error:
                is_ready = poller.observe(error)
            if is_ready:
                return
            await asyncio.sleep(poller.pause_s())

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _stub(self) -> Any:
        return classifier_pb2_grpc.ClassifierServiceStub(self._connection.channel)
