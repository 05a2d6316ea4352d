"""The one module that speaks to Triton, against a KServe v2 server on a real socket (tritonclient's own servicer)."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from clipsr_gateway import (
    BackendFaultError,
    BackendUnavailableError,
    DeadlineExceededError,
    ImageRejectedError,
    InvalidRequestError,
)
from clipsr_gateway._backend.protocol import TextEmbeddings
from clipsr_gateway._backend.triton import TritonBackend

LABELS = ("cat", "犬", "🐦")
MODELS = (
    *("classify", "classify_detailed", "classify_native", "classify_native_detailed"),
    *("embed_image", "embed_image_native", "embed_text"),
)
TEMPLATES = ("a photo of a {}.", "a {}")


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers as Triton does; a test sets what goes wrong."""

    def __init__(self) -> None:
        self.requests: list[service_pb2.ModelInferRequest] = []
        self.server_ready = True
        self.models = set(MODELS)
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.hold: asyncio.Event | None = None
        self.cancelled = 0
        self.outputs: list[tuple[str, str, np.ndarray]] | None = None
        self.max_batch_size = 32
        self.bad_image: bytes | None = None

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - KServe's name
        return service_pb2.ServerReadyResponse(ready=self.server_ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - KServe's name
        return service_pb2.ModelReadyResponse(ready=request.name in self.models)

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - KServe's name
        if self.failure:
            await context.abort(*self.failure)
        response = service_pb2.ModelConfigResponse()
        response.config.name, response.config.max_batch_size = request.name, self.max_batch_size
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - KServe's name
        self.requests.append(request)
        if self.failure:
            await context.abort(*self.failure)
        if self.hold:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        outputs = self.outputs
        if outputs is None:
            rows, count = request.inputs[2].shape
            images = strings(request.raw_input_contents[0])
            if self.bad_image in images:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, REJECTIONS["plain"])
            # The first image's row as it is, of the others something that shows which image it was.
            shift = np.array([[0 if row == 0 else sum(image) / 1000] for row, image in enumerate(images)], np.float32)
            outputs = [
                ("cosine", "FP32", np.linspace(-1, 1, count, dtype=np.float32)[None] + shift),
                ("probability", "FP32", np.full((rows, count), 1 / count, np.float32)),
            ]
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, datatype, values in outputs:
            response.outputs.add(name=name, datatype=datatype, shape=values.shape)
            response.raw_output_contents.append(values.tobytes())
        return response


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton()


@pytest_asyncio.fixture
async def connected(triton: FakeTriton) -> AsyncIterator[TritonBackend]:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    backend = TritonBackend(f"127.0.0.1:{port}")
    yield backend
    await backend.close()
    await server.stop(None)


def strings(raw: bytes) -> list[bytes]:
    """Reads KServe's BYTES encoding by hand: each element after its length as 4 bytes, little endian."""
    values = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        values.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return values


async def classify(backend: TritonBackend, image: bytes = b"\x89PNG\0bytes", **options: Any) -> Any:
    prepared = backend.encode_labels(labels=LABELS, templates=TEMPLATES)
    return await prepared.classify(
        image, **{"fit": "center_crop", "route": "upscaled", "request_id": "id-1", "timeout_s": 5.0, **options}
    )


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    """A proxy in the environment that nobody runs."""
    for name in ("no_proxy", "no_grpc_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port}")


async def test_a_proxy_of_the_environment_is_not_for_triton(dead_proxy, connected, triton):
    await classify(connected)
    assert len(triton.requests) == 1


@pytest.mark.parametrize(("route", "model"), [("upscaled", "classify"), ("native", "classify_native")])
async def test_tensors_are_those_of_the_contract(connected, triton, route, model):
    scores = await classify(connected, b"\x00\xff\x00", fit="squash", route=route)
    (request,) = triton.requests
    assert (request.model_name, request.model_version, request.id) == (model, "", "id-1")
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("image", "BYTES", [1, 1]),
        ("fit", "BYTES", [1, 1]),
        ("labels", "BYTES", [1, 3]),
        ("templates", "BYTES", [1, 2]),
    ]
    assert [strings(raw) for raw in request.raw_input_contents] == [
        [b"\x00\xff\x00"],
        [b"squash"],
        [label.encode() for label in LABELS],
        [template.encode() for template in TEMPLATES],
    ]
    assert [t.name for t in request.outputs] == ["cosine", "probability"]
    assert not request.parameters
    np.testing.assert_array_equal(scores.cosine, np.array([-1, 0, 1], np.float32))
    assert scores.probability.shape == (3,)


