"""Both clients against a real server on loopback: every test runs once for each."""

from __future__ import annotations

import io
import time

import grpc
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

import clipsr
from clipsr import (
    Classification,
    ClassifyOptions,
    ClientClosedError,
    ClipsrError,
    DeadlineError,
    FailedImage,
    InvalidRequestError,
    Prediction,
    RateLimitedError,
    ServiceError,
    ServiceUnavailableError,
)
from clipsr._codecs import classify
from clipsr.v1 import classifier_pb2, types_pb2


def numbered(count: int) -> list[bytes]:
    return [b"image %d" % index for index in range(count)]


def test_a_classification_holds_what_the_service_sent(client, fake_service):
    [result] = client.classify([b"photo"], ["cat", "dog"])
    assert result == Classification(
        predictions=(
            Prediction(label="cat", cosine=pytest.approx(0.3), probability=0.5),
            Prediction(label="dog", cosine=pytest.approx(0.3 - 1 / 64), probability=0.25),
        ),
        input_hw=(32, 48),
        route="upscaled",
        queue_ms=0.5,
        inference_ms=12.25,
        model_digest=fake_service.info.digest,
    )


def test_every_option_reaches_the_service(client, fake_service):
    [result] = client.classify(
        [b"photo"], label_set="animals", templates=["a {}", "the {}"], top_k=2, fit="squash", route="native"
    )
    assert fake_service.requests == [
        classifier_pb2.ClassifyRequest(
            images=[types_pb2.Image(content=b"photo")],
            options=classifier_pb2.ClassifyOptions(
                label_space=types_pb2.LabelSpace(label_set="animals", templates=["a {}", "the {}"]),
                fit=types_pb2.FIT_SQUASH,
                route=types_pb2.ROUTE_NATIVE,
                top_k=2,
            ),
        )
    ]
    assert [prediction.label for prediction in result.predictions] == ["cat", "dog"]
    assert result.route == "native"


def test_options_held_as_one_value_say_the_same(client, fake_service):
    options = ClassifyOptions(labels=["cat"], templates=["a {}"], top_k=1, route="native", min_cosine=0.25)
    client.classify([b"photo"], options=options)
    client.classify([b"photo"], ["cat"], templates=["a {}"], top_k=1, route="native", min_cosine=0.25)
    list(client.classify_stream([b"photo"], options=options))
    assert fake_service.requests[0] == fake_service.requests[1]
    assert fake_service.configs == [fake_service.requests[0].options]


def test_options_are_not_given_twice(client, fake_service):
    with pytest.raises(TypeError, match="given at once"):
        client.classify([b"photo"], ["cat"], options=ClassifyOptions(labels=["cat"]))
    with pytest.raises(TypeError, match="given at once"):
        client.classify_stream([b"photo"], top_k=1, options=ClassifyOptions(labels=["cat"]))
    assert not fake_service.requests


def test_defaults_leave_the_choice_to_the_service(client, fake_service):
    client.classify([b"photo"], ["cat"])
    [request] = fake_service.requests
    assert request.options.route == types_pb2.ROUTE_UNSPECIFIED
    assert request.options.fit == types_pb2.FIT_UNSPECIFIED
    assert request.options.top_k == 5
    assert not request.options.label_space.templates


def test_images_come_from_bytes_paths_and_open_files(client, fake_service, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"a file")
    sources = [b"bytes", str(path), path, io.BytesIO(b"open"), bytearray(b"array")]
    assert len(client.classify(sources, ["cat"])) == 5
    contents = [image.content for image in fake_service.requests[0].images]
    assert contents == [b"bytes", b"a file", b"a file", b"open", b"array"]


