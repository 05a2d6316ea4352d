"""Client of clipsr: zero-shot classification and super-resolution of low-resolution images over gRPC."""

from clipsr._async_client import AsyncClient
from clipsr._client import Client
from clipsr._errors import (
    AuthenticationError,
    ClipsrError,
    DeadlineError,
    InvalidRequestError,
    RateLimitedError,
    ServiceError,
    ServiceUnavailableError,
)
from clipsr._types import (
    Artifact,
    CallerLimits,
    Classification,
    FailedImage,
    Fit,
    ImageEmbedding,
    ImageSource,
    Limits,
    ModelInfo,
    Prediction,
    Route,
    RouteTaken,
    TextEmbedding,
    UpscaledImage,
    UpscaleFormat,
)

__all__ = [
    "Artifact",
    "AsyncClient",
    "AuthenticationError",
    "CallerLimits",
    "Classification",
    "Client",
    "ClipsrError",
    "DeadlineError",
    "FailedImage",
    "Fit",
    "ImageEmbedding",
    "ImageSource",
    "InvalidRequestError",
    "Limits",
    "ModelInfo",
    "Prediction",
    "RateLimitedError",
    "Route",
    "RouteTaken",
    "ServiceError",
    "ServiceUnavailableError",
    "TextEmbedding",
    "UpscaleFormat",
    "UpscaledImage",
]
