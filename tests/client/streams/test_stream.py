"""classify_stream of both clients against a real server: order, memory, lost connections, deadlines."""

from __future__ import annotations

import itertools
import threading
import time
import tracemalloc
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from tests.ports import hold_port

import clipsr
from clipsr import (
    AsyncClient,
    Classification,
    Client,
    DeadlineError,
    FailedImage,
    InvalidRequestError,
    RateLimitedError,
    ServiceError,
    ServiceUnavailableError,
)
from clipsr.v1 import types_pb2

LABELS = ["cat", "dog"]


def numbered(count: int) -> Iterator[bytes]:
    return (b"image %d" % index for index in range(count))


def test_outcomes_carry_the_place_of_their_image(client, fake_service):
    fake_service.stream_burst = 3
    outcomes = list(client.classify_stream(numbered(7), LABELS))
    assert [index for index, _ in outcomes] == [2, 1, 0, 5, 4, 3, 6]
    assert all(isinstance(outcome, Classification) for _, outcome in outcomes)
    assert fake_service.streamed == [list(enumerate(numbered(7)))]


def test_every_option_reaches_the_service(client, fake_service):
    options = {"templates": ["a {}"], "top_k": 2, "fit": "squash", "route": "native"}
    options |= {"min_cosine": 0.5, "min_probability": 0.25, "return_embedding": True, "return_encoder_input": True}
    [(index, outcome)] = client.classify_stream([b"photo"], label_set="animals", **options)
    [config] = fake_service.configs
    assert config.label_space == types_pb2.LabelSpace(label_set="animals", templates=["a {}"])
    assert (config.top_k, config.fit, config.route) == (2, types_pb2.FIT_SQUASH, types_pb2.ROUTE_NATIVE)
    assert (config.none_of_these.min_cosine, config.none_of_these.min_probability) == (0.5, 0.25)
    assert (config.return_embedding, config.return_encoder_input) == (True, True)
    assert index == 0
    assert outcome.none_of_these
    assert outcome.embedding == pytest.approx((0.6, 0.8))
    assert outcome.encoder_input == b"png of photo"


def test_no_images_ask_nothing(client, fake_service):
    assert list(client.classify_stream([], LABELS)) == []
    assert fake_service.configs == []


def test_a_failed_image_does_not_fail_its_neighbours(client, fake_service, tmp_path):
    fake_service.fail_image(b"image 1", reason="IMAGE_TRUNCATED", message="It ends early.")
    images = [b"image 0", b"image 1", tmp_path / "gone.png", tmp_path, b"image 4"]
    outcomes = dict(client.classify_stream(images, LABELS))
    assert [type(outcomes[index]) for index in range(5)] == [Classification, *[FailedImage] * 3, Classification]
    assert outcomes[1].reason == "IMAGE_TRUNCATED"
    assert [outcomes[index].code for index in (2, 3)] == ["NOT_FOUND", "DATA_LOSS"]


def test_an_image_larger_than_a_message_fails_alone(client, fake_service):
    outcomes = dict(client.classify_stream([bytes(64 * 1024 * 1024), b"small"], LABELS))
    assert outcomes[0].reason == "IMAGE_TOO_LARGE"
    assert isinstance(outcomes[1], Classification)
    assert [content for _, content in fake_service.streamed[0]] == [b"small"]


@pytest.mark.parametrize("single", [b"photo", "photo.png"])
def test_a_single_image_is_not_taken_for_a_stream(client, single):
    with pytest.raises(TypeError, match=r"\[image\]"):
        list(client.classify_stream(single, LABELS))


def test_what_is_no_image_is_a_type_error(client):
    with pytest.raises(TypeError):
        list(client.classify_stream([b"photo", 7], LABELS))


def test_options_are_checked_by_the_call_itself():
    with pytest.raises(InvalidRequestError, match="Fit 'stretch'"):
        Client().classify_stream([], LABELS, fit="stretch")
    with pytest.raises(InvalidRequestError, match="Fit 'stretch'"):
        AsyncClient().classify_stream([], LABELS, fit="stretch")


