"""The client: the calls of the service as methods."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from clipsr import _images
from clipsr._async.channel import run_blocking
from clipsr._async.library import AsyncLibrary
from clipsr._async.service import AsyncServiceClient
from clipsr._codecs import classify as classify_codec
from clipsr._codecs import embed as embed_codec
from clipsr._codecs import restore as restore_codec
from clipsr._codecs import upscale as upscale_codec
from clipsr._codecs.stream import Outcome, classify_stream_codec
from clipsr._embedding_types import ImageEmbedding, TextEmbedding
from clipsr._picture_types import RestoredImage, UpscaledImage, UpscaleFormat
from clipsr._rpc.window import READ_AHEAD
from clipsr._types import (
    Classification,
    ClassifyOptions,
    Encoder,
    FailedImage,
    Fit,
    ImageSource,
    Route,
    UpscaleRecipe,
)
from clipsr.v1 import (
    classifier_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    restorer_pb2,
    restorer_pb2_grpc,
    upscaler_pb2,
    upscaler_pb2_grpc,
)

_Answer = TypeVar("_Answer")


class AsyncClient(AsyncServiceClient):
    """Calls a clipsr service: Client for code that waits, AsyncClient with the same methods for asyncio.

    It connects with the first call. Threads may share a Client; an AsyncClient belongs to the event loop of its first
    call, where several calls may be under way at once. In asyncio files are read in a thread.

    Args:
        url: HOST:PORT of the gateway; a host name may stand for several, which share the calls.
        timeout_s: deadline of a call that does not set its own, in seconds, over all of its attempts.
        retries: how often a call is made again after nobody answered, or the service could not work or asked to come
            back later; in streams, how often without an answer in between. 0 is never.
        tls: True connects by TLS and trusts the CAs that come with gRPC (or that GRPC_DEFAULT_SSL_ROOTS_FILE_PATH
            names); a path names a PEM file of the CA to trust.
        cert_file: PEM file of the client's certificate, where the service asks for one.
        key_file: PEM file of its private key.
        api_key: who is calling, where the service asks for it; kept out of representations and errors.
        allow_insecure_key: sends the key without TLS to another machine, too; whoever listens on the way can use it.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT, or these options contradict each other or name no usable file.
    """

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
        encoder: Encoder = "plain",
        min_cosine: float | None = None,
        min_probability: float | None = None,
        none_of_these: bool = False,
        return_embedding: bool = False,
        return_encoder_input: bool = False,
        timeout_s: float | None = None,
    ) -> list[Classification | FailedImage]:
        """Classify images with the caller's own labels, or with a set that the model publishes.

        Images that are too many or too large for one request go in several, one after the other; files are read as
        they are sent. Without images nothing is asked. ClassifyOptions describes the options from `label_set` on.

        Args:
            images: image files: bytes, paths, or open binary files; or Pillow images and arrays of uint8, [height,
                width] or [height, width, channels] in the order RGB, which are sent as PNG.
            labels: what to choose from, each once; leave empty to use `label_set`.
            options: what is asked as one value, instead of the single arguments that follow.
            timeout_s: deadline of each request, in seconds; None takes the client's.

        Returns:
            One outcome an image, in their order. An image that fails, or cannot be read, does not fail its neighbours.

        Raises:
            InvalidRequestError: labels, templates or options are wrong.
            ServiceUnavailableError, RateLimitedError, AuthenticationError, DeadlineError, ServiceError: it failed.
            ClientClosedError: the client was closed, or belongs to another event loop.
            TypeError: an argument is of another kind: a single image for a sequence, a number for a text.
        """
        sources = map(_images.try_read_image, _images.as_sequence(images))
        asked = classify_codec.encode_given_options(
            options,
            ClassifyOptions(
                labels=labels,
                label_set=label_set,
                templates=templates,
                top_k=top_k,
                fit=fit,
                route=route,
                encoder=encoder,
                min_cosine=min_cosine,
                min_probability=min_probability,
                none_of_these=none_of_these,
                return_embedding=return_embedding,
                return_encoder_input=return_encoder_input,
            ),
        )
        parts = classify_codec.split(sources, classifier_pb2.ClassifyRequest(options=asked))
        return await self._call_in_parts(self._classifier.Classify, parts, classify_codec.decode_results, timeout_s)

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
        encoder: Encoder = "plain",
        min_cosine: float | None = None,
        min_probability: float | None = None,
        none_of_these: bool = False,
        return_embedding: bool = False,
        return_encoder_input: bool = False,
        read_ahead: int = READ_AHEAD,
        idle_timeout_s: float | None = None,
    ) -> AsyncIterator[Outcome]:
        """Classify any number of images over one connection, in memory that does not grow with them.

        When the connection fails, what was not answered is sent again over a new one. Close the iterator to end the
        stream before its images do; in asyncio by `async with contextlib.aclosing(…) as outcomes`.

        Args:
            images: any iterable, for AsyncClient an asynchronous one, too; a FailedImage comes back as it is.
            read_ahead: images in memory at once, at least 1.
            idle_timeout_s: longest wait for an answer, in seconds; None takes the client's timeout_s.

        Returns:
            An iterator over (place among the images, from 0; outcome), as the answers come: not in order.

        Raises:
            ClipsrError, TypeError: as classify(), by the call or from the iterator; what came before it stands.
        """
        asked = classify_codec.encode_given_options(
            options,
            ClassifyOptions(
                labels=labels,
                label_set=label_set,
                templates=templates,
                top_k=top_k,
                fit=fit,
                route=route,
                encoder=encoder,
                min_cosine=min_cosine,
                min_probability=min_probability,
                none_of_these=none_of_these,
                return_embedding=return_embedding,
                return_encoder_input=return_encoder_input,
            ),
        )
        return self._connection.stream(
            lambda: self._classifier.ClassifyStream,
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
        encoder: Encoder = "plain",
        timeout_s: float | None = None,
    ) -> list[ImageEmbedding | FailedImage]:
        """Embed images, for callers that search, cluster or compare by themselves.

        Args:
            images: as classify()'s.
            fit: how images that are not square are fitted.
            route: the path to the image encoder.
            encoder: as in ClassifyOptions; libraries use "plain".
            timeout_s: deadline of each request, in seconds; None takes the client's.

        Returns:
            One outcome an image, in their order.

        Raises:
            ClipsrError: as classify(); so is TypeError.
        """
        query = embed_codec.encode_embed_query(fit=fit, route=route, encoder=encoder)
        parts = classify_codec.split(map(_images.try_read_image, _images.as_sequence(images)), query)
        return await self._call_in_parts(
            self._embedder.EmbedImages, parts, embed_codec.decode_image_embeddings, timeout_s
        )

    async def embed_texts(
        self, texts: Sequence[str], *, templates: Sequence[str] = (), timeout_s: float | None = None
    ) -> list[TextEmbedding]:
        """Embed texts into the same space as images.

        Args:
            texts: what to embed; repetitions are allowed.
            templates: prompts with one "{}" where the text goes, or one published set with '@'; a text's embedding is
                then the mean over them. Empty takes the texts as they are.
            timeout_s: deadline of each request, in seconds; None takes the client's.

        Returns:
            One embedding a text, in their order.

        Raises:
            ClipsrError: as classify().
            TypeError: texts or templates are a single text.
        """
        embeddings: list[TextEmbedding] = []
        for part in embed_codec.encode_texts(texts, templates=templates):
            response: embedding_pb2.EmbedTextsResponse = await self._call(self._embedder.EmbedTexts, part, timeout_s)
            embeddings += embed_codec.decode_text_embeddings(response, text_count=len(part.texts))
        return embeddings

    async def upscale(
        self,
        image: ImageSource,
        *,
        scale: float | None = None,
        size_hw: tuple[int, int] | None = None,
        output_format: UpscaleFormat = "png",
        recipe: UpscaleRecipe = "clean",
        timeout_s: float | None = None,
    ) -> UpscaledImage:
        """Render an image at a higher resolution.

        Transparency survives, grey images stay grey, and an embedded colour profile is passed on; 16 bits a channel
        become 8. Of an animation the first frame is taken.

        Args:
            image: as one of classify()'s.
            scale: factor on height and width, at least 1, such as 3.5; or give `size_hw`.
            size_hw: rows and columns of the output, each at least the image's own; the aspect ratio may change.
            output_format: the kind of file to return.
            recipe: "clean" for pictures that were reduced well, or "robust", which removes aliasing, JPEG's blocks and
                noise; one of ModelInfo.upscale_recipes.
            timeout_s: deadline, in seconds; None takes the client's. Large outputs take a minute on a small machine.

        Raises:
            InvalidRequestError: image, size, format or recipe is wrong; docs/errors.md lists the reasons.
            ServiceUnavailableError: nobody answers, or the service cannot work at the moment.
            DeadlineError: it took too long.
            ServiceError: the service failed.
            OSError: the file cannot be read.
            TypeError: `image` is none of these.
        """
        content = await run_blocking(_images.read_image, image)
        request = upscale_codec.encode_upscale(
            content, scale=scale, size_hw=size_hw, output_format=output_format, recipe=recipe
        )
        response: upscaler_pb2.UpscaleResponse = await self._call(self._upscaler.Upscale, request, timeout_s)
        return upscale_codec.decode_upscaled(response)

    async def restore(
        self,
        image: ImageSource,
        *,
        remove: Sequence[str] = (),
        steps: int | None = None,
        seed: int = 0,
        force: bool = False,
        upscale: float | None = None,
        output_format: UpscaleFormat = "png",
        timeout_s: float | None = None,
    ) -> RestoredImage:
        """Remove damage from an image.

        Where ModelInfo.degradation_kinds is not empty, the service says what is wrong with it, and returns one with
        which nothing is wrong as it is.

        Transparency survives, grey images stay grey, and an embedded colour profile is passed on; 16 bits a channel
        become 8. Of an animation the first frame is taken.

        Args:
            image: as one of classify()'s.
            remove: the damage, by names or words of ModelInfo.restorer.kinds, also within a sentence; empty takes what
                the service detects.
            steps: evaluations of the network for each pixel; None takes ModelInfo.restorer.default_steps.
            seed: of the noise that the restoration starts from; the same seed and image give the same result.
            force: restores also an image that is judged clean, and where nothing is detected one that `remove` says
                nothing of.
            upscale: factor on height and width by which the restored image is upscaled, at least 1.
            output_format: the kind of file to return.
            timeout_s: deadline, in seconds; None takes the client's. A megapixel takes a quarter of a minute.

        Raises:
            InvalidRequestError: image, damage, steps or format are wrong; docs/errors.md lists the reasons.
            ServiceUnavailableError: nobody answers, or the service cannot work at the moment.
            DeadlineError: it took too long, or would.
            ServiceError: the service failed, or has no restorer.
            OSError: the file cannot be read.
            TypeError: `image` is none of these, or `remove` is a single text.
        """
        content = await run_blocking(_images.read_image, image)
        request = restore_codec.encode_restore(
            content, remove=remove, steps=steps, seed=seed, force=force, upscale=upscale, output_format=output_format
        )
        response: restorer_pb2.RestoreResponse = await self._call(self._restorer.Restore, request, timeout_s)
        return restore_codec.decode_restored(response)

    def library(self, name: str) -> AsyncLibrary:
        """Return the library of that name, to be created, filled or searched; ask nothing yet.

        Args:
            name: of a-z, 0-9, "-" and "_", beginning with a letter or digit.
        """
        return AsyncLibrary(self._connection, name)

    async def _call_in_parts(
        self, method: Any, parts: Iterator[Any], decode: Callable[..., list[_Answer]], timeout_s: float | None
    ) -> list[_Answer | FailedImage]:
        """Send requests one after the other, which are made as they are sent; return their outcomes in order."""
        outcomes: list[_Answer | FailedImage] = []
        while (part := await run_blocking(next, parts, None)) is not None:
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                outcomes += decode(await self._call(method, part, timeout_s), image_count=len(part.images))
        return outcomes

    @property
    def _embedder(self) -> Any:
        return self._connection.stub(embedding_pb2_grpc.EmbeddingServiceStub)

    @property
    def _restorer(self) -> Any:
        return self._connection.stub(restorer_pb2_grpc.RestorerServiceStub)

    @property
    def _upscaler(self) -> Any:
        return self._connection.stub(upscaler_pb2_grpc.UpscalerServiceStub)