async def test_what_is_cut_is_asked_for_only_where_wanted(connected, triton):
    row = np.zeros((1, 3), np.float32)
    cut = np.array([[False, False, True]])
    triton.outputs = [("cosine", "FP32", row), ("probability", "FP32", row), ("label_is_cut", "BOOL", cut)]
    scores = await classify(connected, wants_cut=True)
    assert scores.label_is_cut.tolist() == [False, False, True]
    assert [output.name for output in triton.requests[-1].outputs] == ["cosine", "probability", "label_is_cut"]
    assert (await classify(connected)).label_is_cut is None
    triton.outputs = triton.outputs[:2]
    with pytest.raises(BackendFaultError, match="'label_is_cut' is absent"):
        await classify(connected, wants_cut=True)


@pytest.mark.parametrize(
    ("route", "is_detailed", "model"),
    [
        ("upscaled", False, "classify_robust"),
        ("native", False, "classify_native_robust"),
        ("upscaled", True, "classify_detailed_robust"),
        ("native", True, "classify_native_detailed_robust"),
    ],
)
async def test_the_robust_encoder_has_ensembles_and_outputs_of_its_own(connected, triton, route, is_detailed, model):
    row, damage = np.zeros((1, 3), np.float32), np.array([[0.25, 0.75]], np.float32)
    triton.outputs = [
        *(("cosine", "FP32", row), ("probability", "FP32", row)),
        *(("degradation_cosine", "FP32", damage), ("degradation_probability", "FP32", damage / 2)),
        *(("image_embedding", "FP32", row), ("pixels", "UINT8", np.zeros((1, 3, 4, 4), np.uint8))),
    ]
    scores = await classify(connected, route=route, encoder="robust", wants_pixels=is_detailed)
    assert triton.requests[-1].model_name == model
    asked = [output.name for output in triton.requests[-1].outputs]
    details = ["image_embedding", "pixels"] if is_detailed else []
    assert asked == ["cosine", "probability", *details, "degradation_cosine", "degradation_probability"]
    assert scores.degradation_cosine.tolist() == [0.25, 0.75]
    assert scores.degradation_probability.tolist() == [0.125, 0.375]
    assert (await classify(connected, route=route)).degradation_cosine is None
    assert triton.requests[-1].model_name == model.removesuffix("_robust").replace("_detailed", "")


async def test_details_are_asked_for_only_where_wanted_and_then_all(connected, triton):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4), dtype=np.uint8)
    embedding = np.linspace(0, 1, 5, dtype=np.float32)[None]
    row = np.zeros((1, 3), np.float32)
    triton.outputs = [
        *(("cosine", "FP32", row), ("probability", "FP32", row)),
        *(("image_embedding", "FP32", embedding), ("pixels", "UINT8", pixels)),
    ]
    plain = await classify(connected)
    assert (plain.image_embedding, plain.pixels) == (None, None)
    some = await classify(connected, wants_embedding=True)
    assert some.pixels is None
    full = await classify(connected, wants_embedding=True, wants_pixels=True)
    np.testing.assert_array_equal(full.image_embedding, embedding[0])
    np.testing.assert_array_equal(full.pixels, pixels[0])
    native = await classify(connected, route="native", wants_pixels=True)
    assert native.image_embedding is None
    everything = ["cosine", "probability", "image_embedding", "pixels"]
    assert [(request.model_name, [t.name for t in request.outputs]) for request in triton.requests] == [
        ("classify", ["cosine", "probability"]),
        ("classify_detailed", everything),
        ("classify_detailed", everything),
        ("classify_native_detailed", everything),
    ]


