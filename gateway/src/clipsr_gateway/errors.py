"""Everything that can go wrong in the gateway, one class per decision that can be taken.

GatewayError
├── ConfigurationError            do not start: the operator must change a flag or a file (exit code 2)
│   ├── ManifestError             … the manifest.json of the model repository
│   ├── KeyFileError              … the file of API keys
│   └── CertificateError          … a certificate, its key or the callers' authority
├── ListenError                   do not start: the address cannot be bound (exit code 1)
├── InvalidRequestError           answer INVALID_ARGUMENT, list the fields
├── EncoderMissingError           answer FAILED_PRECONDITION: another model must be exported
├── NoneBankMissingError          answer FAILED_PRECONDITION: the model must be exported with a calibration
├── UnauthenticatedError          answer UNAUTHENTICATED
├── LimitedError                  answer RESOURCE_EXHAUSTED with RetryInfo
│   ├── RateExceededError         … this key has sent too many items
│   ├── TooManyCallsError         … this key has too many calls in progress
│   ├── SlowMessageError          … the message did not arrive while others waited
│   └── OverloadedError           … the whole gateway has too much to do
├── DeadlineExceededError         answer DEADLINE_EXCEEDED
├── ShuttingDownError             answer UNAVAILABLE, the caller may retry elsewhere
├── StreamExpiredError            answer UNAVAILABLE, the caller may go on with a new stream
├── RestorerMissingError          answer FAILED_PRECONDITION: the operator must export a restorer
├── LibraryError                  answer with the class's own code and reason
│   ├── LibrariesDisabledError    … UNIMPLEMENTED: this server keeps no libraries
│   ├── NotInLibraryError         … NOT_FOUND: no such library, or no such image in it
│   ├── LibraryExistsError        … ALREADY_EXISTS
│   ├── LibraryStateError         … FAILED_PRECONDITION: the library must be changed first
│   ├── StorageFullError          … RESOURCE_EXHAUSTED: somebody must make room
│   └── StorageUnavailableError   … UNAVAILABLE, the caller may retry unless it is lasting
└── BackendError
    ├── BackendUnavailableError   answer UNAVAILABLE, the caller may retry
    ├── ImageRejectedError        fail one image with INVALID_ARGUMENT
    └── BackendFaultError         fail one image with INTERNAL, log the cause
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BackendError",
    "BackendFaultError",
    "BackendUnavailableError",
    "CertificateError",
    "ConfigurationError",
    "DeadlineExceededError",
    "EncoderMissingError",
    "GatewayError",
    "ImageRejectedError",
    "InvalidRequestError",
    "KeyFileError",
    "LibrariesDisabledError",
    "LibraryError",
    "LibraryExistsError",
    "LibraryStateError",
    "LimitedError",
    "ListenError",
    "ManifestError",
    "NoneBankMissingError",
    "NotInLibraryError",
    "OverloadedError",
    "RateExceededError",
    "RestorerMissingError",
    "ShuttingDownError",
    "SlowMessageError",
    "StorageFullError",
    "StorageUnavailableError",
    "StreamExpiredError",
    "TooManyCallsError",
    "UnauthenticatedError",
    "Violation",
]


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One thing wrong with one field of a request.

    Attributes:
        field: path of the field as protobuf writes it, for example `label_space.labels[3]`.
        reason: machine-readable, UPPER_SNAKE_CASE; the `reason` of google.rpc.ErrorInfo.
        message: what is wrong and what to do, for a human.
    """

    field: str
    reason: str
    message: str


class GatewayError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(GatewayError):
    """The gateway cannot start as configured."""


class ManifestError(ConfigurationError):
    """The manifest is absent, unreadable or does not follow the schema.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class KeyFileError(ConfigurationError):
    """The file of API keys is absent or does not follow its format; the sentence repeats nothing of its content.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class CertificateError(ConfigurationError):
    """A certificate, its private key or the authority of the callers cannot be used.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class ListenError(GatewayError):
    """The address to listen on cannot be bound.

    Attributes:
        address: HOST:PORT as given.
    """

    def __init__(self, address: str, *, option: str = "--listen") -> None:
        super().__init__(f"Cannot listen on {address}: the port is taken or the address is not of this machine. "
                         f"Stop what uses it or choose another with {option} HOST:PORT.")  # fmt: skip
        self.address = address


class InvalidRequestError(GatewayError):
    """The whole request is refused; nothing of it was computed.

    Attributes:
        violations: at least one.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(violations[0].message)
        self.violations = tuple(violations)