def test_what_the_images_raise_comes_after_the_outcomes_before_it(client):
    def images():
        yield from numbered(5)
        raise LookupError("no more")

    seen = []
    with pytest.raises(LookupError, match="no more"):
        seen.extend(index for index, _ in client.classify_stream(images(), LABELS))
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_no_more_is_read_than_agreed(client, fake_service):
    read = itertools.count()
    ahead = []
    outcomes = client.classify_stream((b"%d" % next(read) for _ in range(200)), LABELS, read_ahead=8)
    for handed_back, _ in enumerate(outcomes):
        ahead.append(next(read) - handed_back)
        read = itertools.count(ahead[-1] + handed_back)  # looking counts, too
    assert len(ahead) == 200
    assert max(ahead) <= 8 + 1  # one is read before there is room for it


def test_a_slow_source_does_not_hold_answers_back(client):
    gate = threading.Event()

    def images():
        yield b"first"
        assert gate.wait(30)
        yield b"second"

    outcomes = client.classify_stream(images(), LABELS, idle_timeout_s=1.5)
    assert next(outcomes)[0] == 0
    time.sleep(1.7)  # nothing waits for an answer: no deadline runs
    gate.set()
    assert [index for index, _ in outcomes] == [1]


def test_memory_does_not_grow_with_the_images(fake_service):
    """Fifteen times the images within the same peak, client and server together; the larger stream is 15 MB long."""
    fake_service.keeps_images = False
    peaks = []
    with Client(fake_service.url) as client:
        list(client.classify_stream(numbered(10), LABELS))  # what is loaded with the first call is not the stream's
        for count in (200, 3_000):
            tracemalloc.start()
            assert sum(1 for _ in client.classify_stream((bytes(5_000) for _ in range(count)), LABELS)) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 500_000


class TestConnections:
    """A lost connection costs no image and repeats no outcome."""

    def test_only_what_was_not_answered_is_sent_again(self, client, fake_service):
        def cut(answered: int, context: grpc.ServicerContext) -> None:
            if answered == 10 and len(fake_service.configs) == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "The gateway goes down.")

        fake_service.on_stream = cut
        outcomes = list(client.classify_stream(numbered(100), LABELS, read_ahead=16))
        assert sorted(index for index, _ in outcomes) == list(range(100))
        assert len(fake_service.configs) == 2
        resent = [index for index, _ in fake_service.streamed[1]]
        assert resent == sorted(set(resent)) == list(range(10, 100))

    def test_a_connection_may_fail_again_and_again_while_there_is_progress(self, client, fake_service):
        def cut(answered: int, context: grpc.ServicerContext) -> None:
            if answered == 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Again.")

        fake_service.on_stream = cut
        outcomes = list(client.classify_stream(numbered(14), LABELS))
        assert sorted(index for index, _ in outcomes) == list(range(14))
        assert len(fake_service.configs) == 7

    def test_without_progress_it_gives_up(self, connect, fake_service):
        fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Down.")
        client = connect(fake_service.url, retries=2)
        with pytest.raises(ServiceUnavailableError, match=r"Down\.") as caught:
            list(client.classify_stream(numbered(3), LABELS))
        assert len(fake_service.configs) in (3, 4)  # with one that only listened, see _async/stream.py
        assert isinstance(caught.value.__cause__, grpc.RpcError)

    def test_no_retries_means_none(self, connect, fake_service):
        fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Down.")
        with pytest.raises(ServiceUnavailableError):
            list(connect(fake_service.url, retries=0).classify_stream(numbered(3), LABELS))
        assert len(fake_service.configs) in (1, 2)
        assert not any(fake_service.streamed[1:])  # nothing was sent a second time

    def test_it_waits_as_long_as_it_is_asked_to(self, client, fake_service):
        retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=400_000_000))
        times = []

        def limit(answered: int, context: grpc.ServicerContext) -> None:
            times.append(time.monotonic())
            if answered == 1 and len(fake_service.configs) == 1:
                fake_service.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Slower.", retry)
                try:
                    fake_service._wait_or_abort(context)
                finally:
                    fake_service.heal()

        fake_service.on_stream = limit
        assert len(list(client.classify_stream(numbered(4), LABELS))) == 4
        assert max(after - before for before, after in itertools.pairwise(times)) >= 0.4

    def test_a_limit_that_asks_for_more_than_there_is_time(self, client, fake_service):
        retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60))
        fake_service.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Slower.", retry)
        started_s = time.monotonic()
        with pytest.raises(RateLimitedError) as caught:
            list(client.classify_stream(numbered(4), LABELS))
        assert caught.value.retry_after_s == 60
        assert time.monotonic() - started_s < 10

    def test_a_stream_that_ends_early_is_continued(self, client, fake_service):
        real = fake_service.ClassifyStream

        def end_early(requests, context):
            yield from itertools.islice(real(requests, context), 2)

        fake_service.ClassifyStream = end_early
        outcomes = list(client.classify_stream(numbered(6), LABELS))
        assert sorted(index for index, _ in outcomes) == list(range(6))

    def test_what_cannot_be_mended_is_raised_at_once(self, client, fake_service):
        fake_service.abort(grpc.StatusCode.INTERNAL, "boom")
        with pytest.raises(ServiceError, match="boom"):
            list(client.classify_stream(numbered(3), LABELS))
        assert len(fake_service.configs) in (1, 2)

    def test_a_server_that_is_replaced_is_found_again(self, client, fake_service):
        other = type(fake_service)()
        port = int(fake_service.url.rpartition(":")[2])
        outcomes = client.classify_stream(numbered(300), LABELS, read_ahead=4)
        seen = [index for index, _ in itertools.islice(outcomes, 20)]
        with hold_port(port):
            fake_service.stop()
            restart = threading.Timer(0.3, lambda: other.start(port=port))
            restart.start()
            try:
                seen += [index for index, _ in outcomes]
            finally:
                restart.join()
                other.stop()
        assert sorted(seen) == list(range(300))


