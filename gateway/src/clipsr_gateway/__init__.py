"""The typed gRPC service of clipsr in front of a Triton server."""

from clipsr_gateway._health import HealthSchedule
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest, load_manifest
from clipsr_gateway._server import Gateway, GatewayConfig, serve
from clipsr_gateway.backend import InferenceBackend, PreparedLabels, Scores
from clipsr_gateway.errors import (
    BackendError,
    BackendFaultError,
    BackendUnavailableError,
    ConfigurationError,
    DeadlineExceededError,
    GatewayError,
    ImageRejectedError,
    InvalidRequestError,
    ListenError,
    ManifestError,
    ShuttingDownError,
    StreamExpiredError,
    Violation,
)

__all__ = [
    "BackendError",
    "BackendFaultError",
    "BackendUnavailableError",
    "ConfigurationError",
    "DeadlineExceededError",
    "Gateway",
    "GatewayConfig",
    "GatewayError",
    "HealthSchedule",
    "ImageRejectedError",
    "InferenceBackend",
    "InvalidRequestError",
    "Limits",
    "ListenError",
    "Manifest",
    "ManifestError",
    "PreparedLabels",
    "Scores",
    "ShuttingDownError",
    "StreamExpiredError",
    "Violation",
    "load_manifest",
    "serve",
]