@pytest.mark.parametrize(("route", "model"), [("upscaled", "embed_image"), ("native", "embed_image_native")])
async def test_images_are_embedded_by_the_contract(connected, triton, route, model):
    embedding = np.linspace(0, 1, 5, dtype=np.float32)[None]
    triton.outputs = [("image_embedding", "FP32", embedding)]
    values = await connected.embed_image(b"\x00\xff", fit="", route=route, request_id="id-1", timeout_s=5.0)
    np.testing.assert_array_equal(values, embedding[0])
    (request,) = triton.requests
    assert (request.model_name, request.id) == (model, "id-1")
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("image", "BYTES", [1, 1]),
        ("fit", "BYTES", [1, 1]),
    ]
    assert [strings(raw) for raw in request.raw_input_contents] == [[b"\x00\xff"], [b""]]


async def test_images_of_one_call_are_embedded_together(connected, triton):
    embedding = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    triton.outputs = [("image_embedding", "FP32", embedding)]
    options = {"fit": "", "route": "upscaled", "request_id": "id-1", "timeout_s": 5.0, "size_hw": (9, 16)}
    values = await asyncio.gather(*(connected.embed_image(bytes([number]), **options) for number in range(3)))
    np.testing.assert_array_equal(values, embedding)
    (request,) = triton.requests
    assert strings(request.raw_input_contents[0]) == [b"\0", b"\1", b"\2"]


async def embed_texts(backend: TritonBackend) -> TextEmbeddings:
    return await backend.embed_texts(LABELS, templates=TEMPLATES, request_id="id-1", timeout_s=5.0)


async def test_texts_are_embedded_by_the_contract(connected, triton):
    rows = np.random.default_rng(0).normal(size=(1, 3, 5)).astype(np.float32)
    triton.outputs = [("text_embedding", "FP32", rows), ("text_is_cut", "BOOL", np.array([[False, True, False]]))]
    embedded = await embed_texts(connected)
    np.testing.assert_array_equal(embedded.values, rows[0])
    assert embedded.is_cut.tolist() == [False, True, False]
    (request,) = triton.requests
    assert (request.model_name, request.id) == ("embed_text", "id-1")
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("texts", "BYTES", [1, 3]),
        ("templates", "BYTES", [1, 2]),
    ]
    assert not request.parameters


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)], ids=["no batch", "two rows"])
async def test_embeddings_of_another_shape_are_a_fault(connected, triton, shape):
    triton.outputs = [("text_embedding", "FP32", np.zeros(shape, np.float32))]
    with pytest.raises(BackendFaultError, match=r"float32 \(1, N, N\)"):
        await embed_texts(connected)


