"""A gateway on a real socket, in front of a backend that tests control."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from PIL import Image

from clipsr.v1 import (
    classifier_pb2,
    classifier_pb2_grpc,
    embedding_pb2_grpc,
    library_pb2_grpc,
    restorer_pb2_grpc,
    types_pb2,
    upscaler_pb2_grpc,
)
from clipsr_gateway import Gateway, GatewayConfig, HealthSchedule, Similarities, load_manifest
from clipsr_gateway._backend.protocol import Damage, ImageFeatures, TextEmbeddings

IMAGENET_TEMPLATES = 80
TILE_PX = 64
EMBED_DIM = 256
CONTEXT_LENGTH = 32


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Undoes what the command line does to the log, whose stream would be closed for the next test."""
    logger = logging.getLogger("clipsr_gateway")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture
def document() -> dict[str, Any]:
    """A manifest as export writes it."""
    return {
        "schema_version": 1,
        "name": "clipsr-test",
        "digest": "sha256:" + "ab" * 32,
        "image_encoder": {
            "architecture": "RN-test",
            "image_size_px": TILE_PX,
            "embed_dim": EMBED_DIM,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "interpolation": "bicubic",
        },
        "text_encoder": {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "pad_token_id": 0},
        "upscaler": {
            "architecture": "liif-test",
            "canvas_sizes_px": [128, 32, 64],
            "scale_max": 4.0,
            "receptive_field_px": 5,
        },
        "scoring": {"function": "softmax", "logit_scale": 50.0, "logit_bias": 0.0},
        "native_min_side_px": 64,
        "default_templates": "@simple",
        "template_sets": {
            "simple": ["a photo of a {}."],
            "cifar": ["a photo of a {}.", "a blurry photo of a {}."],
            "imagenet": [f"photo number {i} of a {{}}." for i in range(IMAGENET_TEMPLATES)],
        },
        "label_sets": {"animals": ["cat", "dog", "bird"]},
        "text_banks": [],
        "artifacts": {"upscale/1/model.onnx": {"sha256": "cd" * 32, "bytes": 123}},
        "versions": {"clipsr-export": "0.1.0"},
    }


@pytest.fixture
def repository(tmp_path: Path, document: dict[str, Any]) -> Path:
    """A model repository that holds nothing but the manifest."""
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Makes an image file of the given columns and rows."""

    def make(width: int = 8, height: int = 8, *, mode: str = "RGB") -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, (width, height)).save(buffer, format="PNG")
        return buffer.getvalue()

    return make


@dataclass
class FakeBackend:
    """A backend whose every answer a test decides."""

    target: str = "127.0.0.1:1"
    ready: bool = True
    answer: Callable[[bytes, int], Similarities] | None = None
    errors: dict[bytes, Exception] = field(default_factory=dict)
    error: Exception | None = None
    hold: asyncio.Event | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    prepared: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    warmed: list[int] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    cancelled: int = 0
    closed: bool = False
    tile_limit: int = 32
    tile_calls: list[dict[str, Any]] = field(default_factory=list)
    tile_answer: Callable[[np.ndarray], np.ndarray] | None = None
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((3, TILE_PX, TILE_PX), np.uint8))
    restore_calls: list[dict[str, Any]] = field(default_factory=list)
    embed_calls: list[dict[str, Any]] = field(default_factory=list)
    embed_answer: Callable[[np.ndarray], np.ndarray] | None = None
    damage: Damage | None = None

    async def is_ready(self, *, timeout_s: float) -> bool:
        return self.ready

    def encode_labels(self, *, labels: Sequence[str], templates: Sequence[str]) -> FakeLabels:
        self.prepared.append((tuple(labels), tuple(templates)))
        return FakeLabels(self, tuple(labels))

    async def embed_image(
        self,
        image: bytes,
        *,
        fit: str,
        route: str,
        request_id: str,
        timeout_s: float | None,
        size_hw: tuple[int, int] | None = None,
        encoder: str = "plain",
    ) -> ImageFeatures:
        call = {"image": image, "fit": fit, "route": route, "request_id": request_id, "timeout_s": timeout_s}
        self.embed_calls.append({**call, "encoder": encoder})
        await self.compute()
        self.raise_error(image)
        embedding = self.embed_answer(embedding_of(image)) if self.embed_answer else embedding_of(image)
        return ImageFeatures(embedding=embedding, damage=self.damage if encoder == "robust" else None)

    async def embed_texts(
        self, texts: Sequence[str], *, templates: Sequence[str], request_id: str, timeout_s: float | None
    ) -> TextEmbeddings:
        self.embed_calls.append({"texts": tuple(texts), "templates": tuple(templates), "request_id": request_id})
        await self.compute()
        self.raise_error(b"")
        rows = np.stack([embedding_of("|".join([text, *templates])) for text in texts])
        values = self.embed_answer(rows) if self.embed_answer else rows
        return TextEmbeddings(values=values, is_cut=self.find_cut(texts))

    def find_cut(self, texts: Sequence[str]) -> np.ndarray:
        """A text of more than as many letters as the context has tokens is cut."""
        return np.array([len(text) > CONTEXT_LENGTH for text in texts])

    def raise_error(self, image: bytes) -> None:
        """Raises what a test wants to go wrong."""
        error = self.errors.get(image) or self.error
        if error:
            raise error

    async def max_tiles(self, model_name: str, *, timeout_s: float | None) -> int:
        return self.tile_limit

    async def upscale(
        self, model_name: str, canvas: np.ndarray, box: np.ndarray, *, request_id: str, timeout_s: float | None
    ) -> np.ndarray:
        self.tile_calls.append(
            {"model": model_name, "canvas": canvas, "box": box, "request_id": request_id, "timeout_s": timeout_s}
        )
        await self.compute()
        if self.error:
            raise self.error
        pixels = np.stack([render_nearest(*pair, TILE_PX) for pair in zip(canvas, box, strict=True)])
        return self.tile_answer(pixels) if self.tile_answer else pixels

    async def restore(self, lq: np.ndarray, context: np.ndarray, **options: Any) -> np.ndarray:
        self.restore_calls.append({"lq": lq, "context": context, **options})
        await self.compute()
        self.raise_error(b"")
        return 255 - lq if context.any() else lq

    async def compute(self) -> None:
        """Takes its time, and notes who is there and who leaves early."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await (self.hold.wait() if self.hold else asyncio.sleep(0.005))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        self.closed = True

    def user_calls(self) -> list[dict[str, Any]]:
        """The calls that are not the monitor's."""
        return [call for call in self.calls if not call["request_id"].startswith("canary")]


