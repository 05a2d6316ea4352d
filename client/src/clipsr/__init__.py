"""Client of clipsr: zero-shot classification and super-resolution of low-resolution images over gRPC."""

from clipsr._async_client import AsyncClient
from clipsr._client import Client
from clipsr._errors import ClipsrError, DeadlineError, InvalidRequestError, ServiceError, ServiceUnavailableError
from clipsr._types import (
    Artifact,
    Classification,
    FailedImage,
    Fit,
    ImageSource,
    Limits,
    ModelInfo,
    Prediction,
    Route,
    RouteTaken,
    UpscaledImage,
    UpscaleFormat,
)

__all__ = [
    "Artifact",
    "AsyncClient",
    "Classification",
    "Client",
    "ClipsrError",
    "DeadlineError",
    "FailedImage",
    "Fit",
    "ImageSource",
    "InvalidRequestError",
    "Limits",
    "ModelInfo",
    "Prediction",
    "Route",
    "RouteTaken",
    "ServiceError",
    "ServiceUnavailableError",
    "UpscaleFormat",
    "UpscaledImage",
]