async def test_a_failure_to_embed_is_typed(connected, triton):
    triton.failure = (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'embed_text' is not found")
    with pytest.raises(BackendUnavailableError, match="'embed_text'"):
        await embed_texts(connected)


async def test_labels_are_encoded_once_and_shared_by_concurrent_requests(connected, triton):
    prepared = connected.encode_labels(labels=[f"label {i}" for i in range(10_000)], templates=["{}"])
    options = {"fit": "squash", "route": "native", "request_id": "x", "timeout_s": 20.0}
    answers = await asyncio.gather(*(prepared.classify(bytes([i]), **options) for i in range(10)))
    assert {request.raw_input_contents[2] for request in triton.requests} == {triton.requests[0].raw_input_contents[2]}
    assert sorted(strings(request.raw_input_contents[0])[0] for request in triton.requests) == [
        bytes([i]) for i in range(10)
    ]
    assert all(scores.cosine.shape == (10_000,) for scores in answers)


OF_ONE_SIZE = {"fit": "squash", "route": "upscaled", "request_id": "x", "timeout_s": 20.0, "size_hw": (32, 32)}


async def test_images_of_one_call_size_and_moment_share_a_request(connected, triton):
    prepared = connected.encode_labels(labels=LABELS, templates=TEMPLATES)
    images = [bytes([number]) for number in range(10)]
    answers = await asyncio.gather(*(prepared.classify(image, **OF_ONE_SIZE) for image in images))
    first, second = sorted(triton.requests, key=lambda request: strings(request.raw_input_contents[0]))
    assert [list(tensor.shape) for tensor in first.inputs] == [[8, 1], [8, 1], [8, 3], [8, 2]]
    assert strings(first.raw_input_contents[0]) == images[:8]
    assert strings(first.raw_input_contents[2]) == [label.encode() for label in LABELS] * 8
    assert strings(second.raw_input_contents[0]) == images[8:]
    middle = [float(scores.cosine[1]) for scores in answers]
    np.testing.assert_allclose(middle, [0, *(number / 1000 for number in range(1, 8)), 0, 0.009], atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [{"size_hw": (32, 33)}, {"route": "native"}, {"fit": ""}, {"request_id": "y"}, {"wants_pixels": True}],
    ids=str,
)
async def test_images_that_differ_do_not_share(connected, triton, other):
    prepared = connected.encode_labels(labels=LABELS, templates=TEMPLATES)
    pair = (prepared.classify(b"1", **OF_ONE_SIZE), prepared.classify(b"2", **(OF_ONE_SIZE | other)))
    await asyncio.gather(*pair, return_exceptions=True)
    assert len(triton.requests) == 2


@pytest.mark.parametrize("size_hw", [(129, 16), None])
async def test_large_images_do_not_share(connected, triton, size_hw):
    prepared = connected.encode_labels(labels=LABELS, templates=TEMPLATES)
    options = OF_ONE_SIZE | {"size_hw": size_hw}
    await asyncio.gather(*(prepared.classify(bytes([number]), **options) for number in range(3)))
    assert len(triton.requests) == 3


async def test_many_labels_are_not_sent_many_times(connected, triton):
    prepared = connected.encode_labels(labels=[f"label {number}" for number in range(2000)], templates=["{}"])
    await asyncio.gather(*(prepared.classify(bytes([number]), **OF_ONE_SIZE) for number in range(4)))
    assert [request.inputs[0].shape[0] for request in triton.requests] == [2, 2]


async def test_an_image_at_fault_fails_alone_in_a_shared_request(connected, triton):
    triton.bad_image = b"\x02"
    prepared = connected.encode_labels(labels=LABELS, templates=TEMPLATES)
    asked = [prepared.classify(bytes([number]), **OF_ONE_SIZE) for number in range(4)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == [
        "Similarities",
        "Similarities",
        "ImageRejectedError",
        "Similarities",
    ]
    assert sorted(request.inputs[0].shape[0] for request in triton.requests) == [1, 1, 1, 1, 4]


async def test_a_shared_request_ends_with_its_call(connected, triton, until):
    triton.hold = asyncio.Event()
    prepared = connected.encode_labels(labels=LABELS, templates=TEMPLATES)
    tasks = [asyncio.create_task(prepared.classify(bytes([number]), **OF_ONE_SIZE)) for number in range(3)]
    await until(lambda: triton.requests)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in ended)
    await until(lambda: triton.cancelled == 1)
    assert len(triton.requests) == 1


async def test_an_image_beyond_grpcs_default_message_size(connected, triton):
    await classify(connected, bytes(16 * 1024 * 1024))
    assert len(triton.requests[0].raw_input_contents[0]) == 4 + 16 * 1024 * 1024


async def test_readiness(connected, triton):
    assert await connected.is_ready(timeout_s=5)
    for model in MODELS:
        triton.models = set(MODELS) - {model}
        assert not await connected.is_ready(timeout_s=5)
    triton.models = set(MODELS)
    triton.server_ready = False
    assert not await connected.is_ready(timeout_s=5)


REJECTIONS = {
    "plain": "clipsr:IMAGE_TRUNCATED: The file ends early; send it again.",
    "ensemble": "in ensemble 'classify', clipsr:IMAGE_TRUNCATED: The file ends early; send it again.",
    "exception": (
        "in ensemble 'classify', Failed to process the request(s) for model 'decode_0_0', message: "
        "TritonModelException: clipsr:IMAGE_TRUNCATED: The file ends early; send it again.\n\nAt:\n  /opt/model.py(9)"
    ),
}


@pytest.mark.parametrize("form", REJECTIONS)
@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
async def test_a_rejection_is_found_in_any_wrapping(connected, triton, form, code):
    triton.failure = (code, REJECTIONS[form])
    with pytest.raises(ImageRejectedError) as caught:
        await classify(connected)
    assert caught.value.reason == "IMAGE_TRUNCATED"
    assert caught.value.message == "The file ends early; send it again."


@pytest.mark.parametrize(
    ("reason", "field"),
    [
        ("LABELS_EMPTY", "options.label_space.labels"),
        ("TOO_MANY_LABELS", "options.label_space.labels"),
        ("LABEL_EMPTY", "options.label_space.labels"),
        ("LABEL_TOO_LONG", "options.label_space.labels"),
        ("LABEL_NOT_UTF8", "options.label_space.labels"),
        ("LABELS_INDISTINGUISHABLE", "options.label_space.labels"),
        ("LABEL_DUPLICATE", "options.label_space.labels"),
        ("TEXTS_EMPTY", "options.label_space"),
        ("TEXT_TOO_LONG", "options.label_space"),
        ("TOO_MANY_TEXTS", "options.label_space"),
        ("TOO_MANY_TEMPLATES", "options.label_space.templates"),
        ("TEMPLATE_EMPTY", "options.label_space.templates"),
        ("TEMPLATE_NOT_UTF8", "options.label_space.templates"),
        ("TEMPLATE_SET_UNKNOWN", "options.label_space.templates"),
        ("TEMPLATE_WITHOUT_PLACEHOLDER", "options.label_space.templates"),
        ("FIT_UNKNOWN", "options.fit"),
    ],
)
async def test_what_the_models_refuse_besides_images_is_the_callers_fault(connected, triton, reason, field):
    triton.failure = (grpc.StatusCode.INVALID_ARGUMENT, f"in ensemble 'classify', clipsr:{reason}: Send fewer.")
    with pytest.raises(InvalidRequestError) as caught:
        await classify(connected)
    (violation,) = caught.value.violations
    assert (violation.field, violation.reason, violation.message) == (field, reason, "Send fewer.")


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", BackendUnavailableError),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'classify' is not found", BackendUnavailableError),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'classify' is not found", BackendUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceededError),
        (grpc.StatusCode.INTERNAL, "onnxruntime: out of memory", BackendFaultError),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'image'", BackendFaultError),
        (grpc.StatusCode.INTERNAL, "clipsr:TEXT_ENCODER_FAILED: something", BackendFaultError),
        (grpc.StatusCode.INTERNAL, "clipsr:INTERNAL: KeyError: 'x'", BackendFaultError),
        (grpc.StatusCode.UNAVAILABLE, "in ensemble 'classify', clipsr:BACKEND_UNAVAILABLE: x", BackendUnavailableError),
        (grpc.StatusCode.CANCELLED, "", BackendFaultError),
    ],
)
async def test_every_failure_has_its_type(connected, triton, code, message, error):
    triton.failure = (code, message)
    with pytest.raises(error) as caught:
        await classify(connected)
    assert caught.value.__cause__ is not None
    if error is BackendUnavailableError:
        assert connected.target in str(caught.value)
        assert ("'classify'" in str(caught.value)) == ("unknown model" in message)