class TestDeadlines:
    def test_silence_is_not_waited_out(self, client, fake_service):
        fake_service.delay_s = 30
        started_s = time.monotonic()
        with pytest.raises(DeadlineError, match=r"for 0\.3 s although images are waiting") as caught:
            list(client.classify_stream(numbered(3), LABELS, idle_timeout_s=0.3))
        assert caught.value.timeout_s == 0.3
        assert time.monotonic() - started_s < 10

    def test_a_stream_may_take_longer_than_its_idle_timeout(self, client, fake_service):
        fake_service.on_stream = lambda answered, context: time.sleep(0.3)
        started_s = time.monotonic()
        outcomes = list(client.classify_stream(numbered(8), LABELS, idle_timeout_s=2.0))
        assert len(outcomes) == 8
        assert time.monotonic() - started_s > 2.0

    def test_the_clients_deadline_is_the_default(self, connect, fake_service):
        fake_service.delay_s = 30
        with pytest.raises(DeadlineError) as caught:
            list(connect(fake_service.url, timeout_s=0.2).classify_stream(numbered(1), LABELS))
        assert caught.value.timeout_s == 0.2

    def test_nobody_at_the_address(self, connect):
        client = connect("127.0.0.1:1", retries=1)
        with pytest.raises(ServiceUnavailableError, match="Nobody answers"):
            list(client.classify_stream(numbered(1), LABELS))


def test_closing_the_iterator_ends_the_stream(client, fake_service):
    ended = threading.Event()
    fake_service.on_stream = lambda answered, context: context.add_callback(ended.set)
    outcomes = client.classify_stream((b"image" for _ in itertools.count()), LABELS)
    next(outcomes)
    outcomes.close()
    assert ended.wait(10)
    assert list(outcomes) == []


def test_closing_the_iterator_ends_its_threads(fake_service):
    with Client(fake_service.url) as client:
        outcomes = client.classify_stream((b"image" for _ in itertools.count()), LABELS)
        next(outcomes)
        outcomes.close()
        end_s = time.monotonic() + 10
        while any(thread.name.startswith("clipsr-") for thread in threading.enumerate()):
            assert time.monotonic() < end_s
            time.sleep(0.01)


async def test_asynchronous_images(fake_service):
    async def images():
        for image in numbered(5):
            yield image

    async with clipsr.AsyncClient(fake_service.url) as client:
        outcomes = [outcome async for outcome in client.classify_stream(images(), LABELS)]
    assert sorted(index for index, _ in outcomes) == [0, 1, 2, 3, 4]
