"""What cannot be meant is refused where it comes in, by its name, before anything is sent."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipsr import ImageChanges, ImageFilter, InvalidRequestError, NewImage

NAN = math.nan


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf, -1, 0, 1e10])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("timeout_s", lambda client, value: client.classify([b"photo"], ["cat"], timeout_s=value)),
        ("timeout_s", lambda client, value: client.wait_for_ready(timeout_s=value)),
        ("timeout_s", lambda client, value: client.health(timeout_s=value)),
        ("timeout_s", lambda client, value: client.library("photos").info(timeout_s=value)),
        ("timeout_s", lambda client, value: list(client.library("photos").reembed(timeout_s=value))),
        ("idle_timeout_s", lambda client, value: client.classify_stream([b"1"], ["cat"], idle_timeout_s=value)),
        ("idle_timeout_s", lambda client, value: client.library("photos").add([b"1"], idle_timeout_s=value)),
    ],
)
def test_a_time_that_cannot_be_waited(client, fake_service, name, call, value):
    with pytest.raises(InvalidRequestError, match=f"^{name} is .*; give seconds above 0, such as 30") as caught:
        call(client, value)
    assert caught.value.violations == ((name, str(caught.value)),)
    assert not fake_service.metadata


@pytest.mark.parametrize("value", [NAN, math.inf, 0, -3])
def test_a_client_s_own_time(connect, value):
    with pytest.raises(InvalidRequestError, match="timeout_s is"):
        connect("localhost:50051", timeout_s=value)


@pytest.mark.parametrize("value", [None, "30", b"30", [30]])
def test_a_time_that_is_no_number(connect, client, value):
    with pytest.raises(TypeError, match=r"timeout_s is .*; give seconds above 0"):
        connect("localhost:50051", timeout_s=value)
    if value is not None:
        with pytest.raises(TypeError, match=r"timeout_s is .*; give seconds above 0"):
            client.model_info(timeout_s=value)


@pytest.mark.parametrize("value", [30, np.float32(30), np.int64(30), True])
def test_times_of_every_kind_of_number(client, value):
    assert client.model_info(timeout_s=value)


@pytest.mark.parametrize("value", [None, 2.5, NAN, math.inf, "3"])
def test_retries_that_are_no_whole_number(connect, value):
    with pytest.raises(TypeError, match=r"retries is .*; give how often to try again"):
        connect("localhost:50051", retries=value)


@pytest.mark.parametrize(("value", "error"), [(0, InvalidRequestError), (-1, InvalidRequestError), (1.5, TypeError)])
def test_reading_ahead_takes_a_whole_number(client, value, error):
    with pytest.raises(error, match=r"read_ahead is .*; give a whole number of at least 1"):
        client.classify_stream([b"photo"], ["cat"], read_ahead=value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": ["cat", NAN]}, TypeError, r"labels\[1\] is nan, not text"),
        ({"labels": ["cat", None]}, TypeError, r"labels\[1\] is None, not text"),
        ({"labels": [b"cat"]}, TypeError, r"labels\[0\] is b'cat', not text"),
        ({"labels": None}, TypeError, "labels is None; give a sequence of strings"),
        ({"labels": 5}, TypeError, "labels is 5; give a sequence of strings"),
        ({"labels": {0: "cat"}}, TypeError, "labels is {0: 'cat'}; give a sequence of strings"),
        ({"label_set": 5}, TypeError, "label_set is 5, not text"),
        ({"templates": [NAN]}, TypeError, r"templates\[0\] is nan, not text"),
        ({"top_k": NAN}, TypeError, "top_k is nan; use 0 for all labels"),
        ({"top_k": "5"}, TypeError, "top_k is '5'; use 0 for all labels"),
        ({"min_cosine": NAN}, InvalidRequestError, "min_cosine is nan; give a number from -1 to 1"),
        ({"min_cosine": 25}, InvalidRequestError, "min_cosine is 25; give a number from -1 to 1"),
        ({"min_cosine": "0.2"}, TypeError, "min_cosine is '0.2'; give a number from -1 to 1"),
        ({"min_probability": -0.1}, InvalidRequestError, "min_probability is -0.1; give a number from 0 to 1"),
        ({"min_probability": math.inf}, InvalidRequestError, "min_probability is inf"),
    ],
)
@pytest.mark.parametrize("method", ["classify", "classify_stream"])
def test_options_that_cannot_be_meant(client, fake_service, method, options, error, message):
    with pytest.raises(error, match=message):
        getattr(client, method)([b"photo"], **{"labels": ["cat"], **options})
    assert not fake_service.metadata


def test_labels_come_from_any_iterable(client, fake_service):
    for labels in (np.array(["cat", "dog"]), (name for name in ("cat", "dog")), {"cat": 0, "dog": 1}.keys()):
        client.classify([b"photo"], labels)
    assert [list(request.options.label_space.labels) for request in fake_service.requests] == [["cat", "dog"]] * 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda client: client.embed_texts(["cat", NAN]), TypeError, r"texts\[1\] is nan"),
        (lambda client: client.upscale(b"photo", scale="2"), TypeError, "scale is '2'; give a number of at least 1"),
        (
            lambda client: client.upscale(b"photo", size_hw=(3,)),
            TypeError,
            r"size_hw is \(3,\); give the output's rows",
        ),
        (lambda client: client.upscale(b"photo", size_hw=5), TypeError, "size_hw is 5; give the output's rows"),
        (
            lambda client: client.upscale(b"photo", size_hw=(3.5, 4)),
            TypeError,
            r"size_hw is 3\.5; give the output's rows",
        ),
        (lambda client: client.health(service=None), TypeError, "service is None, not text"),
        (lambda client: client.library(None).info(), TypeError, "name is None, not text"),
        (lambda client: client.library("\udcff").info(), InvalidRequestError, "name is not UTF-8"),
        (lambda client: client.library("x").search_text(NAN), TypeError, "text is nan, not text"),
        (lambda client: client.library("x").search_text("cat", top_k=NAN), TypeError, "top_k is nan"),
        (
            lambda client: client.library("x").search_text("cat", min_cosine=NAN),
            InvalidRequestError,
            "min_cosine is nan",
        ),
        (lambda client: client.library("x").search_image(sha256=5), TypeError, "sha256 is 5, not text"),
        (lambda client: client.library("x").get_image(None), TypeError, "sha256 is None, not text"),
        (lambda client: client.library("x").list_page(page_size=-1), InvalidRequestError, "page_size is -1"),
        (
            lambda client: client.classify([b"x"], options={"top_k": 1}),
            TypeError,
            "options is {'top_k': 1}; give Classify",
        ),
        (
            lambda client: client.library("x").list_page(where={"all_tags": ["a"]}),
            TypeError,
            "where is {.*; give ImageFil",
        ),
        (
            lambda client: client.library("x").list_page(where=ImageFilter(added_from="2026")),
            TypeError,
            "added_from is '2026'; give a datetime",
        ),
        (
            lambda client: client.library("y").create(keep_originals="no"),
            TypeError,
            "keep_originals is 'no'; give True",
        ),
        (lambda client: client.library("x").list_page(NAN), TypeError, "page_token is nan"),
        (lambda client: client.library("x").delete_images([NAN]), TypeError, r"hashes\[0\] is nan"),
        (
            lambda client: client.library("x").update_images(["0" * 64], changes=ImageChanges(add_tags="cat")),
            TypeError,
            "add_tags is",
        ),
        (
            lambda client: client.library("x").list_page(where=ImageFilter(metadata={"camera": 7})),
            TypeError,
            r"metadata\['camera'\] is 7, not text",
        ),
        (
            lambda client: list(client.library("x").add([NewImage(content=b"x", source=NAN)])),
            TypeError,
            "source is nan",
        ),
        (
            lambda client: list(client.library("x").add([NewImage(content=b"x", metadata={"camera": NAN})])),
            TypeError,
            r"metadata\['camera'\] is nan",
        ),
    ],
)
def test_arguments_of_other_calls(client, call, error, message):
    client.library("x").create()
    with pytest.raises(error, match=message):
        call(client)


@pytest.mark.parametrize(
    ("flag", "call"),
    [
        ("return_embedding", lambda client, text: client.classify([b"x"], labels=["a"], return_embedding=text)),
        ("return_encoder_input", lambda client, text: client.classify([b"x"], labels=["a"], return_encoder_input=text)),
        ("update_present", lambda client, text: list(client.library("x").add([b"x"], update_present=text))),
        ("return_thumbnail", lambda client, text: client.library("x").list_page(return_thumbnail=text)),
        ("return_original", lambda client, text: client.library("x").get_image("0" * 64, return_original=text)),
        ("return_embedding", lambda client, text: client.library("x").search_text("a", return_embedding=text)),
        ("newest_first", lambda client, text: client.library("x").list_page(newest_first=text)),
        ("is_exact", lambda client, text: client.library("x").search_text("a", is_exact=text)),
        ("exclude_query", lambda client, text: client.library("x").search_image(b"x", exclude_query=text)),
        ("drop_without_original", lambda client, text: list(client.library("x").reembed(drop_without_original=text))),
        (
            "clear_tags",
            lambda client, text: client.library("x").update_images(["0" * 64], changes=ImageChanges(clear_tags=text)),
        ),
        (
            "clear_metadata",
            lambda client, text: client.library("x").update_images(
                ["0" * 64], changes=ImageChanges(clear_metadata=text)
            ),
        ),
    ],
)
def test_a_flag_is_true_or_false_and_no_text(client, flag, call):
    client.library("x").create()
    with pytest.raises(TypeError, match=f"{flag} is 'no'; give True or False"):
        call(client, "no")


def test_a_key_that_is_no_text_is_not_repeated(connect):
    with pytest.raises(TypeError, match="api_key is no text") as caught:
        connect("localhost:50051", api_key=b"secret")
    assert "secret" not in str(caught.value)


def test_a_permission_that_is_no_flag_gives_none(connect):
    with pytest.raises(TypeError, match="allow_insecure_key is 'no'; give True or False"):
        connect("192.0.2.1:50051", api_key="secret", allow_insecure_key="no")


@pytest.mark.parametrize(
    "call",
    [
        lambda client, content: client.classify([[content]], ["cat"]),
        lambda client, content: client.classify([b"photo"], [content]),
        lambda client, content: client.upscale([content], scale=2),
        lambda client, content: client.upscale(b"photo", scale=content),
        lambda client, content: client.library("x").get_image(content),
        lambda client, content: client.library("x").list_page(where=content),
    ],
)
def test_a_file_in_the_wrong_place_is_not_printed_in_full(client, call):
    with pytest.raises(TypeError) as caught:
        call(client, b"\xff" * 100_000)
    assert len(str(caught.value)) < 500