async def test_the_timeout_is_kept_and_the_request_cancelled(connected, triton, until):
    triton.hold = asyncio.Event()
    began_s = time.perf_counter()
    with pytest.raises(DeadlineExceededError):
        await classify(connected, timeout_s=0.2)
    assert 0.15 < time.perf_counter() - began_s < 20
    await until(lambda: triton.cancelled == 1)


async def test_cancelling_reaches_triton(connected, triton, until):
    triton.hold = asyncio.Event()
    task = asyncio.create_task(classify(connected, timeout_s=None))
    await until(lambda: triton.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: triton.cancelled == 1)


@pytest.mark.parametrize(
    "outputs",
    [
        [("cosine", "FP32", np.zeros((1, 3), np.float32))],
        [("cosine", "FP64", np.zeros((1, 3))), ("probability", "FP32", np.zeros((1, 3), np.float32))],
        [("cosine", "FP32", np.zeros(3, np.float32)), ("probability", "FP32", np.zeros((1, 3), np.float32))],
    ],
    ids=["absent", "not float32", "no batch dimension"],
)
async def test_an_answer_that_breaks_the_contract_is_a_fault(connected, triton, outputs):
    triton.outputs = outputs
    with pytest.raises(BackendFaultError):
        await classify(connected)


async def test_no_triton_is_unavailable_fast_and_found_when_it_comes_back(triton, unused_port):
    backend = TritonBackend(f"127.0.0.1:{unused_port}")
    began_s = time.perf_counter()
    with pytest.raises(BackendUnavailableError) as caught:
        await classify(backend, timeout_s=None)
    assert time.perf_counter() - began_s < 20
    assert str(caught.value).startswith(f"Triton at 127.0.0.1:{unused_port} does not answer;")
    assert not await backend.is_ready(timeout_s=1)

    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    assert server.add_insecure_port(f"127.0.0.1:{unused_port}") == unused_port
    await server.start()
    began_s = time.perf_counter()
    while not await backend.is_ready(timeout_s=1):
        assert time.perf_counter() - began_s < 30
        await asyncio.sleep(0.05)
    assert (await classify(backend)).cosine.shape == (3,)
    await backend.close()
    await server.stop(None)


