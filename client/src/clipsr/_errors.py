"""The errors of this package, a class for each decision that a caller can take.

    ClipsrError
    ├── ServiceUnavailableError   start the service or correct the address, or try again later
    ├── DeadlineError             allow more time, or send less
    ├── RateLimitedError          wait as long as it says, or send less at once
    ├── AuthenticationError       correct the API key or the certificates
    ├── InvalidRequestError       change the request
    ├── NotFoundError             correct the name, or create the library
    ├── AlreadyExistsError        use the library that is there, or choose another name
    ├── ModelMismatchError        embed the library with the model that is served
    ├── ClientClosedError         make another client
    └── ServiceError              report it, with the request id

What a single image did wrong is no exception: it is a FailedImage among the results.
"""

from __future__ import annotations

from collections.abc import Sequence


class ClipsrError(Exception):
    """Base of all errors that the client raises about a call; its text says what to do."""


class ServiceUnavailableError(ClipsrError):
    """Nobody answers at the address, or the service says that it cannot work at the moment.

    Attributes:
        url: the address that was called.
        reason: what the service gave, such as "BACKEND_UNAVAILABLE"; empty if it was not reached.
        retry_after_s: how long the service asks to wait, in seconds; None if it does not say.
    """

    def __init__(self, message: str, *, url: str, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.url = url
        self.reason = reason
        self.retry_after_s = retry_after_s


class DeadlineError(ClipsrError):
    """The answer took longer than allowed.

    Attributes:
        timeout_s: what was allowed, in seconds.
    """

    def __init__(self, message: str, *, timeout_s: float) -> None:
        super().__init__(message)
        self.timeout_s = timeout_s


class RateLimitedError(ClipsrError):
    """The service takes no more from this caller, or from anyone, at the moment.

    Attributes:
        url: the address that was called.
        reason: what the service gave, such as "RATE_LIMITED"; empty if it gave none.
        retry_after_s: how long the service asks to wait, in seconds.
    """

    def __init__(self, message: str, *, url: str, retry_after_s: float, reason: str = "") -> None:
        super().__init__(message)
        self.url = url
        self.reason = reason
        self.retry_after_s = retry_after_s


class AuthenticationError(ClipsrError):
    """The service does not let this caller in, or this caller does not trust the service's certificate.

    Attributes:
        url: the address that was called.
        code: name of the gRPC status code: "UNAUTHENTICATED" (who are you?), "PERMISSION_DENIED" (not you), or
            "UNAVAILABLE" where TLS failed before anything could be asked.
        reason: what the service gave; empty if it gave none.
    """

    def __init__(self, message: str, *, url: str, code: str, reason: str = "") -> None:
        super().__init__(message)
        self.url = url
        self.code = code
        self.reason = reason


class InvalidRequestError(ClipsrError, ValueError):
    """The request itself is wrong; sending it again will not help.

    Attributes:
        reason: for programs, such as "LABEL_DUPLICATE"; empty if the service gave none. docs/errors.md lists them.
        violations: (field path, description) of what is wrong, such as ("label_space.labels[1]", "...").
    """

    def __init__(self, message: str, *, reason: str = "", violations: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.violations = tuple(violations)


class NotFoundError(ClipsrError):
    """There is no library, or no image in it, of that name.

    Attributes:
        reason: which of them; empty if the service gave none.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class AlreadyExistsError(ClipsrError):
    """There is a library of that name already.

    Attributes:
        reason: what the service gave; empty if it gave none.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ModelMismatchError(ClipsrError):
    """The library holds embeddings of another model than the one that is served; the text says what cures it.

    Attributes:
        reason: what the service gave.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ClientClosedError(ClipsrError):
    """The client was closed, before the call or while it was under way, or belongs to another event loop."""


class ServiceError(ClipsrError):
    """The service failed in a way that the caller can only report.

    Attributes:
        code: name of the gRPC status code, such as "INTERNAL".
        reason: what the service gave; empty if it gave none.
        request_id: under which the service's log has the cause; None if it did not say.
    """

    def __init__(self, message: str, *, code: str, reason: str = "", request_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.request_id = request_id
