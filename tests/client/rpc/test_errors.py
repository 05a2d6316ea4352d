"""Statuses that no well-behaved server sends, and what errors carry."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from clipsr import (
    AlreadyExistsError,
    AuthenticationError,
    ClipsrError,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    ServiceUnavailableError,
)
from clipsr._rpc.errors import error_from_rpc


class FailedCall(grpc.RpcError):
    """What gRPC raises, without a call."""

    def __init__(self, code: grpc.StatusCode, details: str | None, status: bytes | None = None) -> None:
        super().__init__()
        self._code, self._details, self._status = code, details, status

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> list[tuple[str, bytes]] | None:
        return None if self._status is None else [("grpc-status-details-bin", self._status)]


def convert(call: FailedCall) -> ClipsrError:
    return error_from_rpc(call, url="localhost:50051", timeout_s=2.5)


@pytest.mark.parametrize(
    "status",
    [
        None,
        b"\xff",
        status_pb2.Status(code=13, message="bad").SerializeToString(),
        status_pb2.Status(code=3, message="another").SerializeToString(),
    ],
    ids=["none", "unreadable", "other code", "other message"],
)
def test_a_status_that_cannot_be_used_does_not_hide_the_call(status):
    error = convert(FailedCall(grpc.StatusCode.INVALID_ARGUMENT, "bad", status))
    assert isinstance(error, InvalidRequestError)
    assert str(error) == "bad"
    assert error.reason == ""


def test_a_delay_of_ages_does_not_hide_the_reason():
    status = status_pb2.Status(code=14, message="down")
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2**62)))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="BACKEND_UNAVAILABLE"))
    error = convert(FailedCall(grpc.StatusCode.UNAVAILABLE, "down", status.SerializeToString()))
    assert isinstance(error, ServiceUnavailableError)
    assert error.reason == "BACKEND_UNAVAILABLE"
    assert error.retry_after_s == 2**62


def test_a_service_that_names_no_delay():
    status = status_pb2.Status(code=14, message="Triton is down.")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="BACKEND_UNAVAILABLE"))
    error = convert(FailedCall(grpc.StatusCode.UNAVAILABLE, "Triton is down.", status.SerializeToString()))
    assert str(error) == "The service at localhost:50051 cannot do this: Triton is down."


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
@pytest.mark.parametrize("details", [None, ""])
def test_every_code_becomes_an_error_with_a_text(code, details):
    error = convert(FailedCall(code, details))
    expected = {
        grpc.StatusCode.UNAVAILABLE: ServiceUnavailableError,
        grpc.StatusCode.CANCELLED: ServiceUnavailableError,  # by the service, see error_from_rpc
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
        grpc.StatusCode.FAILED_PRECONDITION: InvalidRequestError,
        grpc.StatusCode.NOT_FOUND: NotFoundError,
        grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
        grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
        grpc.StatusCode.PERMISSION_DENIED: AuthenticationError,
    }.get(code, ServiceError)
    assert type(error) is expected
    assert len(str(error)) > 20


def test_an_invalid_request_is_also_a_value_error():
    assert issubclass(InvalidRequestError, ValueError)
