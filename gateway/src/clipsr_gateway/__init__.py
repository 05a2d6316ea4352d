"""The typed gRPC service of clipsr in front of a Triton server."""

from clipsr_gateway._admission import AdmissionConfig
from clipsr_gateway._health import HealthSchedule
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest, load_manifest
from clipsr_gateway._operations import OperationsConfig
from clipsr_gateway._server import Gateway, GatewayConfig, serve
from clipsr_gateway._tls import TlsConfig
from clipsr_gateway.backend import InferenceBackend, PreparedLabels, Scores
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
    LimitedError,
    ListenError,
    ManifestError,
    OverloadedError,
    RateExceededError,
    ShuttingDownError,
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
    "Gateway",
    "GatewayConfig",
    "GatewayError",
    "HealthSchedule",
    "ImageRejectedError",
    "InferenceBackend",
    "InvalidRequestError",
    "KeyFileError",
    "LimitedError",
    "Limits",
    "ListenError",
    "Manifest",
    "ManifestError",
    "OperationsConfig",
    "OverloadedError",
    "PreparedLabels",
    "RateExceededError",
    "Scores",
    "ShuttingDownError",
    "StreamExpiredError",
    "TlsConfig",
    "TooManyCallsError",
    "UnauthenticatedError",
    "Violation",
    "load_manifest",
    "serve",
]
