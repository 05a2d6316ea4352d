"""The public names, and that the two clients offer the same."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import clipsr

PUBLIC = [
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
METHODS = {"classify", "close", "health", "model_info", "upscale"}


def public_methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_the_public_names():
    assert clipsr.__all__ == PUBLIC
    assert all(hasattr(clipsr, name) for name in PUBLIC)


def test_both_clients_have_the_same_methods_with_the_same_signatures():
    assert public_methods(clipsr.AsyncClient) == public_methods(clipsr.Client)
    assert set(public_methods(clipsr.Client)) == METHODS
    assert inspect.signature(clipsr.AsyncClient) == inspect.signature(clipsr.Client)


@pytest.mark.parametrize("name", METHODS)
def test_only_the_asynchronous_ones_are_awaited(name):
    assert inspect.iscoroutinefunction(getattr(clipsr.AsyncClient, name))
    assert not inspect.iscoroutinefunction(getattr(clipsr.Client, name))


@pytest.mark.parametrize(
    "error", [clipsr.DeadlineError, clipsr.InvalidRequestError, clipsr.ServiceError, clipsr.ServiceUnavailableError]
)
def test_one_except_clause_catches_all(error):
    assert issubclass(error, clipsr.ClipsrError)


def test_values_cannot_be_changed():
    prediction = clipsr.Prediction(label="cat", cosine=0.3, probability=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction.label = "dog"
