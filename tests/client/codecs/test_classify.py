"""The codec without any network: what must hold for all values."""

from __future__ import annotations

import string

import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from clipsr import (
    Classification,
    ClassifyOptions,
    Degradation,
    FailedImage,
    InvalidRequestError,
    Prediction,
    RouteRule,
    ServiceError,
)
from clipsr._codecs.classify import (
    MAX_IMAGES,
    MAX_MESSAGE_BYTES,
    decode_results,
    encode_options,
    split,
)
from clipsr._codecs.model_info import decode_model_info
from clipsr._codecs.status_details import Details, parse_details
from clipsr.v1 import classifier_pb2, types_pb2

DEFAULTS = {"labels": (), "label_set": "", "templates": (), "top_k": 5, "fit": "auto", "route": "auto"}

texts = st.text(st.characters(exclude_categories=["Cs"]))
uint32 = st.integers(0, 2**32 - 1)
float32 = st.floats(width=32, allow_nan=False)
predictions = st.builds(Prediction, label=texts, cosine=float32, probability=float32)
degradations = st.builds(Degradation, kind=texts, cosine=float32, probability=float32)
classifications = st.builds(
    Classification,
    predictions=st.lists(predictions, max_size=4).map(tuple),
    input_hw=st.tuples(uint32, uint32),
    route=st.sampled_from(["upscaled", "native"]),
    queue_ms=float32,
    inference_ms=float32,
    model_digest=texts,
    encoder=st.sampled_from(["plain", "robust"]),
    degradations=st.lists(degradations, max_size=3).map(tuple),
)
failures = st.builds(
    FailedImage,
    code=st.sampled_from(["INVALID_ARGUMENT", "INTERNAL", "UNAVAILABLE"]),
    reason=st.text(string.ascii_uppercase + "_"),
    message=texts,
)


def encode_options_with(**options):
    return encode_options(ClassifyOptions(**{**DEFAULTS, **options}))


def request_with(**options):
    return classifier_pb2.ClassifyRequest(options=encode_options_with(**options))


def encode_outcome(outcome: Classification | FailedImage) -> classifier_pb2.ClassifyResult:
    """The inverse of decoding, written down a second time."""
    if isinstance(outcome, FailedImage):
        status = status_pb2.Status(
            code={"INVALID_ARGUMENT": 3, "INTERNAL": 13, "UNAVAILABLE": 14}[outcome.code], message=outcome.message
        )
        if outcome.reason:
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason=outcome.reason, domain="clipsr"))
        return classifier_pb2.ClassifyResult(error=status)
    return classifier_pb2.ClassifyResult(
        classification=classifier_pb2.Classification(
            predictions=[
                types_pb2.Prediction(label=each.label, cosine=each.cosine, probability=each.probability)
                for each in outcome.predictions
            ],
            input_size=types_pb2.Size(height=outcome.input_hw[0], width=outcome.input_hw[1]),
            route={"upscaled": 1, "native": 2}[outcome.route],
            timing=types_pb2.Timing(queue_ms=outcome.queue_ms, inference_ms=outcome.inference_ms),
            model_digest=outcome.model_digest,
            encoder={"plain": 1, "robust": 2}[outcome.encoder],
            degradations=[
                types_pb2.Degradation(kind=each.kind, cosine=each.cosine, probability=each.probability)
                for each in outcome.degradations
            ],
        )
    )


def test_a_service_that_knows_one_encoder_says_none():
    result = encode_outcome(
        Classification(predictions=(), input_hw=(1, 1), route="native", queue_ms=0, inference_ms=0, model_digest="")
    )
    result.classification.encoder = types_pb2.ENCODER_UNSPECIFIED
    (outcome,) = decode_results(classifier_pb2.ClassifyResponse(results=[result]), image_count=1)
    assert isinstance(outcome, Classification)
    assert outcome.encoder == "plain"
    result.classification.ClearField("encoder")
    result.classification.MergeFromString(b"\x48\x63")  # encoder 99
    with pytest.raises(ServiceError, match="encoder 99"):
        decode_results(classifier_pb2.ClassifyResponse(results=[result]), image_count=1)


