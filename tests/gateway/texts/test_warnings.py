"""Labels, texts and queries that are cut at the context length are warned of, wherever they come from."""

from __future__ import annotations

import numpy as np
import pytest
from tests.gateway.conftest import CONTEXT_LENGTH, ask

from clipsr.v1 import classifier_pb2, embedding_pb2, types_pb2
from clipsr_gateway._calls.response_size import WARNINGS_BYTES
from clipsr_gateway._texts.warnings import cut_warnings

LONG = "x" * (CONTEXT_LENGTH + 1)


def fields(answer) -> list[str]:
    assert {warning.reason for warning in answer.warnings} <= {"TEXT_CUT"}
    return [warning.field for warning in answer.warnings]


async def test_a_cut_label_is_named_and_asked_about_once(start, backend, request_of):
    one = await start()
    request = request_of(labels=["cat", LONG, "dog"])
    for _ in range(2):
        answer = await one.stub.Classify(request)
        assert fields(answer) == ["options.label_space.labels[1]"]
        assert f"more than the {CONTEXT_LENGTH} tokens" in answer.warnings[0].message
    assert [call["wants_cut"] for call in backend.user_calls()] == [True, False]
    assert not (await one.stub.Classify(request_of())).warnings


@pytest.fixture
def long_set(document):
    document["label_sets"]["long"] = [LONG, "cat", "dog"]


async def test_a_published_set_is_warned_of_by_its_name(long_set, start, request_of):
    one = await start()
    answer = await one.stub.Classify(request_of(labels=(), label_set="long"))
    assert fields(answer) == ["options.label_space.label_set"]


async def test_templates_that_cut_every_label_are_one_warning(start, request_of):
    one = await start()
    answer = await one.stub.Classify(request_of(labels=[f"{LONG} {place}" for place in range(100)]))
    assert fields(answer) == ["options.label_space.labels"]
    assert "shorten the templates or the labels" in answer.warnings[0].message


async def test_no_image_no_answer_about_labels(start, request_of):
    one = await start()
    assert not (await one.stub.Classify(request_of(b"no image", labels=["cat", LONG]))).warnings
    assert fields(await one.stub.Classify(request_of(labels=["cat", LONG]))) == ["options.label_space.labels[1]"]


async def test_a_stream_warns_once(start, png):
    one = await start()
    options = classifier_pb2.ClassifyOptions(label_space=types_pb2.LabelSpace(labels=["cat", LONG]))
    images = [types_pb2.Image(content=png(8 + place)) for place in range(20)]
    messages = [
        classifier_pb2.ClassifyStreamRequest(options=options),
        *(
            classifier_pb2.ClassifyStreamRequest(image=classifier_pb2.StreamImage(index=place, image=image))
            for place, image in enumerate(images)
        ),
    ]
    call = await ask(one.stub.ClassifyStream, messages)
    await call.done_writing()
    answers = [answer async for answer in call]
    assert [fields(answer) for answer in answers] == [["options.label_space.labels[1]"], *[[]] * 19]


async def test_texts_are_warned_of_across_portions(start):
    one = await start()
    texts = [f"text {place}" for place in range(200)]
    texts[150] = LONG
    answer = await one.embedder.EmbedTexts(embedding_pb2.EmbedTextsRequest(texts=texts))
    assert fields(answer) == ["texts[150]"]


def test_many_are_counted_and_fit_the_room_that_is_kept_for_them():
    texts = ["猫" * 300] * 10_000
    is_cut = np.ones(10_000, bool)
    is_cut[0] = False
    warnings = cut_warnings(
        texts, is_cut, noun="label", field="options.label_space.labels[{}]", context_length=CONTEXT_LENGTH
    )
    assert warnings[0].field == "options.label_space.labels[1]"
    assert warnings[-1].message.startswith("9,983 further labels have")
    assert classifier_pb2.ClassifyResponse(warnings=warnings).ByteSize() < WARNINGS_BYTES
