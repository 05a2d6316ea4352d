# Written by scripts/unasync.py from _async/client.py: change that one.
"""The client: the calls of the service as methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from clipsr import _images
from clipsr._codecs import classify as classify_codec
from clipsr._codecs import embed as embed_codec
from clipsr._codecs import upscale as upscale_codec
from clipsr._codecs.arguments import as_text
from clipsr._codecs.stream import Outcome, classify_stream_codec
from clipsr._errors import DeadlineError, NotFoundError, ServiceUnavailableError
from clipsr._library_types import LibraryInfo
from clipsr._rpc import health
from clipsr._rpc.credentials import FilePath, make_access
from clipsr._rpc.retry import DEFAULT_RETRIES, RetryPolicy
from clipsr._rpc.window import READ_AHEAD
from clipsr._sync.channel import run_blocking
from clipsr._sync.connection import Connection
from clipsr._sync.library import Library, list_libraries
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


class Client:
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
        self._connection = Connection(url, timeout_s=timeout_s, retry=RetryPolicy(retries=retries), access=access)
        self._call = self._connection.call

    @property
    def url(self) -> str:
        """The address that was given."""
        return self._connection.url

    def classify(
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
        """Classify images with the caller's own labels, or with a set that the model publishes.

        Images that are too many or too large for one request go in several, one after the other; files are read as
        they are sent. Without images nothing is asked.

        Args:
            images: image files: bytes, paths, or open binary files.
            labels: what to choose from, each once; leave empty to use `label_set`.
            options: all of what follows but `timeout_s` as one value, instead of single arguments.
            label_set: name of a published set, such as "cifar10"; model_info() lists them.
            templates: prompts with one "{}" where the label goes, or one published set with '@', such as "@cifar";
                empty leaves them to the service.
            top_k: predictions for each image, best first; 0 gives all labels.
            fit: how images that are not square are fitted.
            route: the path to the image encoder.
            min_cosine: below this cosine of its best label, in [-1, 1], an image shows none of these.
            min_probability: below this probability of its best label, in [0, 1], too; by default neither is asked.
            return_embedding: gives each image's embedding as well.
            return_encoder_input: gives a PNG of what the image encoder saw as well.
            timeout_s: deadline of each request, in seconds; None takes the client's.

        Returns:
            One outcome an image, in their order. An image that fails does not fail its neighbours.

        Raises:
            InvalidRequestError: labels, templates or options are wrong.
            ServiceUnavailableError: nobody answers, or the service cannot work at the moment.
            RateLimitedError: the service takes no more from this caller at the moment.
            AuthenticationError: the service does not let this caller in, or TLS failed.
            DeadlineError: a request took too long.
            ServiceError: the service failed.
            ClientClosedError: the client was closed, or belongs to another event loop.
            OSError: a file cannot be read.
            TypeError: an argument that must be a sequence is a single text or image.
        """
        sources = map(_images.try_read_image, _images.as_sequence(images))
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
        parts = classify_codec.split(sources, classifier_pb2.ClassifyRequest(options=asked))
        outcomes: list[Classification | FailedImage] = []
        while (part := run_blocking(next, parts, None)) is not None:
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                response: classifier_pb2.ClassifyResponse = self._call(self._classifier.Classify, part, timeout_s)
                outcomes += classify_codec.decode_results(response, image_count=len(part.images))
        return outcomes

    def classify_stream(
        self,
        images: Iterable[ImageSource | FailedImage],
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
    ) -> Iterator[Outcome]:
        """Classify any number of images over one connection, in memory that does not grow with them.

        Images are read in a thread of their own, and no more than `read_ahead` are read and not yet handed back. When
        the connection fails, what was not answered is sent again over a new one. Close the iterator (or exhaust it) to
        end the stream before its images do; in asyncio by `async with contextlib.aclosing(…) as outcomes`.

        Args:
            images: as classify()'s, of any length, such as a generator; for AsyncClient it may be an asynchronous one.
                A file that cannot be read fails alone; so does an image for which there is a FailedImage already, which
                comes back as it is.
            labels: as classify()'s; so are the options down to `return_encoder_input`.
            options: as in classify().
            label_set: name of a published set.
            templates: prompts.
            top_k: predictions for each image.
            fit: how images that are not square are fitted.
            route: the path to the image encoder.
            min_cosine: threshold of "none of these".
            min_probability: threshold of "none of these".
            return_embedding: gives each image's embedding as well.
            return_encoder_input: gives a PNG of what the image encoder saw as well.
            read_ahead: images in memory at once, at least 1.
            idle_timeout_s: longest time without any answer while images wait for one, in seconds; None takes the
                client's timeout_s. The stream as a whole may take as long as it needs.

        Returns:
            An iterator over (place among the images, from 0; outcome), as the answers come: not in order.

        Raises:
            InvalidRequestError: labels, templates or options are wrong; by the call, or once the service has looked.
            ClipsrError: from the iterator, as classify(), once `retries` are used up; what came before it stands.
            TypeError: `images` is a single one, or holds what is no image.
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
            lambda: self._classifier.ClassifyStream,
            _images.as_iterable(images),
            classify_stream_codec(asked),
            read_ahead=read_ahead,
            idle_timeout_s=idle_timeout_s,
        )

    def embed_images(
        self,
        images: Sequence[ImageSource],
        *,
        fit: Fit = "auto",
        route: Route = "auto",
        timeout_s: float | None = None,
    ) -> list[ImageEmbedding | FailedImage]:
        """Embed images, for callers that search, cluster or compare by themselves.

        Args:
            images: as classify()'s.
            fit: how images that are not square are fitted.
            route: the path to the image encoder.
            timeout_s: deadline of each request, in seconds; None takes the client's.

        Returns:
            One outcome an image, in their order.

        Raises:
            ClipsrError: as classify(); so are OSError and TypeError.
        """
        query = embed_codec.encode_embed_query(fit=fit, route=route)
        parts = classify_codec.split(map(_images.try_read_image, _images.as_sequence(images)), query)
        outcomes: list[ImageEmbedding | FailedImage] = []
        while (part := run_blocking(next, parts, None)) is not None:
            if isinstance(part, FailedImage):
                outcomes.append(part)
            else:
                response: embedding_pb2.EmbedImagesResponse = self._call(self._embedder.EmbedImages, part, timeout_s)
                outcomes += embed_codec.decode_image_embeddings(response, image_count=len(part.images))
        return outcomes

    def embed_texts(
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
            response: embedding_pb2.EmbedTextsResponse = self._call(self._embedder.EmbedTexts, part, timeout_s)
            embeddings += embed_codec.decode_text_embeddings(response, text_count=len(part.texts))
        return embeddings

    def upscale(
        self,
        image: ImageSource,
        *,
        scale: float | None = None,
        size_hw: tuple[int, int] | None = None,
        output_format: UpscaleFormat = "png",
        timeout_s: float | None = None,
    ) -> UpscaledImage:
        """Render an image at a higher resolution.

        Transparency survives, grey images stay grey, and an embedded colour profile is passed on; 16 bits a channel
        become 8. Of an animation the first frame is taken.

        Args:
            image: an image file: bytes, a path, or an open binary file.
            scale: factor on height and width, at least 1, such as 3.5; or give `size_hw`.
            size_hw: rows and columns of the output, each at least the image's own; the aspect ratio may change.
            output_format: the kind of file to return.
            timeout_s: deadline, in seconds; None takes the client's. Large outputs take a minute on a small machine.

        Raises:
            InvalidRequestError: the image, the size or the format is wrong; docs/errors.md lists the reasons.
            ServiceUnavailableError: nobody answers, or the service cannot work at the moment.
            DeadlineError: it took too long.
            ServiceError: the service failed.
            OSError: the file cannot be read.
            TypeError: `image` is none of the three.
        """
        content = run_blocking(_images.read_image, image)
        request = upscale_codec.encode_upscale(content, scale=scale, size_hw=size_hw, output_format=output_format)
        response: upscaler_pb2.UpscaleResponse = self._call(self._upscaler.Upscale, request, timeout_s)
        return upscale_codec.decode_upscaled(response)

    def library(self, name: str) -> Library:
        """Return the library of that name, to be created, filled or searched; ask nothing yet.

        Args:
            name: of a-z, 0-9, "-" and "_", beginning with a letter or digit.
        """
        return Library(self._connection, name)

    def list_libraries(self, *, timeout_s: float | None = None) -> list[LibraryInfo]:
        """Describe all libraries of the service, by name.

        Args:
            timeout_s: deadline, in seconds; None takes the client's.

        Raises:
            ClipsrError: as classify(); ServiceError where the service keeps no libraries.
        """
        return list_libraries(self._connection, timeout_s=timeout_s)

    def model_info(self, *, timeout_s: float | None = None) -> ModelInfo:
        """Describe the model that answers, and what it accepts.

        Raises:
            ClipsrError: as classify().
        """
        request = classifier_pb2.GetModelInfoRequest()
        return classify_codec.decode_model_info(self._call(self._classifier.GetModelInfo, request, timeout_s))

    def health(self, *, service: str = "", timeout_s: float | None = None) -> str:
        """Ask the standard health service, grpc.health.v1.

        Args:
            service: a full name such as "clipsr.v1.ClassifierService"; "" asks for the server as a whole.
            timeout_s: deadline, in seconds; None takes the client's.

        Returns:
            "SERVING", "NOT_SERVING", "UNKNOWN", or "SERVICE_UNKNOWN" if the server has no such service.

        Raises:
            ClipsrError: as classify(); ServiceUnavailableError if nobody answers.
        """
        check = self._connection.stub(health_pb2_grpc.HealthStub).Check
        request = health_pb2.HealthCheckRequest(service=as_text("service", service))
        try:
            return health.status_name(self._call(check, request, timeout_s, retry=_NEVER))
        except NotFoundError:
            return health.SERVICE_UNKNOWN

    def wait_for_ready(self, *, service: str = "", timeout_s: float | None = None) -> None:
        """Wait until the service is there and say that it can work.

        Args:
            service: as health()'s.
            timeout_s: how long to wait, in seconds; None takes the client's timeout.

        Raises:
            ServiceUnavailableError: nobody answers, or the service is not ready, and the time is up.
            AuthenticationError: TLS failed, or the service does not let this caller in; waiting would not help.
            ClipsrError: as health().
        """
        poller = health.ReadinessPoller(self.url, self._connection.choose_timeout_s(timeout_s))
        while True:
            try:
                is_ready = poller.observe(self.health(service=service, timeout_s=poller.next_timeout_s()))
            except (DeadlineError, ServiceUnavailableError) as error:
                is_ready = poller.observe(error)
            if is_ready:
                return
            self._connection.sleep(poller.pause_s())

    def close(self) -> None:
        """Close the connection: calls under way, and later ones, end with ClientClosedError."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _classifier(self) -> Any:
        return self._connection.stub(classifier_pb2_grpc.ClassifierServiceStub)

    @property
    def _embedder(self) -> Any:
        return self._connection.stub(embedding_pb2_grpc.EmbeddingServiceStub)

    @property
    def _upscaler(self) -> Any:
        return self._connection.stub(upscaler_pb2_grpc.UpscalerServiceStub)