class EncoderMissingError(GatewayError):
    """The served model has no robust encoder, or nothing that chooses between the two.

    Args:
        has_robust: whether the robust encoder is there, at least.
    """

    def __init__(self, *, has_robust: bool = False) -> None:
        lacks = (
            "nothing that tells when its encoder for damaged images is needed"
            if has_robust
            else ("no encoder for damaged images")
        )
        otherwise = "ask for robust" if has_robust else "leave encoder out"
        super().__init__(
            f"This service has {lacks}. Train a controller for its model (clipsr-train controller) and export both "
            f"(clipsr-export --controller FOLDER), or {otherwise}."
        )


class NoneBankMissingError(GatewayError):
    """The served model has no rule of its own for "none of these"."""

    def __init__(self) -> None:
        super().__init__(
            "This model has no calibrated rule for none of these. Export it with one (clipsr-export --none-of-these), "
            "or set min_cosine or min_probability instead of calibrated."
        )


class UnauthenticatedError(GatewayError):
    """The call carries no valid API key; nothing of it was read.

    Attributes:
        reason: API_KEY_MISSING or API_KEY_INVALID.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LimitedError(GatewayError):
    """Base of what is refused now and may be accepted later.

    Attributes:
        reason: the `reason` of google.rpc.ErrorInfo.
        retry_s: how long to wait, in seconds.
    """

    reason = "RATE_EXCEEDED"

    def __init__(self, message: str, *, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class RateExceededError(LimitedError):
    """The caller's key sends more items than it may."""

    reason = "RATE_EXCEEDED"


class TooManyCallsError(LimitedError):
    """The caller's key has as many calls in progress as it may."""

    reason = "TOO_MANY_CALLS"


class SlowMessageError(LimitedError):
    """The message of the call did not arrive in the time that others can wait for its place."""

    reason = "MESSAGE_SLOW"


class OverloadedError(LimitedError):
    """The gateway could answer this call only too late, or hold it in too much memory."""

    reason = "OVERLOADED"


class DeadlineExceededError(GatewayError):
    """The caller's deadline passed before all images were answered."""


class ShuttingDownError(GatewayError):
    """The gateway drains and takes no new calls."""


class StreamExpiredError(GatewayError):
    """A stream has been read from for as long as the server allows; all that was read is answered."""


class RestorerMissingError(GatewayError):
    """The model repository holds no restorer."""

    def __init__(self) -> None:
        super().__init__(
            "This service restores no images, as no restorer was exported; export one by `clipsr-export --restorer "
            "FILE` (weights of `clipsr-train restorer --contexts kinds`), and restart the service."
        )


class LibraryError(GatewayError):
    """Base of what an image library cannot do.

    Attributes:
        reason: the `reason` of google.rpc.ErrorInfo.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LibrariesDisabledError(LibraryError):
    """The gateway was started without a place for libraries."""

    def __init__(self) -> None:
        super().__init__(
            "LIBRARIES_DISABLED",
            "This server keeps no image libraries; start it with --library-uri FOLDER to have some.",
        )


class NotInLibraryError(LibraryError):
    """There is no library, or no image, of that name."""


class LibraryExistsError(LibraryError):
    """There is a library of that name."""

    def __init__(self, name: str) -> None:
        super().__init__("LIBRARY_EXISTS", f'There is a library "{name}" already; choose another name, or use it.')


class LibraryStateError(LibraryError):
    """The library, as it is, does not allow this; the sentence says how to change it."""


class StorageFullError(LibraryError):
    """Nothing more can be written."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "LIBRARY_STORAGE_FULL",
            f'The storage of library "{name}" is full; what was acknowledged is kept and can be read. Make room where '
            "--library-uri points, then add the rest again.",
        )


class StorageUnavailableError(LibraryError):
    """The storage does not answer, or other writers were faster too often.

    Args:
        name: the library's, or the place of all of them.
        cause: as the end of a sentence; empty where it is not known.
        is_lasting: whether it stays so until somebody mends it; else retrying can help.
    """

    def __init__(self, name: str, cause: str = "", *, is_lasting: bool = False) -> None:
        self.is_lasting = is_lasting
        super().__init__(
            "LIBRARY_STORAGE_UNAVAILABLE",
            f'The storage of library "{name}" could not be read or written: {cause}.'
            if cause
            else f'The storage of library "{name}" could not be read or written; try again. The log of the gateway has '
            "the cause.",
        )


class BackendError(GatewayError):
    """Base of what the inference backend can do wrong."""


class BackendUnavailableError(BackendError):
    """The backend does not answer, or has not loaded its models; retrying later can help.

    Attributes:
        target: HOST:PORT of the backend.
    """

    def __init__(self, target: str, message: str) -> None:
        super().__init__(message)
        self.target = target


class ImageRejectedError(BackendError):
    """The models refused this image, for a reason that the caller can act on.

    Attributes:
        reason: one of the IMAGE_… reasons.
        message: what is wrong and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class BackendFaultError(BackendError):
    """The backend failed in a way that the caller cannot cure. The message is for the log, never for the caller."""