@dataclass
class FakeLabels:
    backend: FakeBackend
    labels: tuple[str, ...]

    @property
    def label_count(self) -> int:
        return len(self.labels)

    async def classify(
        self,
        image: bytes,
        *,
        fit: str,
        route: str,
        request_id: str,
        timeout_s: float | None,
        size_hw: tuple[int, int] | None = None,
        encoder: str = "plain",
        wants_embedding: bool = False,
        wants_pixels: bool = False,
        wants_cut: bool = False,
        wants_none: bool = False,
    ) -> Similarities:
        backend = self.backend
        backend.calls.append(
            {
                **{"image": image, "fit": fit, "route": route, "request_id": request_id, "timeout_s": timeout_s},
                **{"wants_cut": wants_cut, "wants_none": wants_none, "encoder": encoder},
            }
        )
        if request_id.startswith("canary"):
            return even_scores(self.label_count)
        await backend.compute()
        backend.raise_error(image)
        scores = backend.answer(image, self.label_count) if backend.answer else even_scores(self.label_count)
        return replace(
            scores,
            none_probability=scores.none_probability if wants_none else None,
            image_embedding=embedding_of(image) if wants_embedding or encoder == "auto" else None,
            pixels=backend.pixels if wants_pixels else None,
            label_is_cut=backend.find_cut(self.labels) if wants_cut else None,
        )

    async def warm(self, *, embed_dim: int, request_id: str, timeout_s: float | None) -> None:
        self.backend.warmed.append(self.label_count)
        await self.backend.compute()
        if self.backend.error:
            raise self.backend.error


def embedding_of(content: bytes | str) -> np.ndarray:
    """A unit vector that only this content has."""
    seed = hashlib.sha256(content if isinstance(content, bytes) else content.encode()).digest()
    values = np.random.default_rng(list(seed)).normal(size=EMBED_DIM).astype(np.float32)
    return values / np.linalg.norm(values)


def render_nearest(canvas: np.ndarray, box: np.ndarray, size_px: int) -> np.ndarray:
    """Renders [3, size_px, size_px] by the nearest pixel, in fp32 as the graph does: a wrong box shows at once."""
    index = []
    for start, length, n_source in ((box[0], box[2], canvas.shape[1]), (box[1], box[3], canvas.shape[2])):
        u = start + np.arange(1, 2 * size_px, 2, dtype=np.float32) * length / np.float32(2 * size_px)
        index.append(np.clip(np.floor(u).astype(int), 0, n_source - 1))
    return canvas[:, index[0][:, None], index[1][None, :]]


