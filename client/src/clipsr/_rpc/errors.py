"""Turns gRPC's one exception type into the errors of this package."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file
from grpc_status import rpc_status

from clipsr._codecs.status_details import Details, parse_details
from clipsr._errors import (
    AlreadyExistsError,
    AuthenticationError,
    ClipsrError,
    DeadlineError,
    InvalidRequestError,
    ModelMismatchError,
    NotFoundError,
    RateLimitedError,
    ServiceError,
    ServiceUnavailableError,
)

_TLS_FAILURE = re.compile(
    r"handshake failed|CERTIFICATE_VERIFY_FAILED|Hostname Verification Check failed", re.IGNORECASE
)
"""How gRPC words a TLS connection that did not come about; it has no status code of its own."""

_CLOSED = re.compile("Socket closed|Connection reset")

_OTHER_MODEL = "LIBRARY_OF_OTHER_MODEL"
"""The service's reason for a library of another model (docs/errors.md)."""

_status_of = cast(
    "Callable[[Any], status_pb2.Status | None]",
    rpc_status.from_call,  # pyright: ignore[reportUnknownMemberType] - without types
)


def error_from_rpc(error: grpc.RpcError, *, url: str, timeout_s: float) -> ClipsrError:
    """Return the error to raise from `error`, with what its google.rpc details say.

    `error` loses its traceback, which would hold the call for as long as somebody keeps the error: a channel of
    grpc.aio stays connected, closed or not, until its last call is gone (https://github.com/grpc/grpc/issues/42125).

    Args:
        error: what a call raised, sync or async; both carry code(), details() and trailing_metadata().
        url: the address that was called.
        timeout_s: what the call was allowed.
    """
    call = cast("Any", error.with_traceback(None))
    code: grpc.StatusCode = call.code()
    text = str(call.details() or "").strip() or "The service gave no reason."
    details = _details(call)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.retry_after_s is not None:
        return RateLimitedError(
            f"The service at {url} takes no more at the moment: {text} Try again in {details.retry_after_s:g} s.",
            url=url,
            reason=details.reason,
            retry_after_s=details.retry_after_s,
        )
    if code is grpc.StatusCode.UNAVAILABLE and _TLS_FAILURE.search(text):
        return _tls_failed(text, url)
    if code is grpc.StatusCode.CANCELLED:  # not by this client: it never looks at what it has cancelled
        message = f"The service at {url} closed before it took the call. Try again. ({text})"
        return ServiceUnavailableError(message, url=url)
    if code is grpc.StatusCode.UNAVAILABLE or details.retry_after_s is not None:
        return _unavailable(text, details, url)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        message = f"The service at {url} does not let you in: {text} Check the API key or the client certificate."
        return AuthenticationError(message, url=url, code=code.name, reason=details.reason)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(
            f"No answer from {url} within {timeout_s:g} s. Allow more time, or send fewer images or labels at once.",
            timeout_s=timeout_s,
        )
    if (refusal := _refusal(code, text, details)) is not None:
        return refusal
    return _service_error(code, text, details, url)


def end_of_stream(url: str) -> ServiceUnavailableError:
    """Return the error of a stream that the service ended before it had answered all of it."""
    message = f"The service at {url} ended the stream before it had answered all images. Try again."
    return ServiceUnavailableError(message, url=url)


def no_progress(url: str, *, timeout_s: float) -> DeadlineError:
    """Return the error of a stream in which nothing came for too long."""
    message = (
        f"No answer from {url} for {timeout_s:g} s although images are waiting. Allow more time, or look at its load."
    )
    return DeadlineError(message, timeout_s=timeout_s)


def not_ready(url: str, *, state: str, timeout_s: float) -> ServiceUnavailableError:
    """Return the error of a service that answers, but did not become ready in time."""
    message = f"The service at {url} was not ready within {timeout_s:g} s: {state}. Look at its log, or wait longer."
    return ServiceUnavailableError(message, url=url, reason=state)


def _details(call: Any) -> Details:
    try:
        status = _status_of(call)
    except (DecodeError, ValueError):  # ValueError: it contradicts the call, which says enough without it
        return Details()
    return Details() if status is None else parse_details(status)


def _refusal(code: grpc.StatusCode, message: str, details: Details) -> ClipsrError | None:
    """Return the error of a request that the service understood and does not follow; None for other codes."""
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFoundError(message, reason=details.reason)
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return AlreadyExistsError(message, reason=details.reason)
    if code is grpc.StatusCode.FAILED_PRECONDITION and details.reason == _OTHER_MODEL:
        return ModelMismatchError(message, reason=details.reason)
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
        return InvalidRequestError(message, reason=details.reason, violations=details.violations)
    return None


def _tls_failed(text: str, url: str) -> AuthenticationError:
    message = (
        f"No TLS connection to {url} came about: check that the service uses TLS, that its certificate is of a CA that "
        f"you trust and names this host, and that yours has not expired. ({text})"
    )
    return AuthenticationError(message, url=url, code=grpc.StatusCode.UNAVAILABLE.name)


def _unavailable(text: str, details: Details, url: str) -> ServiceUnavailableError:
    if not details.reason and details.retry_after_s is None and _CLOSED.search(text):
        message = (
            f"The connection to {url} was closed at once: the service may be going down, or it asks for TLS or for a "
            f"client certificate, and this client gave none. ({text})"
        )
    elif not details.reason and details.retry_after_s is None:
        message = f"Nobody answers at {url}. Start the service with 'clipsr-serve up', or correct the address. ({text})"
    elif details.retry_after_s is None:
        message = f"The service at {url} cannot do this: {text}"
    else:
        message = f"The service at {url} cannot work at the moment: {text} Try again in {details.retry_after_s:g} s."
    return ServiceUnavailableError(message, url=url, reason=details.reason, retry_after_s=details.retry_after_s)


def _service_error(code: grpc.StatusCode, text: str, details: Details, url: str) -> ServiceError:
    if details.reason and code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED):
        message = f"The service at {url} cannot do this: {text}"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = (
            f"What listens at {url} is no clipsr gateway, or an older one: give the gateway's address, not Triton's, "
            f"or upgrade the service. ({text})"
        )
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        message = (
            f"The request or its answer is larger than {url} allows: send fewer or smaller images, or ask for fewer "
            f"predictions with top_k. ({text})"
        )
    else:
        message = f"The service at {url} failed with {code.name}: {text}"
    return ServiceError(message, code=code.name, reason=details.reason, request_id=details.request_id)
