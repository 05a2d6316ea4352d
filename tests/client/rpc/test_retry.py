"""When calls are made again: the policy by itself, and both clients."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from clipsr import (
    AuthenticationError,
    DeadlineError,
    InvalidRequestError,
    RateLimitedError,
    ServiceError,
    ServiceUnavailableError,
)
from clipsr._rpc import health
from clipsr._rpc.health import ReadinessPoller
from clipsr._rpc.retry import Deadline, RetryPolicy

AWAY = ServiceUnavailableError("down", url="x")
OTHERS = [
    AuthenticationError("no", url="x", code="UNAUTHENTICATED"),
    DeadlineError("late", timeout_s=1),
    InvalidRequestError("bad"),
    ServiceError("boom", code="INTERNAL"),
    # It answered, and did not ask to come back: only an operator can mend this.
    ServiceUnavailableError("there is no such bucket", url="x", reason="LIBRARY_STORAGE_UNAVAILABLE"),
]


@given(attempt=st.integers(1, 60), draw=st.floats(0, 1, exclude_max=True))
def test_delays_grow_with_jitter_up_to_a_bound(attempt, draw):
    delay_s = RetryPolicy(retries=60, draw=lambda: draw).delay_s(AWAY, attempt=attempt, left_s=1e9)
    backoff_s = min(0.2 * 2 ** (attempt - 1), 5.0)
    assert backoff_s / 2 <= delay_s <= backoff_s


@given(asked_s=st.floats(0, 1e6), draw=st.floats(0, 1, exclude_max=True), attempt=st.integers(1, 10))
def test_never_earlier_than_the_service_asks(asked_s, draw, attempt):
    policy = RetryPolicy(retries=10, draw=lambda: draw)
    error = RateLimitedError("slow", url="x", retry_after_s=asked_s)
    assert asked_s <= policy.delay_s(error, attempt=attempt, left_s=1e9) <= asked_s + 2.5


def test_the_number_is_kept():
    policy = RetryPolicy(retries=2)
    assert [policy.delay_s(AWAY, attempt=n, left_s=9) is not None for n in (1, 2, 3)] == [True, True, False]
    assert RetryPolicy(retries=0).delay_s(AWAY, attempt=1, left_s=9) is None


def test_no_attempt_that_could_not_end_in_time():
    assert RetryPolicy(draw=lambda: 0.0).delay_s(AWAY, attempt=1, left_s=0.2) is None


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_only_what_may_pass_is_tried_again(error):
    assert RetryPolicy().delay_s(error, attempt=1, left_s=9) is None


def test_a_negative_number_is_refused(connect):
    with pytest.raises(InvalidRequestError, match=r"retries is -1"):
        connect("localhost:50051", retries=-1)


def test_a_deadline_ends_at_zero():
    deadline = Deadline(0.001)
    time.sleep(0.01)
    assert deadline.left_s() == 0.0


def classify(client):
    return client.classify([b"photo"], ["cat"])


def test_a_service_that_comes_back_is_not_noticed(client, fake_service):
    fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Starting.", calls=1)
    [result] = classify(client)
    assert result.predictions
    assert len(fake_service.requests) == 2


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (classify, "requests"),
        (lambda client: client.embed_images([b"photo"]), "embeds"),
        (lambda client: client.embed_texts(["cat"]), "embeds"),
        (lambda client: client.upscale(b"photo", scale=2), "upscales"),
    ],
    ids=["classify", "embed_images", "embed_texts", "upscale"],
)
@pytest.mark.parametrize("retries", [0, 2])
def test_every_call_is_made_as_often_as_agreed(connect, fake_service, call, asked, retries):
    fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Down.")
    with pytest.raises(ServiceUnavailableError, match="Down"):
        call(connect(fake_service.url, retries=retries))
    assert len(getattr(fake_service, asked)) == 1 + retries


def test_a_call_that_a_closing_service_never_took_is_made_again(client, fake_service):
    """GRPC's own status for it is CANCELLED, though nobody cancelled anything."""
    fake_service.abort(grpc.StatusCode.CANCELLED, "Server shutdown", calls=1)
    [result] = classify(client)
    assert result.predictions
    assert len(fake_service.requests) == 2


