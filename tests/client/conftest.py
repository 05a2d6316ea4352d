"""A clipsr service that is real on the wire and whose every answer a test decides."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from tests.client.fake_library import FakeLibraryService

from clipsr import AsyncClient, Client
from clipsr.cli import main
from clipsr.v1 import (
    classifier_pb2,
    classifier_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    library_pb2_grpc,
    restorer_pb2,
    restorer_pb2_grpc,
    types_pb2,
    upscaler_pb2,
    upscaler_pb2_grpc,
)

MODEL_DIGEST = "sha256:" + "ab" * 32
INPUT_HW = (32, 48)
DAMAGE = (("low-light", 0.75), ("clean", 0.25))


def model_info() -> classifier_pb2.ModelInfo:
    """Every field set, each to another value."""
    named = classifier_pb2.NamedSet
    return classifier_pb2.ModelInfo(
        name="clipsr-test",
        digest=MODEL_DIGEST,
        image_architecture="RN-test",
        image_size_px=64,
        embed_dim=256,
        upscaler_architecture="liif-test",
        canvas_sizes_px=[32, 64, 128],
        native_min_side_px=65,
        logit_scale=50.0,
        logit_bias=-0.5,
        scoring_function="softmax",
        context_length=33,
        default_templates="@simple",
        label_sets=[named(name="animals", values=["cat", "dog", "bird"])],
        template_sets=[named(name="simple", values=["a photo of a {}."])],
        limits=types_pb2.Limits(
            max_images=256,
            max_image_bytes=16_777_216,
            max_image_pixels=67_108_864,
            max_labels=10_000,
            max_label_bytes=1_024,
            max_templates=128,
            max_texts=200_000,
            max_message_bytes=67_108_865,
            max_output_pixels=16_777_217,
            max_embed_texts=1_024,
            max_stream_images=64,
            caller=types_pb2.CallerLimits(items_per_second=100.5, burst=200, max_concurrent_calls=8),
            library=types_pb2.LibraryLimits(
                max_libraries=101,
                max_name_bytes=63,
                max_top_k=1_000,
                max_page_size=500,
                max_source_bytes=4_096,
                max_tags=32,
                max_tag_bytes=128,
                max_metadata=33,
                max_metadata_value_bytes=2_048,
                max_thumbnail_side_px=512,
                max_original_bytes=16_777_215,
                max_delete_hashes=10_001,
            ),
        ),
        artifacts=[types_pb2.Artifact(path="upscale/1/model.onnx", sha256="cd" * 32, size_bytes=123)],
        gateway_version="0.1.0",
    )


def make_status(code: int, message: str, *details: Message) -> status_pb2.Status:
    """A google.rpc.Status with its details."""
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def error_info(reason: str) -> error_details_pb2.ErrorInfo:
    """The detail that names the reason."""
    return error_details_pb2.ErrorInfo(reason=reason, domain="clipsr")


@dataclass
class FakeService(
    classifier_pb2_grpc.ClassifierServiceServicer,
    embedding_pb2_grpc.EmbeddingServiceServicer,
    restorer_pb2_grpc.RestorerServiceServicer,
    upscaler_pb2_grpc.UpscalerServiceServicer,
    health_pb2_grpc.HealthServicer,
):
    """Classifies anything: the labels in their order, cosines falling from 0.3. Upscales by "large " before it.

    Restores by writing "clear " before it.

    Attributes:
        url: where it listens.
        info: answered by GetModelInfo; its label sets are those that requests may name.
        requests: every ClassifyRequest that came.
        configs: the first message of every stream that came.
        streamed: the images of every stream that came, as (index, content).
        embeds: every EmbedImagesRequest and EmbedTextsRequest that came.
        upscales: every UpscaleRequest that came.
        restores: every RestoreRequest that came.
        leaves_unchanged: what is said of restored images.
        detects: the kinds of damage of a restored image, with their probabilities.
        restored: the file that comes back, instead.
        library: its LibraryService.
        metadata: of every call that came.
        keys: the API keys that are let in; empty lets all in.
        keeps_images: whether `streamed` is filled.
        stream_burst: images of a stream that are collected, and then answered from the last to the first.
        on_stream: called with the number of answers of a stream before each of them; may abort by its context.
        health: status by service; others are NOT_FOUND.
        delay_s: waited before every answer.
        answer: replaces the answer to Classify.
        warnings: of every call, and of the first answer of a stream.
    """

    url: str = ""
    info: classifier_pb2.ModelInfo = field(default_factory=model_info)
    requests: list[classifier_pb2.ClassifyRequest] = field(default_factory=list)
    configs: list[classifier_pb2.ClassifyOptions] = field(default_factory=list)
    streamed: list[list[tuple[int, bytes]]] = field(default_factory=list)
    embeds: list[Message] = field(default_factory=list)
    upscales: list[upscaler_pb2.UpscaleRequest] = field(default_factory=list)
    restores: list[restorer_pb2.RestoreRequest] = field(default_factory=list)
    detects: dict[str, float] = field(default_factory=dict)
    restored: bytes | None = None
    leaves_unchanged: bool = False
    library: FakeLibraryService = field(default_factory=lambda: FakeLibraryService(MODEL_DIGEST))
    metadata: list[dict[str, str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    keeps_images: bool = True
    stream_burst: int = 1
    on_stream: Callable[[int, grpc.ServicerContext], None] | None = None
    health: dict[str, int] = field(
        default_factory=lambda: {"": health_pb2.HealthCheckResponse.SERVING, "clipsr.v1.ClassifierService": 1}
    )
    delay_s: float = 0.0
    answer: Callable[[classifier_pb2.ClassifyRequest], classifier_pb2.ClassifyResponse] | None = None
    warnings: list[types_pb2.Warning] = field(default_factory=list)
    _failures: dict[bytes, status_pb2.Status] = field(default_factory=dict)
    _abort: status_pb2.Status | None = None
    _aborts_left: int | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _server: grpc.Server | None = None

    def fail_image(
        self,
        content: bytes,
        *,
        reason: str = "IMAGE_TRUNCATED",
        message: str = "The image ends early; send the whole file.",
        code: int = code_pb2.INVALID_ARGUMENT,
    ) -> None:
        """From now on, images of this content fail; among those to classify, their neighbours do not."""
        self._failures[content] = make_status(code, message, error_info(reason))

    def abort(self, code: grpc.StatusCode, message: str, *details: Message, calls: int | None = None) -> None:
        """From now on, so many calls fail, or all, those of health excepted.

        Without details, no google.rpc.Status is sent.
        """
        self._abort = make_status(code.value[0], message, *details)
        self._aborts_left = calls

    def heal(self) -> None:
        """Ends what abort() began."""
        self._abort = None

    def start(self, *, credentials: grpc.ServerCredentials | None = None, port: int = 0) -> None:
        """Listens on a free port, or on that one."""
        server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.max_receive_message_length", -1)]
        )
        classifier_pb2_grpc.add_ClassifierServiceServicer_to_server(self, server)
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(self, server)
        restorer_pb2_grpc.add_RestorerServiceServicer_to_server(self, server)
        upscaler_pb2_grpc.add_UpscalerServiceServicer_to_server(self, server)
        library_pb2_grpc.add_LibraryServiceServicer_to_server(self.library, server)
        health_pb2_grpc.add_HealthServicer_to_server(self, server)
        address = f"127.0.0.1:{port}"
        bound = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
        self.url = f"127.0.0.1:{bound}"
        server.start()
        self._server = server

    def stop(self) -> None:
        """Cuts all calls short and frees the port."""
        self._stopped.set()
        if self._server is not None:
            self._server.stop(None).wait()

    def Classify(self, request, context):  # noqa: N802 - the name in the proto
        self.requests.append(request)
        self._wait_or_abort(context)
        if self.answer is not None:
            return self.answer(request)
        labels = self._labels(request.options.label_space)
        return classifier_pb2.ClassifyResponse(
            results=[self._result(image.content, labels, request.options) for image in request.images],
            warnings=self.warnings,
        )

    def ClassifyStream(self, request_iterator, context):  # noqa: N802 - the name in the proto
        options = next(request_iterator).options
        self.configs.append(options)
        images: list[tuple[int, bytes]] = []
        self.streamed.append(images)
        self._wait_or_abort(context)
        labels = self._labels(options.label_space)
        held: list[classifier_pb2.ClassifyStreamResponse] = []
        answered = 0
        for message in request_iterator:
            content = message.image.image.content
            if self.keeps_images:
                images.append((message.image.index, content))
            result = self._result(content, labels, options)
            held.append(classifier_pb2.ClassifyStreamResponse(index=message.image.index, result=result))
            if len(held) < self.stream_burst:
                continue
            while held:
                self._before_answer(answered, context)
                yield self._warn(held.pop(), answered)
                answered += 1
        while held:
            self._before_answer(answered, context)
            yield self._warn(held.pop(), answered)
            answered += 1

    def EmbedImages(self, request, context):  # noqa: N802 - the name in the proto
        self.embeds.append(request)
        self._wait_or_abort(context)
        results = []
        for image in request.images:
            if image.content in self._failures:
                results.append(embedding_pb2.EmbedImageResult(error=self._failures[image.content]))
                continue
            embedding = embedding_pb2.ImageEmbedding(
                values=[0.6, 0.8],
                input_size=types_pb2.Size(height=INPUT_HW[0], width=INPUT_HW[1]),
                route=request.route or types_pb2.ROUTE_UPSCALED,
                timing=types_pb2.Timing(queue_ms=0.5, inference_ms=12.25),
                encoder=request.encoder or types_pb2.ENCODER_PLAIN,
            )
            if request.encoder == types_pb2.ENCODER_ROBUST:
                embedding.degradations.add(kind="noisy", cosine=0.5, probability=0.75)
            results.append(embedding_pb2.EmbedImageResult(embedding=embedding))
        return embedding_pb2.EmbedImagesResponse(results=results, model_digest=self.info.digest)

    def _warn(self, response, answered):
        response.warnings.extend([] if answered else self.warnings)
        return response

    def EmbedTexts(self, request, context):  # noqa: N802 - the name in the proto
        self.embeds.append(request)
        self._wait_or_abort(context)
        embeddings = [embedding_pb2.TextEmbedding(values=[len(text), -0.5]) for text in request.texts]
        return embedding_pb2.EmbedTextsResponse(
            embeddings=embeddings, model_digest=self.info.digest, warnings=self.warnings
        )

    def Upscale(self, request, context):  # noqa: N802 - the name in the proto
        self.upscales.append(request)
        self._wait_or_abort(context)
        if request.image.content in self._failures:
            context.abort_with_status(rpc_status.to_status(self._failures[request.image.content]))
        factor = request.scale or 2
        size = types_pb2.Size(height=int(INPUT_HW[0] * factor), width=int(INPUT_HW[1] * factor))
        return upscaler_pb2.UpscaleResponse(
            content=b"large " + request.image.content,
            format=request.format,
            input_size=types_pb2.Size(height=INPUT_HW[0], width=INPUT_HW[1]),
            output_size=request.size if request.HasField("size") else size,
            timing=types_pb2.Timing(queue_ms=0.5, inference_ms=12.25),
            model_digest=self.info.digest,
        )

    def Restore(self, request, context):  # noqa: N802 - the name in the proto
        self.restores.append(request)
        self._wait_or_abort(context)
        if request.image.content in self._failures:
            context.abort_with_status(rpc_status.to_status(self._failures[request.image.content]))
        return restorer_pb2.RestoreResponse(
            content=self.restored or b"clear " + request.image.content,
            format=request.format,
            size=types_pb2.Size(height=INPUT_HW[0], width=INPUT_HW[1]),
            output_size=types_pb2.Size(
                height=round(INPUT_HW[0] * (request.upscale or 1)), width=round(INPUT_HW[1] * (request.upscale or 1))
            ),
            removed=request.remove,
            steps=0 if self.leaves_unchanged and self.detects else request.steps or 5,
            unchanged=self.leaves_unchanged,
            detected=[types_pb2.Degradation(kind=k, cosine=p / 2, probability=p) for k, p in self.detects.items()],
            timing=types_pb2.Timing(queue_ms=0.5, inference_ms=12.25),
            model_digest=self.info.digest,
        )

    def GetModelInfo(self, request, context):  # noqa: N802 - the name in the proto
        self._wait_or_abort(context)
        return classifier_pb2.GetModelInfoResponse(model_info=self.info)

    def Check(self, request, context):  # noqa: N802 - the name in the proto
        self._stopped.wait(self.delay_s)
        if request.service not in self.health:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=self.health[request.service])

    def _labels(self, label_space: types_pb2.LabelSpace) -> Sequence[str]:
        named = {label_set.name: label_set.values for label_set in self.info.label_sets}
        return label_space.labels or named.get(label_space.label_set, ())

    def _result(
        self, content: bytes, labels: Sequence[str], options: classifier_pb2.ClassifyOptions
    ) -> classifier_pb2.ClassifyResult:
        if content in self._failures:
            return classifier_pb2.ClassifyResult(error=self._failures[content])
        predictions = [
            types_pb2.Prediction(label=label, cosine=0.3 - index / 64, probability=0.5 ** (index + 1))
            for index, label in enumerate(labels[: options.top_k or len(labels)])
        ]
        looks_damaged = options.encoder == types_pb2.ENCODER_AUTO and b"clean" not in content
        is_robust = options.encoder == types_pb2.ENCODER_ROBUST or looks_damaged
        return classifier_pb2.ClassifyResult(
            classification=classifier_pb2.Classification(
                predictions=predictions,
                input_size=types_pb2.Size(height=INPUT_HW[0], width=INPUT_HW[1]),
                route=options.route or types_pb2.ROUTE_UPSCALED,
                timing=types_pb2.Timing(queue_ms=0.5, inference_ms=12.25),
                model_digest=self.info.digest,
                none_of_these=options.none_of_these.min_cosine > 0.3 or options.none_of_these.calibrated,
                none_probability=0.75 if options.none_of_these.calibrated else None,
                embedding=[0.6, 0.8] if options.return_embedding else [],
                encoder_input=b"png of " + content if options.return_encoder_input else b"",
                encoder=types_pb2.ENCODER_ROBUST if is_robust else types_pb2.ENCODER_PLAIN,
                degradations=[types_pb2.Degradation(kind=kind, cosine=0.5, probability=p) for kind, p in DAMAGE]
                if is_robust
                else [],
            )
        )

    def _before_answer(self, answered: int, context: grpc.ServicerContext) -> None:
        if self.on_stream is not None:
            self.on_stream(answered, context)

    def _wait_or_abort(self, context: grpc.ServicerContext) -> None:
        self._stopped.wait(self.delay_s)
        sent = dict(context.invocation_metadata())
        self.metadata.append(sent)
        if self.keys and sent.get("authorization", "").removeprefix("Bearer ") not in self.keys:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "No such key.")
        status = self._abort
        if status is None:
            return
        if self._aborts_left is not None:
            self._aborts_left -= 1
            if self._aborts_left == 0:
                self.heal()
        if status.details:
            context.abort_with_status(rpc_status.to_status(status))
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        context.abort(code, status.message)


@pytest.fixture
def fake_service() -> Iterator[FakeService]:
    """A service that answers well until a test decides otherwise."""
    service = FakeService()
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def module_service() -> Iterator[FakeService]:
    """One service for all tests of a module, each of which leaves it as it was."""
    service = FakeService()
    service.start()
    yield service
    service.stop()


class AwaitingClient:
    """An AsyncClient with the face of a Client, so that the same tests hold both."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._client = AsyncClient(*args, **options)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._ordinary(getattr(self._client, name))

    def library(self, name: str) -> Any:
        """An AsyncLibrary with the face of a Library."""
        library = self._client.library(name)
        methods = {each for each in dir(library) if not each.startswith("_")} - {"name"}
        return SimpleNamespace(name=library.name, **{each: self._ordinary(getattr(library, each)) for each in methods})

    def _ordinary(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            if hasattr(answer, "__anext__"):
                return self._iterate(answer)
            return self._loop.run_until_complete(answer)

        return call

    def _iterate(self, outcomes: Any) -> Iterator[Any]:
        try:
            while True:
                yield self._loop.run_until_complete(anext(outcomes))
        except StopAsyncIteration:
            return
        finally:
            self._loop.run_until_complete(outcomes.aclose())

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


@pytest.fixture(params=[Client, AwaitingClient], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind; they are closed at the end."""
    clients: list[Any] = []

    def make(*args: Any, **options: Any) -> Any:
        clients.append(request.param(*args, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Any], fake_service: FakeService) -> Any:
    """A client of either kind, connected to the fake service."""
    return connect(fake_service.url, timeout_s=10.0)


@pytest.fixture
def run(
    fake_service: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SimpleNamespace]:
    """Runs the command against the fake service; gives exit code, standard output and standard error."""
    monkeypatch.setenv("CLIPSR_URL", fake_service.url)

    def run(*arguments: str) -> SimpleNamespace:
        capsys.readouterr()
        code = main(list(arguments))
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return SimpleNamespace(code=code, out=output.out, err=output.err)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images at two depths, and with what is no image."""
    photos = tmp_path / "photos"
    (photos / "b").mkdir(parents=True)
    (photos / ".hidden").mkdir()
    for name in ("c.PNG", "a.jpg", "b/猫.webp", ".hidden/x.png", ".y.png", "notes.txt"):
        (photos / name).write_bytes(name.encode())
    return photos
