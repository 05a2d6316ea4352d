"""google.rpc.Status messages, with the details that let a program act on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from google.protobuf.message import Message
from google.rpc import (  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file
    code_pb2,
    error_details_pb2,
    status_pb2,
)

from clipsr_gateway.errors import (
    BackendUnavailableError,
    DeadlineExceededError,
    EncoderMissingError,
    GatewayError,
    InvalidRequestError,
    LibrariesDisabledError,
    LibraryError,
    LibraryExistsError,
    LibraryStateError,
    LimitedError,
    NoneBankMissingError,
    NotInLibraryError,
    RestorerMissingError,
    ShuttingDownError,
    StorageFullError,
    StorageUnavailableError,
    StreamExpiredError,
    UnauthenticatedError,
    Violation,
)

ERROR_DOMAIN = "clipsr"

# gRPC peers refuse trailing metadata beyond 8 KiB by default; the status travels there, base64-encoded.
_MAX_VIOLATIONS = 8

# Triton restarts in seconds; a client that waits less only adds load.
_RETRY_DELAY = timedelta(seconds=1)

_UNAVAILABLE_REASONS: dict[type[GatewayError], str] = {
    BackendUnavailableError: "BACKEND_UNAVAILABLE",
    ShuttingDownError: "SHUTTING_DOWN",
    StreamExpiredError: "STREAM_EXPIRED",
}

_LIBRARY_CODES: dict[type[LibraryError], int] = {
    LibrariesDisabledError: code_pb2.UNIMPLEMENTED,
    NotInLibraryError: code_pb2.NOT_FOUND,
    LibraryExistsError: code_pb2.ALREADY_EXISTS,
    LibraryStateError: code_pb2.FAILED_PRECONDITION,
    StorageFullError: code_pb2.RESOURCE_EXHAUSTED,
    StorageUnavailableError: code_pb2.UNAVAILABLE,
}


def invalid_argument(violations: Sequence[Violation]) -> status_pb2.Status:
    """Return INVALID_ARGUMENT with a BadRequest that lists the fields and an ErrorInfo for the first of them.

    Only the first few violations are listed: all details of a status must fit the trailing metadata.
    """
    listed = violations[:_MAX_VIOLATIONS]
    message = listed[0].message
    if len(violations) > 1:
        more = len(violations) - 1
        message += f" ({more} more {'field is' if more == 1 else 'fields are'} wrong.)"
    bad_request = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=violation.field, description=violation.message, reason=violation.reason
            )
            for violation in listed
        ]
    )
    return _status(code_pb2.INVALID_ARGUMENT, message, _error_info(listed[0].reason), bad_request)


def internal(request_id: str) -> status_pb2.Status:
    """Return INTERNAL that tells the caller nothing but the id under which the cause is logged."""
    return _status(
        code_pb2.INTERNAL,
        f"The server failed on this; its log has the cause under request id {request_id}.",
        _error_info("INTERNAL"),
        error_details_pb2.RequestInfo(request_id=request_id),
    )


def status_from_error(error: GatewayError, request_id: str) -> status_pb2.Status:
    """Return the status that answers a whole call which failed with `error`."""
    message = str(error)
    if isinstance(error, InvalidRequestError):
        return invalid_argument(error.violations)
    if isinstance(error, EncoderMissingError):
        return _status(code_pb2.FAILED_PRECONDITION, message, _error_info("ENCODER_MISSING"))
    if isinstance(error, NoneBankMissingError):
        return _status(code_pb2.FAILED_PRECONDITION, message, _error_info("NONE_BANK_MISSING"))
    if isinstance(error, UnauthenticatedError):
        return _status(code_pb2.UNAUTHENTICATED, message, _error_info(error.reason))
    if isinstance(error, LimitedError):
        retry = _retry_info(timedelta(seconds=error.retry_s))
        return _status(code_pb2.RESOURCE_EXHAUSTED, message, _error_info(error.reason), retry)
    if isinstance(error, DeadlineExceededError):
        return _status(code_pb2.DEADLINE_EXCEEDED, message, _error_info("DEADLINE_EXCEEDED"))
    if isinstance(error, (BackendUnavailableError, ShuttingDownError, StreamExpiredError)):
        reason = _UNAVAILABLE_REASONS[type(error)]
        return _status(code_pb2.UNAVAILABLE, message, _error_info(reason), _retry_info(_RETRY_DELAY))
    if isinstance(error, RestorerMissingError):
        return _status(code_pb2.FAILED_PRECONDITION, message, _error_info("RESTORER_MISSING"))
    if isinstance(error, LibraryError):
        passes = isinstance(error, StorageUnavailableError) and not error.is_lasting
        retries = [_retry_info(_RETRY_DELAY)] if passes else []
        return _status(_LIBRARY_CODES[type(error)], message, _error_info(error.reason), *retries)
    return internal(request_id)


def read_reason(status: status_pb2.Status) -> str:
    """Return the reason in a status's ErrorInfo; empty if it has none."""
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


def trailing_metadata(status: status_pb2.Status) -> list[tuple[str, str | bytes]]:
    """Return what carries a status to its caller; gRPC's own retries wait for as long as RetryInfo says."""
    metadata: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    retry = error_details_pb2.RetryInfo()
    if any(detail.Unpack(retry) for detail in status.details):
        metadata.append(("grpc-retry-pushback-ms", str(retry.retry_delay.ToMilliseconds())))
    return metadata


def _retry_info(delay: timedelta) -> error_details_pb2.RetryInfo:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(delay)
    return retry


def _error_info(reason: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN)


def _status(code: int, message: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status