def even_scores(label_count: int) -> Similarities:
    """The same cosine for every label."""
    return Similarities(
        cosine=np.full(label_count, 0.25, np.float32), probability=np.full(label_count, 1 / label_count, np.float32)
    )


async def ask(method: Any, messages: Iterable[Any]) -> Any:
    """Opens a stream, writes messages, and leaves it open unless there are none; gives the call, to be read.

    gRPC's asyncio client may lose the status of a call that ends while there is something to send, and the end of an
    iterator of messages is sent, too.
    """
    call = method()
    is_empty = True
    for message in messages:
        await call.write(message)
        is_empty = False
    if is_empty:
        await call.done_writing()
    return call


@pytest.fixture
def backend() -> FakeBackend:
    """What stands in for Triton."""
    return FakeBackend()


@dataclass
class Running:
    """A gateway that listens, and a channel to it."""

    gateway: Gateway
    port: int
    channel: grpc.aio.Channel
    stub: Any
    embedder: Any
    upscaler: Any
    restorer: Any
    library: Any
    health: Any

    def queue_length(self) -> float | None:
        """Requests that wait for a place in the backend."""
        return self.gateway.operations.metrics.registry.get_sample_value("clipsr_gateway_queue_length")


@pytest_asyncio.fixture
async def start(repository: Path, backend: FakeBackend) -> AsyncIterator[Callable[..., Any]]:
    """Starts gateways on free ports; options are those of GatewayConfig."""
    running: list[Running] = []

    async def start_one(**options: Any) -> Running:
        schedule = HealthSchedule(
            readiness_interval_s=0.02, waiting_interval_s=0.02, canary_interval_s=options.pop("canary_interval_s", 30.0)
        )
        config = GatewayConfig(
            **{"listen": "127.0.0.1:0", "repository": repository, "grace_s": 1.0, "schedule": schedule, **options}
        )
        gateway = Gateway(config, manifest=load_manifest(repository), backend=backend)
        port = await gateway.start()
        channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}",
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        running.append(
            Running(
                gateway=gateway,
                port=port,
                channel=channel,
                stub=stub,
                embedder=embedding_pb2_grpc.EmbeddingServiceStub(channel),
                upscaler=upscaler_pb2_grpc.UpscalerServiceStub(channel),
                restorer=restorer_pb2_grpc.RestorerServiceStub(channel),
                library=library_pb2_grpc.LibraryServiceStub(channel),
                health=health_pb2_grpc.HealthStub(channel),
            )
        )
        return running[-1]

    yield start_one
    for one in running:
        await one.channel.close()
        await one.gateway.stop()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits for a condition; fails after some seconds."""

    async def wait(condition: Callable[[], object]) -> None:
        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        await asyncio.wait_for(poll(), 30)

    return wait


@pytest.fixture
def request_of(png: Callable[..., bytes]) -> Callable[..., classifier_pb2.ClassifyRequest]:
    """Makes a request; one small image and two labels unless told otherwise."""

    def make(
        *images: bytes,
        labels: Sequence[str] = ("cat", "dog"),
        label_set: str = "",
        templates: Sequence[str] = (),
        **options: Any,
    ) -> classifier_pb2.ClassifyRequest:
        return classifier_pb2.ClassifyRequest(
            images=[types_pb2.Image(content=content) for content in images or (png(),)],
            options=classifier_pb2.ClassifyOptions(
                label_space=types_pb2.LabelSpace(labels=labels, label_set=label_set, templates=templates), **options
            ),
        )

    return make


@dataclass(frozen=True)
class Detailed:
    """A google.rpc.Status, taken apart."""

    code: int
    message: str
    reason: str
    domain: str
    fields: list[str]
    retry_s: float | None


def take_apart(status: status_pb2.Status) -> Detailed:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_s = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_s = retry.retry_delay.ToTimedelta().total_seconds()
    return Detailed(
        code=status.code,
        message=status.message,
        reason=info.reason,
        domain=info.domain,
        fields=[violation.field for violation in bad.field_violations],
        retry_s=retry_s,
    )


@pytest.fixture
def detailed() -> Callable[[status_pb2.Status | grpc.aio.AioRpcError], Detailed]:
    """Reads the details of a status, or of the error that carries it."""

    def read(source: status_pb2.Status | grpc.aio.AioRpcError) -> Detailed:
        if isinstance(source, status_pb2.Status):
            return take_apart(source)
        blob = dict(source.trailing_metadata())["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(blob)
        assert status.code == source.code().value[0]
        assert status.message == source.details()
        return take_apart(status)

    return read
