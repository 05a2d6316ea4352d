"""Everything that can go wrong in the gateway, one class per decision that can be taken.

GatewayError
├── ConfigurationError            do not start: the operator must change a flag or a file (exit code 2)
│   └── ManifestError             … the manifest.json of the model repository
├── ListenError                   do not start: the address cannot be bound (exit code 1)
├── InvalidRequestError           answer INVALID_ARGUMENT, list the fields
├── DeadlineExceededError         answer DEADLINE_EXCEEDED
├── ShuttingDownError             answer UNAVAILABLE, the caller may retry elsewhere
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
    "ConfigurationError",
    "DeadlineExceededError",
    "GatewayError",
    "ImageRejectedError",
    "InvalidRequestError",
    "ListenError",
    "ManifestError",
    "ShuttingDownError",
    "Violation",
]


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One thing wrong with one field of a request.

    Attributes:
        field: path of the field as protobuf writes it, for example `label_space.labels[3]`.
        reason: machine-readable, UPPER_SNAKE_CASE; the `reason` of google.rpc.ErrorInfo.
        sentence: what is wrong and what to do, for a human.
    """

    field: str
    reason: str
    sentence: str


class GatewayError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(GatewayError):
    """The gateway cannot start as configured."""


class ManifestError(ConfigurationError):
    """The manifest is absent, unreadable or does not follow the schema.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(f"{path}: {sentence}")
        self.path = path


class ListenError(GatewayError):
    """The address to listen on cannot be bound.

    Attributes:
        address: HOST:PORT as given.
    """

    def __init__(self, address: str) -> None:
        super().__init__(f"Cannot listen on {address}: the port is taken or the address is not of this machine. "
                         "Stop what uses it or choose another with --listen HOST:PORT.")  # fmt: skip
        self.address = address


class InvalidRequestError(GatewayError):
    """The whole request is refused; nothing of it was computed.

    Attributes:
        violations: at least one.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(violations[0].sentence)
        self.violations = tuple(violations)


class DeadlineExceededError(GatewayError):
    """The caller's deadline passed before all images were answered."""


class ShuttingDownError(GatewayError):
    """The gateway drains and takes no new calls."""


class BackendError(GatewayError):
    """Base of what the inference backend can do wrong."""


class BackendUnavailableError(BackendError):
    """The backend does not answer, or has not loaded its models; retrying later can help.

    Attributes:
        target: HOST:PORT of the backend.
    """

    def __init__(self, target: str, sentence: str) -> None:
        super().__init__(sentence)
        self.target = target


class ImageRejectedError(BackendError):
    """The models refused this image, for a reason that the caller can act on.

    Attributes:
        reason: one of the IMAGE_… reasons.
        sentence: what is wrong and what to do.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


class BackendFaultError(BackendError):
    """The backend failed in a way that the caller cannot cure. The message is for the log, never for the caller."""
