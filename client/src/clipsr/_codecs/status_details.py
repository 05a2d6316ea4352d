"""The google.rpc details that travel with a status."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.rpc import (  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file
    error_details_pb2,
    status_pb2,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """What a status says beyond its code and message.

    Attributes:
        reason: ErrorInfo's; empty if there is none.
        violations: BadRequest's (field path, description).
        retry_after_s: RetryInfo's, in seconds.
        request_id: RequestInfo's.
    """

    reason: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None
    request_id: str | None = None


def parse_details(status: status_pb2.Status) -> Details:
    """Read the details that clipsr sends; others, and what cannot be read, are passed over."""
    reason, violations, retry_after_s, request_id = "", (), None, None
    for detail in status.details:
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
        try:
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(bad_request):
                violations = tuple((each.field, each.description) for each in bad_request.field_violations)
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9  # a timedelta holds less
            elif detail.Unpack(request):
                request_id = request.request_id or None
        except DecodeError:  # a broken detail must not hide the status
            continue
    return Details(reason=reason, violations=violations, retry_after_s=retry_after_s, request_id=request_id)
