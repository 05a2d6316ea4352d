"""embed_images and embed_texts of both clients, and what classify() returns on demand."""

from __future__ import annotations

import pytest

from clipsr import (
    Degradation,
    FailedImage,
    ImageEmbedding,
    InvalidRequestError,
    NoneOfTheseInfo,
    TextEmbedding,
)
from clipsr._codecs import embed as embed_codec
from clipsr.v1 import classifier_pb2, embedding_pb2, types_pb2


def test_image_embeddings_hold_what_the_service_sent(client, fake_service):
    fake_service.fail_image(b"bad")
    first, second = client.embed_images([b"photo", b"bad"], fit="squash", route="native")
    assert first == ImageEmbedding(
        values=(pytest.approx(0.6), pytest.approx(0.8)),
        input_hw=(32, 48),
        route="native",
        queue_ms=0.5,
        inference_ms=12.25,
        model_digest=fake_service.info.digest,
    )
    assert isinstance(second, FailedImage)
    assert second.reason == "IMAGE_TRUNCATED"
    [request] = fake_service.embeds
    assert (request.fit, request.route) == (types_pb2.FIT_SQUASH, types_pb2.ROUTE_NATIVE)


def test_the_robust_encoder_names_the_damage(client, fake_service):
    plain, robust = (client.embed_images([b"photo"], encoder=encoder)[0] for encoder in ("plain", "robust"))
    assert (plain.encoder, plain.degradations) == ("plain", ())
    assert (robust.encoder, robust.degradations) == (
        "robust",
        (Degradation(kind="noisy", cosine=0.5, probability=0.75),),
    )
    with pytest.raises(InvalidRequestError, match="Encoder 'best' is not known"):
        client.embed_images([b"photo"], encoder="best")


def test_many_images_are_split(client, fake_service):
    outcomes = client.embed_images([b"photo"] * 300)
    assert len(outcomes) == 300
    assert [len(request.images) for request in fake_service.embeds] == [256, 44]


def test_text_embeddings_hold_what_the_service_sent(client, fake_service):
    assert client.embed_texts(["ab", "abc"], templates=["a {}"]) == [
        TextEmbedding(values=(2.0, -0.5), model_digest=fake_service.info.digest),
        TextEmbedding(values=(3.0, -0.5), model_digest=fake_service.info.digest),
    ]
    assert fake_service.embeds == [embedding_pb2.EmbedTextsRequest(texts=["ab", "abc"], templates=["a {}"])]


def test_many_texts_are_split_and_stay_in_order(client, fake_service):
    texts = ["x" * (1 + index % 7) for index in range(2_500)]
    assert [embedding.values[0] for embedding in client.embed_texts(texts)] == [len(text) for text in texts]
    assert [len(request.texts) for request in fake_service.embeds] == [1_024, 1_024, 452]


def test_nothing_to_embed_asks_nothing(client, fake_service):
    assert client.embed_images([]) == []
    assert client.embed_texts([]) == []
    assert fake_service.embeds == []


def test_the_limit_is_that_of_the_contract():
    assert embed_codec.MAX_TEXTS == 1_024


@pytest.mark.parametrize(
    ("texts", "error", "sentence"),
    [
        ("cat", TypeError, "texts is one string"),
        (["cat", "\ud800"], InvalidRequestError, "is not UTF-8"),
    ],
)
def test_what_cannot_be_said(client, texts, error, sentence):
    with pytest.raises(error, match=sentence):
        client.embed_texts(texts)


def test_an_unknown_option(client):
    with pytest.raises(InvalidRequestError, match="Route 'direct'"):
        client.embed_images([b"photo"], route="direct")


def test_classify_returns_the_embedding_and_what_the_model_saw_on_demand(client, fake_service):
    [plain] = client.classify([b"photo"], ["cat"])
    assert (plain.embedding, plain.encoder_input, plain.none_of_these) == (None, None, False)
    [full] = client.classify(
        [b"photo"], ["cat"], min_cosine=0.5, min_probability=0.25, return_embedding=True, return_encoder_input=True
    )
    assert full.embedding == pytest.approx((0.6, 0.8))
    assert full.encoder_input == b"png of photo"
    assert full.none_of_these
    assert fake_service.requests[1].options.none_of_these == classifier_pb2.NoneOfThese(
        min_cosine=0.5, min_probability=0.25
    )


def test_a_threshold_of_zero_is_one(client, fake_service):
    client.classify([b"photo"], ["cat"], min_cosine=0.0)
    rule = fake_service.requests[0].options.none_of_these
    assert rule.HasField("min_cosine")
    assert not rule.HasField("min_probability")


def test_the_models_own_rule_needs_no_number(client, fake_service):
    [found] = client.classify([b"photo"], ["cat"], none_of_these=True)
    assert (found.none_of_these, found.none_probability) == (True, 0.75)
    assert fake_service.requests[0].options.none_of_these == classifier_pb2.NoneOfThese(calibrated=True)
    assert client.classify([b"photo"], ["cat"])[0].none_probability is None
    with pytest.raises(TypeError, match="none_of_these is 1; give True or False"):
        client.classify([b"photo"], ["cat"], none_of_these=1)


def test_how_good_the_models_own_rule_is(client, fake_service):
    assert client.model_info().none_of_these is None
    rule = classifier_pb2.NoneOfTheseInfo(
        name_count=311, threshold=0.5, false_refusals=0.0625, auroc=0.96875, expected_calibration_error=0.03125
    )
    fake_service.info.none_of_these.CopyFrom(rule)
    expected = NoneOfTheseInfo(
        name_count=311, threshold=0.5, false_refusals=0.0625, auroc=0.96875, expected_calibration_error=0.03125
    )
    assert client.model_info().none_of_these == expected
    fake_service.info.ClearField("none_of_these")