def test_the_encoder_is_asked_for():
    assert encode_options(ClassifyOptions(encoder="robust")).encoder == types_pb2.ENCODER_ROBUST
    assert encode_options(ClassifyOptions()) == encode_options(ClassifyOptions(encoder="plain"))
    with pytest.raises(InvalidRequestError, match="Encoder 'both' is not known; use one of 'plain', 'robust'"):
        encode_options(ClassifyOptions(encoder="both"))


@given(
    labels=st.lists(texts, max_size=5),
    label_set=texts,
    templates=st.lists(texts, max_size=3),
    top_k=uint32,
    fit=st.sampled_from(["auto", "center_crop", "squash"]),
    route=st.sampled_from(["auto", "upscaled", "native"]),
)
def test_a_query_says_what_was_asked(labels, label_set, templates, top_k, fit, route):
    options = encode_options(
        ClassifyOptions(labels=labels, label_set=label_set, templates=templates, top_k=top_k, fit=fit, route=route)
    )
    read = classifier_pb2.ClassifyOptions.FromString(options.SerializeToString())
    assert list(read.label_space.labels) == labels
    assert read.label_space.label_set == label_set
    assert list(read.label_space.templates) == templates
    assert read.top_k == top_k
    assert types_pb2.Fit.Name(read.fit) == f"FIT_{'UNSPECIFIED' if fit == 'auto' else fit.upper()}"
    assert types_pb2.Route.Name(read.route) == f"ROUTE_{route.upper()}".replace("AUTO", "UNSPECIFIED")


@pytest.mark.parametrize(
    ("options", "field", "sentence"),
    [
        ({"fit": "stretch"}, "fit", r"'stretch' is not known; use one of 'auto', 'center_crop', 'squash'"),
        ({"route": "direct"}, "route", r"use one of 'auto', 'upscaled', 'native'"),
        ({"top_k": -1}, "top_k", r"top_k is -1; use 0 for all labels"),
        ({"top_k": 2**32}, "top_k", r"top_k is 4294967296"),
        ({"labels": ["ok", "\ud800"]}, "labels[1]", r"is not UTF-8"),
        ({"templates": ["\udfff {}"]}, "templates[0]", r"is not UTF-8"),
    ],
)
def test_what_cannot_be_said_is_refused_before_sending(options, field, sentence):
    with pytest.raises(InvalidRequestError, match=sentence) as caught:
        encode_options_with(**options)
    assert caught.value.violations == ((field, str(caught.value)),)


def test_templates_are_a_sequence():
    with pytest.raises(TypeError, match="templates is one string"):
        encode_options_with(templates="@cifar")


@given(
    sizes=st.lists(st.one_of(st.integers(0, 3), st.integers(100, 300), st.integers(16_000, 17_000)), max_size=40),
    labels=st.lists(texts, max_size=3),
    max_images=st.integers(1, 8),
    max_message_bytes=st.integers(1_000, 40_000),
)
def test_splitting_keeps_order_and_limits_and_wastes_nothing(sizes, labels, max_images, max_message_bytes):
    contents = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    query = request_with(labels=labels)
    parts = list(split(contents, query, max_images=max_images, max_message_bytes=max_message_bytes))

    def alone(content: bytes) -> int:
        return joined([content])

    def joined(images: list[bytes]) -> int:
        request = classifier_pb2.ClassifyRequest.FromString(query.SerializeToString())
        request.images.extend(types_pb2.Image(content=content) for content in images)
        return len(request.SerializeToString())

    remaining = list(contents)
    previous: list[bytes] | None = None
    for part in parts:
        if isinstance(part, FailedImage):
            assert alone(remaining.pop(0)) > max_message_bytes
            previous = None
            continue
        images = [image.content for image in part.images]
        assert 1 <= len(images) <= max_images
        assert len(part.SerializeToString()) <= max_message_bytes
        assert part.options == query.options
        assert images == remaining[: len(images)]
        if previous is not None:  # the first of these did not fit there
            assert len(previous) == max_images or joined([*previous, images[0]]) > max_message_bytes
        del remaining[: len(images)]
        previous = images
    assert not remaining