def test_faults_are_not_tried_again(client, fake_service):
    fake_service.abort(grpc.StatusCode.INTERNAL, "boom")
    with pytest.raises(ServiceError):
        classify(client)
    assert len(fake_service.requests) == 1


def test_a_message_too_large_is_not_tried_again(client, fake_service):
    """RESOURCE_EXHAUSTED without RetryInfo is gRPC's own size limit."""
    fake_service.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
    with pytest.raises(ServiceError, match="send fewer or smaller images"):
        classify(client)
    assert len(fake_service.requests) == 1


def test_a_limit_is_waited_for(client, fake_service):
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=300_000_000))
    fake_service.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Slower.", retry, calls=1)
    started_s = time.monotonic()
    classify(client)
    assert time.monotonic() - started_s >= 0.3
    assert len(fake_service.requests) == 2


def test_attempts_share_one_deadline(connect, fake_service):
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=100_000_000))
    fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Down.", retry)
    client = connect(fake_service.url, retries=1_000)
    started_s = time.monotonic()
    with pytest.raises((ServiceUnavailableError, DeadlineError)):
        client.classify([b"photo"], ["cat"], timeout_s=1.0)
    assert time.monotonic() - started_s < 20
    assert len(fake_service.requests) >= 2


class TestWaitForReady:
    def test_returns_once_it_serves(self, client, fake_service):
        fake_service.health[""] = 2
        started_s = time.monotonic()
        threading.Timer(0.4, lambda: fake_service.health.update({"": 1})).start()
        client.wait_for_ready()
        assert time.monotonic() - started_s >= 0.4

    def test_waits_for_a_service_that_is_not_there_yet(self, connect, fake_service, unused_port):
        later = type(fake_service)()
        timer = threading.Timer(0.4, lambda: later.start(port=unused_port))
        timer.start()
        try:
            connect(f"127.0.0.1:{unused_port}").wait_for_ready(timeout_s=20)
        finally:
            timer.join()
            later.stop()

    def test_says_what_it_waited_for(self, client, fake_service):
        fake_service.health[""] = 2
        with pytest.raises(ServiceUnavailableError, match=r"was not ready within 1\.5 s: NOT_SERVING") as caught:
            client.wait_for_ready(timeout_s=1.5)
        assert caught.value.reason == "NOT_SERVING"

    @pytest.mark.parametrize(
        ("before_s", "answer_s", "said"), [(8.0, 9.9, "NOT_SERVING"), (2.0, 9.9, "it gave no answer")]
    )
    def test_a_question_that_is_cut_short_says_nothing(self, monkeypatch, before_s, answer_s, said):
        now_s = 0.0
        monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: now_s))
        poller = ReadinessPoller("x", timeout_s=10.0)
        assert not poller.observe("NOT_SERVING")
        now_s = before_s
        allowed_s = poller.next_timeout_s()
        assert allowed_s == min(5.0, 10.0 - before_s)
        now_s = answer_s
        with pytest.raises(ServiceUnavailableError, match=f"not ready within 10 s: {said}"):
            poller.observe(DeadlineError("late", timeout_s=allowed_s))

    def test_nobody_at_the_address(self, connect):
        with pytest.raises(ServiceUnavailableError, match="Nobody answers"):
            connect("127.0.0.1:1").wait_for_ready(timeout_s=1.5)

    def test_a_service_by_name(self, client):
        client.wait_for_ready(service="clipsr.v1.ClassifierService", timeout_s=5)
        with pytest.raises(ServiceUnavailableError, match="SERVICE_UNKNOWN"):
            client.wait_for_ready(service="clipsr.v1.Other", timeout_s=1.5)
