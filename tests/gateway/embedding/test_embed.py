"""EmbedImages and EmbedTexts over a real socket; the backend is a fake at the seam."""

from __future__ import annotations

import asyncio
import json

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2
from tests.gateway.conftest import EMBED_DIM, embedding_of

from clipsr.v1 import embedding_pb2, types_pb2
from clipsr_gateway import BackendFaultError, BackendUnavailableError, ImageRejectedError, Limits
from clipsr_gateway._backend.protocol import Damage

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def images(*contents: bytes, **options) -> embedding_pb2.EmbedImagesRequest:
    return embedding_pb2.EmbedImagesRequest(
        images=[types_pb2.Image(content=content) for content in contents], **options
    )


def texts(*values: str, templates=()) -> embedding_pb2.EmbedTextsRequest:
    return embedding_pb2.EmbedTextsRequest(texts=values, templates=templates)


async def test_images_come_back_as_embeddings_in_their_order(start, png, document):
    one = await start()
    files = [png(side, side) for side in (8, 9, 100)]
    answer = await one.embedder.EmbedImages(images(*files))
    assert answer.model_digest == document["digest"]
    for file, result in zip(files, answer.results, strict=True):
        np.testing.assert_array_equal(np.array(result.embedding.values, np.float32), embedding_of(file))
        assert result.embedding.timing.inference_ms > 1
    assert [result.embedding.input_size.width for result in answer.results] == [8, 9, 100]
    routes = [result.embedding.route for result in answer.results]
    assert routes == [types_pb2.ROUTE_UPSCALED, types_pb2.ROUTE_UPSCALED, types_pb2.ROUTE_NATIVE]


async def test_options_reach_the_backend(start, backend, png):
    one = await start()
    request = images(png(), fit=types_pb2.FIT_SQUASH, route=types_pb2.ROUTE_NATIVE)
    call = one.embedder.EmbedImages(request, timeout=7, metadata=[("x-request-id", "id-3")])
    await call
    (sent,) = backend.embed_calls
    assert (sent["fit"], sent["route"], sent["request_id"]) == ("squash", "native", "id-3")
    assert 5 < sent["timeout_s"] < 7.1


async def test_the_robust_encoder_names_the_damage(start, backend, png, repository, document):
    document["robust_encoder"] = {"kinds": ["noisy", "clean"]}
    (repository / "manifest.json").write_text(json.dumps(document))
    values = np.array([0.25, 0.75], np.float32)
    backend.damage = Damage(cosine=values, probability=values)
    one = await start()
    for number, taken in ((0, types_pb2.ENCODER_PLAIN), (types_pb2.ENCODER_ROBUST,) * 2):
        (result,) = (await one.embedder.EmbedImages(images(png(), encoder=number))).results
        assert result.embedding.encoder == taken
        names = [each.kind for each in result.embedding.degradations]
        assert names == (["clean", "noisy"] if number else [])
    assert [call["encoder"] for call in backend.embed_calls] == ["plain", "robust"]
    backend.damage = Damage(cosine=values[:1], probability=values[:1])
    (result,) = (await one.embedder.EmbedImages(images(png(), encoder=types_pb2.ENCODER_ROBUST))).results
    assert result.error.code == code_pb2.INTERNAL


async def test_without_a_controller_no_other_encoder_embeds(start, png, detailed):
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.embedder.EmbedImages(images(png(), encoder=types_pb2.ENCODER_ROBUST))
    assert detailed(caught.value).reason == "ENCODER_MISSING"


async def test_a_bad_image_fails_alone(start, backend, png, detailed):
    backend.errors[png(9)] = ImageRejectedError("IMAGE_TRUNCATED", "The file ends too early; send it again.")
    backend.errors[png(10)] = BackendFaultError("secret")
    one = await start()
    answer = await one.embedder.EmbedImages(images(png(), b"", png(9), png(10), png()))
    outcomes = [result.WhichOneof("outcome") for result in answer.results]
    assert outcomes == ["embedding", "error", "error", "error", "embedding"]
    found = [detailed(result.error) for result in answer.results[1:4]]
    assert [error.reason for error in found] == ["IMAGE_EMPTY", "IMAGE_TRUNCATED", "INTERNAL"]
    assert [error.fields for error in found] == [["images[1].content"], ["images[2].content"], []]
    assert "secret" not in str(answer)


@pytest.mark.parametrize(
    ("request_", "reason", "fields"),
    [
        (images(), "IMAGES_EMPTY", ["images"]),
        (images(*[b"x"] * 257), "TOO_MANY_IMAGES", ["images"]),
        (images(b"x", fit=9, route=8, encoder=7), "FIT_UNKNOWN", ["fit", "route", "encoder"]),
    ],
    ids=["none", "many", "options"],
)
async def test_a_bad_request_names_its_fields(start, detailed, request_, reason, fields):
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.embedder.EmbedImages(request_)
    error = detailed(caught.value)
    assert (caught.value.code(), error.reason, error.fields) == (INVALID, reason, fields)


@pytest.mark.parametrize(
    "answer",
    [lambda values: values[:-1], lambda values: values * np.nan],
    ids=["width", "not finite"],
)
async def test_unusable_embeddings_are_faults(start, backend, png, detailed, answer):
    backend.embed_answer = answer
    one = await start()
    result = (await one.embedder.EmbedImages(images(png()))).results[0]
    assert detailed(result.error).code == code_pb2.INTERNAL
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.embedder.EmbedTexts(texts("a"))
    assert caught.value.code() == grpc.StatusCode.INTERNAL