def test_an_image_is_refused_only_if_it_fits_no_message():
    query = request_with(labels=["cat"])
    room = 1_000
    fits = [
        size
        for size in range(900, 1_000)
        if not isinstance(next(split([bytes(size)], query, max_message_bytes=room)), FailedImage)
    ]
    request = classifier_pb2.ClassifyRequest.FromString(query.SerializeToString())
    request.images.add(content=bytes(max(fits)))
    assert request.ByteSize() == room


def test_labels_that_fill_a_message_are_refused():
    with pytest.raises(InvalidRequestError, match="Labels and templates take"):
        list(split([b"photo"], request_with(labels=["x" * 100]), max_message_bytes=100))


def test_images_are_read_as_they_are_sent():
    read = []

    def contents():
        for index in range(6):
            read.append(index)
            yield b"photo"

    parts = split(contents(), request_with(), max_images=2)
    next(parts)
    assert read == [0, 1, 2]


def test_the_default_limits_are_those_of_the_contract():
    assert MAX_IMAGES == 256
    assert MAX_MESSAGE_BYTES == 67_108_864


@given(outcomes=st.lists(st.one_of(classifications, failures), max_size=4))
def test_results_survive_the_wire(outcomes):
    response = classifier_pb2.ClassifyResponse(results=[encode_outcome(outcome) for outcome in outcomes])
    read = classifier_pb2.ClassifyResponse.FromString(response.SerializeToString())
    assert decode_results(read, image_count=len(outcomes)) == outcomes


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (classifier_pb2.ClassifyResult(), "a result without outcome"),
        (classifier_pb2.ClassifyResult(classification=classifier_pb2.Classification(route=0)), "route 0"),
        (classifier_pb2.ClassifyResult(classification=classifier_pb2.Classification(route=9)), "route 9"),
    ],
)
def test_answers_from_the_future_are_service_errors(result, what):
    with pytest.raises(ServiceError, match=f"{what}.*upgrade clipsr"):
        decode_results(classifier_pb2.ClassifyResponse(results=[result]), image_count=1)


def test_rules_of_the_route_are_read():
    rule = classifier_pb2.RouteRule(
        max_side_px=24, is_lossy=True, route=2, upscaled_agreement=0.25, native_agreement=0.5, n_images=9
    )
    response = classifier_pb2.GetModelInfoResponse(model_info=classifier_pb2.ModelInfo(route_rules=[rule]))
    (read,) = decode_model_info(response).route_rules
    assert read == RouteRule(
        max_side_px=24, is_lossy=True, route="native", upscaled_agreement=0.25, native_agreement=0.5, n_images=9
    )
    rule.max_noise = 0
    response = classifier_pb2.GetModelInfoResponse(model_info=classifier_pb2.ModelInfo(route_rules=[rule]))
    assert [one.max_noise for one in decode_model_info(response).route_rules] == [0]
    assert read.max_noise is None
    rule.route = 9
    response = classifier_pb2.GetModelInfoResponse(model_info=classifier_pb2.ModelInfo(route_rules=[rule]))
    with pytest.raises(ServiceError, match="upgrade clipsr"):
        decode_model_info(response)


def test_a_failure_with_a_code_from_the_future_is_still_a_failure():
    result = classifier_pb2.ClassifyResult(error=status_pb2.Status(code=99, message="new"))
    response = classifier_pb2.ClassifyResponse(results=[result])
    assert decode_results(response, image_count=1) == [FailedImage(code="CODE_99", reason="", message="new")]


def test_every_field_of_the_wire_has_its_attribute():
    for message, decoded in [
        (classifier_pb2.ModelInfo, decode_model_info(classifier_pb2.GetModelInfoResponse())),
        (types_pb2.Limits, decode_model_info(classifier_pb2.GetModelInfoResponse()).limits),
    ]:
        assert [field.name for field in message.DESCRIPTOR.fields] == list(type(decoded).__dataclass_fields__)


@given(url=texts, value=st.binary(max_size=20))
def test_broken_details_are_passed_over(url, value):
    status = status_pb2.Status(code=3)
    status.details.add(type_url=url, value=value)
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id="id"))
    assert parse_details(status) == Details(request_id="id")