@pytest.mark.parametrize("ask", ["classify", "embed_images"])
def test_a_file_that_is_not_there_does_not_fail_its_neighbours(client, tmp_path, ask):
    arguments = (["cat"],) if ask == "classify" else ()
    sources = [b"first", tmp_path / "absent.png", tmp_path, b"last", tmp_path / "\0"]
    first, absent, folder, last, odd = getattr(client, ask)(sources, *arguments)
    assert not isinstance(first, FailedImage)
    assert not isinstance(last, FailedImage)
    assert (absent.code, folder.code, odd.code) == ("NOT_FOUND", "DATA_LOSS", "INVALID_ARGUMENT")


def test_a_text_file_is_refused(client):
    with pytest.raises(TypeError, match="binary mode"):
        client.classify([io.StringIO("text")], ["cat"])


@pytest.mark.parametrize("single", [b"photo", "photo.png", io.BytesIO(b"photo")], ids=["bytes", "path", "file"])
def test_a_single_image_is_not_taken_for_a_sequence(client, single):
    with pytest.raises(TypeError, match=r"\[image\]"):
        client.classify(single, ["cat"])


def test_a_single_label_is_not_taken_for_a_sequence(client):
    with pytest.raises(TypeError, match=r"labels is one string"):
        client.classify([b"photo"], "cat")


def test_no_images_ask_nothing(client, fake_service):
    assert client.classify([], ["cat"]) == []
    assert not fake_service.requests


def test_a_failed_image_does_not_fail_its_neighbours(client, fake_service):
    fake_service.fail_image(b"image 1", reason="IMAGE_TRUNCATED", message="It ends early.")
    first, second, third = client.classify(numbered(3), ["cat"])
    assert isinstance(first, Classification)
    assert second == FailedImage(code="INVALID_ARGUMENT", reason="IMAGE_TRUNCATED", message="It ends early.")
    assert isinstance(third, Classification)


def test_many_images_are_split_and_stay_in_order(client, fake_service):
    fake_service.fail_image(b"image 256")
    results = client.classify(numbered(600), ["cat"])
    assert [len(request.images) for request in fake_service.requests] == [256, 256, 88]
    sent = [image.content for request in fake_service.requests for image in request.images]
    assert sent == numbered(600)
    assert [index for index, result in enumerate(results) if isinstance(result, FailedImage)] == [256]


def test_large_images_are_split_by_the_bytes_of_a_message(client, fake_service, monkeypatch):
    monkeypatch.setitem(classify.split.__kwdefaults__, "max_message_bytes", 64_000)  # 64 MiB would take seconds
    large, too_large = bytes(33_000), bytes(64_000)
    results = client.classify([large, too_large, large, b"small"], ["cat"])
    assert [[len(image.content) for image in request.images] for request in fake_service.requests] == [
        [33_000],
        [33_000, 5],
    ]
    assert [type(result) for result in results] == [Classification, FailedImage, Classification, Classification]
    assert results[1].reason == "IMAGE_TOO_LARGE"


def test_an_answer_larger_than_grpcs_default_limit_arrives(client):
    labels = [f"{index:04d}" + "x" * 1_000 for index in range(5_000)]
    [result] = client.classify([b"photo"], labels, top_k=0)
    assert [prediction.label for prediction in result.predictions] == labels