async def test_texts_without_templates_stand_for_themselves(start, backend, document):
    one = await start()
    answer = await one.embedder.EmbedTexts(texts("cat", "犬", "cat", "a {} b"))
    assert backend.embed_calls[0]["templates"] == ("{}",)
    assert answer.model_digest == document["digest"]
    rows = [np.array(row.values, np.float32) for row in answer.embeddings]
    np.testing.assert_array_equal(rows, [embedding_of(f"{text}|{{}}") for text in ("cat", "犬", "cat", "a {} b")])


async def test_template_sets_are_resolved(start, backend, document):
    one = await start()
    await one.embedder.EmbedTexts(texts("cat", templates=["@cifar"]))
    assert backend.embed_calls[0]["templates"] == tuple(document["template_sets"]["cifar"])


@pytest.mark.parametrize(("templates", "portions"), [([], [64, 64, 22]), (["@imagenet"], [1] * 150)])
async def test_many_texts_travel_in_portions_and_keep_their_order(start, backend, templates, portions):
    one = await start()
    values = [f"text {i}" for i in range(150)]
    answer = await one.embedder.EmbedTexts(texts(*values, templates=templates))
    assert sorted(len(call["texts"]) for call in backend.embed_calls) == sorted(portions)
    assert backend.most_in_flight == 2
    expected = [embedding_of("|".join([text, *backend.embed_calls[0]["templates"]])) for text in values]
    np.testing.assert_array_equal([np.array(row.values, np.float32) for row in answer.embeddings], expected)


async def test_one_text_does_not_wait_for_another_callers_thousand(start, backend, until):
    one = await start(max_concurrent=1)
    backend.hold = asyncio.Event()
    many = asyncio.ensure_future(one.embedder.EmbedTexts(texts(*["many"] * 1_000)))
    await until(lambda: backend.in_flight == 1)
    few = asyncio.ensure_future(one.embedder.EmbedTexts(texts("few")))
    await until(lambda: one.queue_length() == 2)  # the second portion of the thousand, and the one
    backend.hold.set()
    backend.hold = None
    await asyncio.gather(few, many)
    assert [call["texts"] for call in backend.embed_calls].index(("few",)) <= 2


BAD_TEXTS = {
    "none": (texts(), "TEXTS_EMPTY", ["texts"]),
    "too many": (texts(*["a"] * 1_025), "TOO_MANY_TEXTS", ["texts"]),
    "empty": (texts("a", "", " \t"), "TEXT_EMPTY", ["texts[1]", "texts[2]"]),
    "too long": (texts("a", "猫" * 342), "TEXT_TOO_LONG", ["texts[1]"]),
    "no placeholder": (texts("a", templates=["a photo"]), "TEMPLATE_WITHOUT_PLACEHOLDER", ["templates[0]"]),
    "no such set": (texts("a", templates=["@nowhere"]), "TEMPLATE_SET_UNKNOWN", ["templates[0]"]),
    "too many templates": (texts("a", templates=["{}"] * 129), "TOO_MANY_TEMPLATES", ["templates"]),
    "both": (texts("", templates=["x"]), "TEXT_EMPTY", ["texts[0]", "templates[0]"]),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
async def test_bad_texts_are_refused_with_their_fields(start, backend, detailed, name):
    request, reason, fields = BAD_TEXTS[name]
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.embedder.EmbedTexts(request)
    error = detailed(caught.value)
    assert (caught.value.code(), error.reason, error.fields) == (INVALID, reason, fields)
    assert not backend.embed_calls


async def test_texts_times_templates_are_limited(start, detailed):
    one = await start(limits=Limits(max_texts=100))
    assert await one.embedder.EmbedTexts(texts(*["a"] * 50, templates=["@cifar"]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.embedder.EmbedTexts(texts(*["a"] * 51, templates=["@cifar"]))
    assert (detailed(caught.value).reason, detailed(caught.value).fields) == ("TOO_MANY_TEXTS", ["texts"])


async def test_an_answer_that_cannot_be_sent_is_refused_before_computing(start, backend, png, detailed):
    one = await start(limits=Limits(max_message_bytes=10 * EMBED_DIM * 4))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.embedder.EmbedImages(images(*[png()] * 10))
    assert (detailed(caught.value).reason, detailed(caught.value).fields) == ("RESPONSE_TOO_LARGE", ["images"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.embedder.EmbedTexts(texts(*["a"] * 10))
    assert (detailed(caught.value).reason, detailed(caught.value).fields) == ("RESPONSE_TOO_LARGE", ["texts"])
    assert not backend.embed_calls


async def test_the_size_of_the_answer_is_never_underestimated(start, png):
    count = 20
    generous = await start()
    answer = await generous.embedder.EmbedImages(images(*[png(70_000, 1)] * count))
    tight = await start(limits=Limits(max_message_bytes=answer.ByteSize() - 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tight.embedder.EmbedImages(images(*[png(70_000, 1)] * count))
    assert caught.value.code() == INVALID


async def test_a_backend_that_is_down_fails_the_call(start, backend, png, detailed):
    backend.error = BackendUnavailableError("h:1", "Triton at h:1 does not answer; retry.")
    one = await start()
    for call in (one.embedder.EmbedImages(images(png())), one.embedder.EmbedTexts(texts("a"))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert (detailed(caught.value).reason, detailed(caught.value).retry_s) == ("BACKEND_UNAVAILABLE", 1)


async def test_a_missed_deadline_frees_the_backend(start, backend, until):
    backend.hold = asyncio.Event()
    one = await start(max_concurrent=1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.embedder.EmbedTexts(texts(*["a"] * 200), timeout=0.2)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: backend.in_flight == 0)
    backend.hold = None
    assert (await one.embedder.EmbedTexts(texts("a"), timeout=5)).embeddings
