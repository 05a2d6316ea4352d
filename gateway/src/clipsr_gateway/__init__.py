"""The typed gRPC service of clipsr in front of a Triton server."""

from __future__ import annotations

from clipsr_gateway._access.tls import TlsConfig
from clipsr_gateway._admission.controller import AdmissionConfig
from clipsr_gateway._backend.protocol import EncodedLabels, InferenceBackend, Similarities
from clipsr_gateway._limits import LibraryLimits, Limits
from clipsr_gateway._manifest import Manifest, load_manifest
from clipsr_gateway._server.gateway import Gateway, GatewayConfig, serve
from clipsr_gateway._server.health import HealthSchedule
from clipsr_gateway._server.operations import OperationsConfig
from clipsr_gateway._tracing import TracingConfig
from clipsr_gateway.errors import (
    BackendError,
    BackendFaultError,
    BackendUnavailableError,
    CertificateError,
    ConfigurationError,
    DeadlineExceededError,
    GatewayError,
    ImageRejectedError,
    InvalidRequestError,
    KeyFileError,
    LibrariesDisabledError,
    LibraryError,
    LibraryExistsError,
    LibraryStateError,
    LimitedError,
    ListenError,
    ManifestError,
    NotInLibraryError,
    OverloadedError,
    RateExceededError,
    RestorerMissingError,
    ShuttingDownError,
    SlowMessageError,
    StorageFullError,
    StorageUnavailableError,
    StreamExpiredError,
    TooManyCallsError,
    UnauthenticatedError,
    Violation,
)

__all__ = [
    "AdmissionConfig",
    "BackendError",
    "BackendFaultError",
    "BackendUnavailableError",
    "CertificateError",
    "ConfigurationError",
    "DeadlineExceededError",
    "EncodedLabels",
    "Gateway",
    "GatewayConfig",
    "GatewayError",
    "HealthSchedule",
    "ImageRejectedError",
    "InferenceBackend",
    "InvalidRequestError",
    "KeyFileError",
    "LibrariesDisabledError",
    "LibraryError",
    "LibraryExistsError",
    "LibraryLimits",
    "LibraryStateError",
    "LimitedError",
    "Limits",
    "ListenError",
    "Manifest",
    "ManifestError",
    "NotInLibraryError",
    "OperationsConfig",
    "OverloadedError",
    "RateExceededError",
    "RestorerMissingError",
    "ShuttingDownError",
    "Similarities",
    "SlowMessageError",
    "StorageFullError",
    "StorageUnavailableError",
    "StreamExpiredError",
    "TlsConfig",
    "TooManyCallsError",
    "TracingConfig",
    "UnauthenticatedError",
    "Violation",
    "load_manifest",
    "serve",
]