def test_model_info_holds_every_field(client):
    info = client.model_info()
    assert info == clipsr.ModelInfo(
        name="clipsr-test",
        digest="sha256:" + "ab" * 32,
        image_architecture="RN-test",
        image_size_px=64,
        embed_dim=256,
        upscaler_architecture="liif-test",
        canvas_sizes_px=(32, 64, 128),
        native_min_side_px=65,
        logit_scale=50.0,
        logit_bias=-0.5,
        scoring_function="softmax",
        context_length=33,
        default_templates="@simple",
        label_sets={"animals": ("cat", "dog", "bird")},
        template_sets={"simple": ("a photo of a {}.",)},
        limits=clipsr.Limits(
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
            caller=clipsr.CallerLimits(items_per_second=100.5, burst=200, max_concurrent_calls=8),
            library=clipsr.LibraryLimits(
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
        artifacts=(clipsr.Artifact(path="upscale/1/model.onnx", sha256="cd" * 32, size_bytes=123),),
        gateway_version="0.1.0",
    )


@pytest.mark.parametrize("status", health_pb2.HealthCheckResponse.ServingStatus.keys())
def test_health_names_every_status(client, fake_service, status):
    fake_service.health["clipsr.v1.Other"] = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
    assert client.health(service="clipsr.v1.Other") == status


def test_health_asks_for_the_whole_server_unless_told_otherwise(client, fake_service):
    fake_service.health = {"": health_pb2.HealthCheckResponse.NOT_SERVING}
    assert client.health() == "NOT_SERVING"
    assert client.health(service="clipsr.v1.ClassifierService") == "SERVICE_UNKNOWN"


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.classify([b"photo"], ["cat"]),
        lambda client: client.model_info(),
        lambda client: client.health(),
    ],
    ids=["classify", "model_info", "health"],
)
def test_nobody_at_the_address(connect, unused_port, call):
    url = f"127.0.0.1:{unused_port}"
    with pytest.raises(ServiceUnavailableError, match=f"Nobody answers at {url}.*clipsr-serve up") as caught:
        call(connect(url))
    assert caught.value.url == url
    assert caught.value.retry_after_s is None
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_a_new_client_does_not_wait_for_what_an_older_one_found(connect, fake_service, unused_port):
    url = f"127.0.0.1:{unused_port}"
    older = connect(url, retries=0)
    with pytest.raises(ServiceUnavailableError):
        older.model_info()
    later = type(fake_service)()
    later.start(port=unused_port)
    try:
        assert connect(url, retries=0).model_info()
    finally:
        later.stop()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.model_info(),
        lambda client: list(client.classify_stream(numbered(3), ["cat"])),
    ],
    ids=["model_info", "classify_stream"],
)
def test_closing_ends_the_connection_even_if_an_error_is_kept(connect, fake_service, call):
    client = connect(fake_service.url, retries=0)
    fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Down.")
    with pytest.raises(ServiceUnavailableError) as kept:
        call(client)
    assert open_connections(fake_service.url)
    client.close()
    end_s = time.monotonic() + 10
    while open_connections(fake_service.url):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    assert isinstance(kept.value.__cause__, grpc.RpcError)


def open_connections(url: str) -> list[int]:
    """Ports from which this process is connected to that address."""
    port = int(url.rpartition(":")[2])
    connections = psutil.Process().net_connections("tcp")
    return [each.laddr.port for each in connections if each.raddr and each.raddr.port == port]


def test_a_service_that_cannot_work_says_when_to_come_back(client, fake_service):
    info = error_details_pb2.ErrorInfo(reason="BACKEND_UNAVAILABLE", domain="clipsr")
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Triton is not ready.", info, retry)
    with pytest.raises(ServiceUnavailableError, match=r"Triton is not ready\. Try again in 1\.5 s\.") as caught:
        client.classify([b"photo"], ["cat"])
    assert caught.value.reason == "BACKEND_UNAVAILABLE"
    assert caught.value.retry_after_s == 1.5


@pytest.mark.parametrize("call", ["classify", "health"])
def test_a_deadline_that_passes(client, fake_service, call):
    fake_service.delay_s = 30.0
    arguments = ([b"photo"], ["cat"]) if call == "classify" else ()
    with pytest.raises(DeadlineError, match=r"within 0\.2 s\. Allow more time") as caught:
        getattr(client, call)(*arguments, timeout_s=0.2)
    assert caught.value.timeout_s == 0.2
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_the_clients_own_deadline_is_the_default(connect, fake_service):
    fake_service.delay_s = 30.0
    with pytest.raises(DeadlineError) as caught:
        connect(fake_service.url, timeout_s=0.1).model_info()
    assert caught.value.timeout_s == 0.1


