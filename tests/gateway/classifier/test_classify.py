"""Classify and GetModelInfo over a real socket; the backend is a fake at the seam."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway import ImageRejectedError, Limits, Similarities

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def scores(*cosine: float) -> Similarities:
    values = np.array(cosine, np.float32)
    exponent = np.exp(50 * (values - values.max()))
    return Similarities(cosine=values, probability=(exponent / exponent.sum()).astype(np.float32))


async def test_answer_carries_predictions_size_route_timing_and_digest(start, backend, request_of, png, document):
    backend.answer = lambda image, count: scores(0.1, 0.3, 0.2)
    one = await start()
    answer = await one.stub.Classify(request_of(png(20, 10), labels=["a", "b", "c"]))
    (result,) = answer.results
    found = result.classification
    assert [prediction.label for prediction in found.predictions] == ["b", "c", "a"]
    assert found.predictions[0].cosine == pytest.approx(0.3)
    assert sum(prediction.probability for prediction in found.predictions) == pytest.approx(1)
    assert (found.input_size.height, found.input_size.width) == (10, 20)
    assert found.route == types_pb2.ROUTE_UPSCALED
    assert found.timing.inference_ms > 1
    assert 0 <= found.timing.queue_ms < 1000
    assert found.model_digest == document["digest"]


async def test_results_come_in_the_order_of_the_images(start, backend, request_of, png):
    files = [png(side, side) for side in range(1, 20)]
    one = await start()
    answer = await one.stub.Classify(request_of(*files))
    assert [result.classification.input_size.width for result in answer.results] == list(range(1, 20))


async def test_ties_keep_the_order_of_the_labels(start, backend, request_of):
    backend.answer = lambda image, count: scores(0.2, 0.5, 0.2, 0.5, 0.2)
    one = await start()
    answer = await one.stub.Classify(request_of(labels=["a", "b", "c", "d", "e"]))
    assert [p.label for p in answer.results[0].classification.predictions] == ["b", "d", "a", "c", "e"]


@pytest.mark.parametrize(("top_k", "returned"), [(0, 3), (1, 1), (2, 2), (3, 3), (99, 3)])
async def test_top_k(start, request_of, top_k, returned):
    one = await start()
    answer = await one.stub.Classify(request_of(labels=["a", "b", "c"], top_k=top_k))
    assert len(answer.results[0].classification.predictions) == returned


@pytest.mark.parametrize(
    ("side", "forced", "route"),
    [
        (63, types_pb2.ROUTE_UNSPECIFIED, "upscaled"),
        (64, types_pb2.ROUTE_UNSPECIFIED, "native"),
        (64, types_pb2.ROUTE_UPSCALED, "upscaled"),
        (8, types_pb2.ROUTE_NATIVE, "native"),
    ],
)
async def test_route(start, backend, request_of, png, side, forced, route):
    one = await start()
    answer = await one.stub.Classify(request_of(png(side, 200), route=forced))
    assert backend.user_calls()[0]["route"] == route
    expected = {"upscaled": types_pb2.ROUTE_UPSCALED, "native": types_pb2.ROUTE_NATIVE}[route]
    assert answer.results[0].classification.route == expected


@pytest.mark.parametrize(
    ("fit", "name"),
    [
        (types_pb2.FIT_UNSPECIFIED, ""),
        (types_pb2.FIT_CENTER_CROP, "center_crop"),
        (types_pb2.FIT_SQUASH, "squash"),
    ],
)
async def test_fit(start, backend, request_of, fit, name):
    one = await start()
    await one.stub.Classify(request_of(fit=fit))
    assert backend.user_calls()[0]["fit"] == name


async def test_sets_are_resolved_through_the_manifest_once_a_call(start, backend, request_of, png, document, until):
    one = await start()
    await until(lambda: one.gateway.health.is_serving)
    backend.prepared.clear()
    await one.stub.Classify(request_of(png(), png(9), labels=[], label_set="animals", templates=["@cifar"]))
    assert backend.prepared == [(("cat", "dog", "bird"), tuple(document["template_sets"]["cifar"]))]
    await one.stub.Classify(request_of(labels=["one"]))
    assert backend.prepared[1] == (("one",), ("a photo of a {}.",))


async def test_labels_of_any_script_come_back_as_sent(start, request_of):
    labels = ["猫", "🐶", "👩‍👩‍👧", "É", "E\u0301", " padded ", "a\nb", "cat", "Cat"]
    one = await start()
    answer = await one.stub.Classify(request_of(labels=labels))
    assert [p.label for p in answer.results[0].classification.predictions] == labels


async def test_ten_thousand_labels(start, backend, request_of):
    one = await start()
    answer = await one.stub.Classify(request_of(labels=[f"label {i}" for i in range(10_000)]))
    assert len(answer.results[0].classification.predictions) == 10_000


INVALID_REQUESTS = {
    "labels empty": ({"labels": []}, "LABELS_EMPTY", ["options.label_space.labels"]),
    "label empty": ({"labels": ["a", "b", "c", ""]}, "LABEL_EMPTY", ["options.label_space.labels[3]"]),
    "label of white space": ({"labels": ["a", " \t\u3000"]}, "LABEL_EMPTY", ["options.label_space.labels[1]"]),
    "label twice": ({"labels": ["a", "🐶", "🐶"]}, "LABEL_DUPLICATE", ["options.label_space.labels[2]"]),
    "label too long": ({"labels": ["a", "猫" * 342]}, "LABEL_TOO_LONG", ["options.label_space.labels[1]"]),
    "too many labels": ({"labels": [str(i) for i in range(10_001)]}, "TOO_MANY_LABELS", ["options.label_space.labels"]),
    "labels and set": ({"label_set": "animals"}, "LABEL_SPACE_AMBIGUOUS", ["options.label_space"]),
    "unknown set": ({"labels": [], "label_set": "plants"}, "LABEL_SET_UNKNOWN", ["options.label_space.label_set"]),
    "set with at": ({"labels": [], "label_set": "@animals"}, "LABEL_SET_UNKNOWN", ["options.label_space.label_set"]),
    "no placeholder": (
        {"templates": ["a {}", "a photo"]},
        "TEMPLATE_WITHOUT_PLACEHOLDER",
        ["options.label_space.templates[1]"],
    ),
    "empty template": ({"templates": [""]}, "TEMPLATE_WITHOUT_PLACEHOLDER", ["options.label_space.templates[0]"]),
    "two placeholders": (
        {"templates": ["{} {}"]},
        "TEMPLATE_WITHOUT_PLACEHOLDER",
        ["options.label_space.templates[0]"],
    ),
    "set among templates": (
        {"templates": ["a {}", "@cifar"]},
        "TEMPLATE_WITHOUT_PLACEHOLDER",
        ["options.label_space.templates[1]"],
    ),
    "unknown template set": ({"templates": ["@nope"]}, "TEMPLATE_SET_UNKNOWN", ["options.label_space.templates[0]"]),
    "too many templates": ({"templates": ["{}"] * 129}, "TOO_MANY_TEMPLATES", ["options.label_space.templates"]),
    "template too long": (
        {"templates": ["{}" + "x" * 1023]},
        "TEMPLATE_TOO_LONG",
        ["options.label_space.templates[0]"],
    ),
    "too many texts": (
        {"labels": [str(i) for i in range(2_501)], "templates": ["@imagenet"]},
        "TOO_MANY_TEXTS",
        ["options.label_space"],
    ),
    "unknown fit": ({"fit": 77}, "FIT_UNKNOWN", ["options.fit"]),
    "unknown route": ({"route": 77}, "ROUTE_UNKNOWN", ["options.route"]),
    "several at once": (
        {"labels": ["", "a", "a"], "templates": ["x"], "fit": 9},
        "FIT_UNKNOWN",
        [
            "options.fit",
            "options.label_space.labels[0]",
            "options.label_space.labels[2]",
            "options.label_space.templates[0]",
        ],
    ),
}


@pytest.mark.parametrize("name", INVALID_REQUESTS)
async def test_invalid_request_names_the_field(start, backend, request_of, detailed, name):
    options, reason, fields = INVALID_REQUESTS[name]
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(**options))
    assert caught.value.code() == INVALID
    error = detailed(caught.value)
    assert (error.reason, error.domain, error.fields) == (reason, "clipsr", fields)
    assert not error.message[0].islower()
    assert error.message.endswith((".", ")"))
    assert not backend.user_calls()


async def test_images_are_counted(start, request_of, png, detailed):
    one = await start()
    empty = classifier_pb2.ClassifyRequest(
        options=classifier_pb2.ClassifyOptions(label_space=types_pb2.LabelSpace(labels=["a"]))
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(empty)
    assert (detailed(caught.value).reason, detailed(caught.value).fields) == ("IMAGES_EMPTY", ["images"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(*[png()] * 257))
    assert (detailed(caught.value).reason, detailed(caught.value).fields) == ("TOO_MANY_IMAGES", ["images"])
    assert len((await one.stub.Classify(request_of(*[png()] * 256))).results) == 256


async def test_a_refusal_fits_the_metadata_however_much_is_wrong(start, request_of, detailed):
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(labels=["🐶" * 256] * 10_000))
    error = detailed(caught.value)  # gRPC would have dropped the call's metadata beyond 8 KiB
    assert error.reason == "LABEL_DUPLICATE"
    assert len(error.fields) == 8
    assert "9998 more fields" in error.message


async def test_an_answer_that_cannot_be_sent_is_refused_before_computing(start, backend, request_of, png, detailed):
    labels = [f"{i:04}".ljust(600, "x") for i in range(1_000)]
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(*[png()] * 200, labels=labels))
    assert (detailed(caught.value).reason, detailed(caught.value).fields) == ("RESPONSE_TOO_LARGE", ["options.top_k"])
    assert not backend.user_calls()
    assert await one.stub.Classify(request_of(*[png()] * 200, labels=labels, top_k=5))


async def test_the_estimate_of_the_answer_is_an_upper_bound(start, backend, request_of, png, monkeypatch):
    labels = [f"{i}" + "é" * (i % 500) for i in range(300)]
    backend.answer = lambda image, count: scores(*np.linspace(-0.9, 0.9, count))
    one = await start()
    answer = await one.stub.Classify(request_of(png(70_000, 1), png(1, 70_000), labels=labels))
    limits = Limits(max_message_bytes=answer.ByteSize() - 1)
    tight = await start(limits=limits)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tight.stub.Classify(request_of(png(70_000, 1), png(1, 70_000), labels=labels))
    assert caught.value.code() == INVALID


async def test_a_message_beyond_the_limit_is_refused_by_grpc(start, request_of):
    one = await start(limits=Limits(max_message_bytes=10_000))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(bytes(20_000)))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


BAD_IMAGES = {
    "empty": (b"", "IMAGE_EMPTY"),
    "text": (b"I am a text file named .jpg", "IMAGE_UNRECOGNIZED"),
    "header cut": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "IMAGE_TRUNCATED"),
    "too many bytes": (bytes(16 * 1024 * 1024 + 1), "IMAGE_TOO_LARGE"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
async def test_a_bad_image_fails_alone(start, backend, request_of, png, detailed, name):
    content, reason = BAD_IMAGES[name]
    one = await start()
    answer = await one.stub.Classify(request_of(png(), content, png(9)))
    assert [result.WhichOneof("outcome") for result in answer.results] == ["classification", "error", "classification"]
    error = detailed(answer.results[1].error)
    assert (error.code, error.reason, error.fields) == (code_pb2.INVALID_ARGUMENT, reason, ["images[1].content"])
    assert len(backend.user_calls()) == 2


async def test_what_the_models_refuse_fails_alone(start, backend, request_of, png, detailed):
    backend.errors[png(9)] = ImageRejectedError("IMAGE_TRUNCATED", "The file ends too early; send it again.")
    one = await start()
    answer = await one.stub.Classify(request_of(png(), png(9)))
    error = detailed(answer.results[1].error)
    assert (error.code, error.reason) == (code_pb2.INVALID_ARGUMENT, "IMAGE_TRUNCATED")
    assert error.message == "The file ends too early; send it again."
    assert error.fields == ["images[1].content"]
    assert answer.results[0].HasField("classification")


@pytest.mark.parametrize(
    "answer",
    [
        lambda image, count: scores(0.1),
        lambda image, count: Similarities(
            cosine=np.array([0.1, np.nan], np.float32), probability=np.ones(2, np.float32)
        ),
    ],
    ids=["wrong length", "not finite"],
)
async def test_unusable_scores_are_an_internal_error_of_that_image(start, backend, request_of, detailed, answer):
    backend.answer = answer
    one = await start()
    result = (await one.stub.Classify(request_of())).results[0]
    assert detailed(result.error).code == code_pb2.INTERNAL


async def test_get_model_info_publishes_manifest_and_limits(start, document):
    one = await start()
    info = (await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())).model_info
    assert (info.name, info.digest) == ("clipsr-test", document["digest"])
    assert (info.image_size_px, info.embed_dim, info.context_length) == (64, 256, 32)
    assert list(info.canvas_sizes_px) == [32, 64, 128]
    assert (info.scoring_function, info.logit_scale, info.logit_bias) == ("softmax", 50, 0)
    assert {one.name: list(one.values) for one in info.label_sets} == document["label_sets"]
    assert {one.name: list(one.values) for one in info.template_sets} == document["template_sets"]
    assert info.default_templates == "@simple"
    assert info.limits == Limits().to_proto()
    assert info.limits.max_images == 256
    assert [(a.path, a.size_bytes) for a in info.artifacts] == [("upscale/1/model.onnx", 123)]
    assert info.gateway_version == "0.1.0"