CANVAS = np.arange(2 * 3 * 5 * 7, dtype=np.uint8).reshape(2, 3, 5, 7)
BOX = np.array([[0, 0, 5, 7], [0.5, 1.25, 3, 2]], np.float32)


async def upscale(backend: TritonBackend, **options: Any) -> np.ndarray:
    return await backend.upscale("upscale_clean", CANVAS, BOX, **{"request_id": "id-1", "timeout_s": 5.0, **options})


async def test_tiles_are_those_of_the_contract(connected, triton):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    triton.outputs = [("pixels", "UINT8", pixels)]
    np.testing.assert_array_equal(await upscale(connected), pixels)
    (request,) = triton.requests
    assert (request.model_name, request.id) == ("upscale_clean", "id-1")
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("canvas", "UINT8", [2, 3, 5, 7]),
        ("box", "FP32", [2, 4]),
    ]
    assert list(request.raw_input_contents) == [CANVAS.tobytes(), BOX.tobytes()]
    assert not request.parameters


@pytest.mark.parametrize(
    "outputs",
    [
        [("other", "UINT8", np.zeros((2, 3, 4, 4), np.uint8))],
        [("pixels", "FP32", np.zeros((2, 3, 4, 4), np.float32))],
        [("pixels", "UINT8", np.zeros((1, 3, 4, 4), np.uint8))],
        [("pixels", "UINT8", np.zeros((2, 3, 4, 5), np.uint8))],
    ],
    ids=["absent", "type", "count", "not square"],
)
async def test_tiles_of_another_shape_are_a_fault(connected, triton, outputs):
    triton.outputs = outputs
    with pytest.raises(BackendFaultError, match="pixels"):
        await upscale(connected)


async def test_the_largest_batch_is_asked_for(connected, triton):
    assert await connected.max_tiles("upscale", timeout_s=5) == 32
    triton.max_batch_size = 0
    with pytest.raises(BackendFaultError, match="max_batch_size 0"):
        await connected.max_tiles("upscale", timeout_s=5)


@pytest.mark.parametrize("call", ["upscale", "max_tiles"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, BackendUnavailableError),
        (grpc.StatusCode.NOT_FOUND, BackendUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.INTERNAL, BackendFaultError),
    ],
)
async def test_what_goes_wrong_with_tiles_is_typed(connected, triton, call, code, expected):
    triton.failure = (code, "no")
    with pytest.raises(expected):
        await (upscale(connected) if call == "upscale" else connected.max_tiles("upscale", timeout_s=5))