def test_an_invalid_request_says_which_fields(client, fake_service):
    sentence = "Label 'cat' appears twice; send each label once."
    violation = error_details_pb2.BadRequest.FieldViolation(field="label_space.labels[1]", description=sentence)
    fake_service.abort(
        grpc.StatusCode.INVALID_ARGUMENT,
        sentence,
        error_details_pb2.ErrorInfo(reason="LABEL_DUPLICATE", domain="clipsr"),
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
    with pytest.raises(InvalidRequestError, match="appears twice") as caught:
        client.classify([b"photo"], ["cat", "cat"])
    assert caught.value.reason == "LABEL_DUPLICATE"
    assert caught.value.violations == (("label_space.labels[1]", sentence),)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_a_fault_of_the_service_carries_its_request_id(client, fake_service):
    request_info = error_details_pb2.RequestInfo(request_id="0123abcd")
    fake_service.abort(grpc.StatusCode.INTERNAL, "The server failed on this.", request_info)
    with pytest.raises(ServiceError, match="failed with INTERNAL: The server failed") as caught:
        client.classify([b"photo"], ["cat"])
    assert caught.value.code == "INTERNAL"
    assert caught.value.request_id == "0123abcd"


def test_a_status_without_details_is_enough(client, fake_service):
    fake_service.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad")
    with pytest.raises(InvalidRequestError, match="bad") as caught:
        client.model_info()
    assert caught.value.reason == ""
    assert caught.value.violations == ()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "is no clipsr gateway"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "send fewer or smaller images"),
        (grpc.StatusCode.DATA_LOSS, "failed with DATA_LOSS"),
    ],
)
def test_other_codes_are_service_errors(client, fake_service, code, advice):
    fake_service.abort(code, "because")
    with pytest.raises(ServiceError, match=rf"{advice}.*because") as caught:
        client.classify([b"photo"], ["cat"])
    assert caught.value.code == code.name


def test_an_overloaded_service_asks_to_wait(connect, fake_service):
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
    fake_service.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls.", retry)
    client = connect(fake_service.url, retries=0)
    with pytest.raises(RateLimitedError, match=r"Too many calls\. Try again in 2 s\.") as caught:
        client.classify([b"photo"], ["cat"])
    assert caught.value.retry_after_s == 2.0
    assert caught.value.url == fake_service.url


def test_an_answer_that_does_not_fit_the_request(client, fake_service):
    fake_service.answer = lambda request: classifier_pb2.ClassifyResponse()
    with pytest.raises(ServiceError, match="0 results for 1 images"):
        client.classify([b"photo"], ["cat"])


def test_an_error_after_the_first_request_is_raised(client, fake_service):
    def answer_once(request):
        fake_service.answer = None
        fake_service.abort(grpc.StatusCode.INTERNAL, "later")
        return classifier_pb2.ClassifyResponse(results=[result] * len(request.images))

    result = classifier_pb2.ClassifyResult(classification=classifier_pb2.Classification(route=types_pb2.ROUTE_NATIVE))
    fake_service.answer = answer_once
    with pytest.raises(ClipsrError, match="later"):
        client.classify(numbered(257), ["cat"])
    assert len(fake_service.requests) == 2


def test_an_address_that_is_none(connect):
    with pytest.raises(InvalidRequestError, match="HOST:PORT"):
        connect("http://localhost:50051")


def test_a_host_name_is_resolved(connect, fake_service):
    port = fake_service.url.rpartition(":")[2]
    assert connect(f"localhost:{port}").health() == "SERVING"


def test_the_client_is_a_context_manager(fake_service):
    with clipsr.Client(fake_service.url) as client:
        assert client.health() == "SERVING"
    with pytest.raises(ClientClosedError, match="closed"):
        client.health()


async def test_the_async_client_is_a_context_manager(fake_service):
    async with clipsr.AsyncClient(fake_service.url) as client:
        assert await client.health() == "SERVING"
        assert (await client.model_info()).name == "clipsr-test"


async def test_closing_an_async_client_that_never_connected():
    await clipsr.AsyncClient().close()
