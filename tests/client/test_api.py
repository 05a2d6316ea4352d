"""The two clients offer the same."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

import clipsr

AWAITED = {
    "classify",
    "close",
    "embed_images",
    "embed_texts",
    "health",
    "list_libraries",
    "model_info",
    "restore",
    "upscale",
    "wait_for_ready",
}
ITERATED = {"classify_stream"}
NOT_ASKED = {"library"}  # asks nothing
LIBRARY_AWAITED = {
    "create",
    "delete_images",
    "drop",
    "get_image",
    "info",
    "list_page",
    "search_image",
    "search_text",
    "update_images",
}
LIBRARY_ITERATED = {"add", "list_images", "reembed"}


def public_methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def as_ordinary(annotation: str) -> str:
    """The annotation of Client where AsyncClient's says how it is awaited."""
    iterable = re.sub(r" \| AsyncIterable\[\w+ \| FailedImage\]", "", annotation)
    return iterable.replace("AsyncIterator", "Iterator").replace("AsyncLibrary", "Library")


def without_waiting(signature: inspect.Signature) -> inspect.Signature:
    """The signature that Client's method of this name must have."""
    parameters = [
        parameter.replace(annotation=as_ordinary(parameter.annotation))
        if isinstance(parameter.annotation, str)
        else parameter
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters, return_annotation=as_ordinary(signature.return_annotation))


def test_both_clients_have_the_same_methods_with_the_same_signatures():
    awaited = {name: without_waiting(signature) for name, signature in public_methods(clipsr.AsyncClient).items()}
    assert awaited == public_methods(clipsr.Client)
    assert set(awaited) == AWAITED | ITERATED | NOT_ASKED
    assert inspect.signature(clipsr.AsyncClient) == inspect.signature(clipsr.Client)


def test_both_libraries_have_the_same_methods_with_the_same_signatures():
    awaited = {name: without_waiting(signature) for name, signature in public_methods(clipsr.AsyncLibrary).items()}
    assert awaited == public_methods(clipsr.Library)
    assert set(awaited) == LIBRARY_AWAITED | LIBRARY_ITERATED


@pytest.mark.parametrize("name", sorted(AWAITED))
def test_only_the_asynchronous_ones_are_awaited(name):
    assert inspect.iscoroutinefunction(getattr(clipsr.AsyncClient, name))
    assert not inspect.iscoroutinefunction(getattr(clipsr.Client, name))


@pytest.mark.parametrize("name", sorted(LIBRARY_AWAITED))
def test_only_the_methods_of_the_asynchronous_library_are_awaited(name):
    assert inspect.iscoroutinefunction(getattr(clipsr.AsyncLibrary, name))
    assert not inspect.iscoroutinefunction(getattr(clipsr.Library, name))


def test_both_streams_are_iterated_over():
    assert hasattr(clipsr.Client().classify_stream([], ["cat"]), "__next__")
    assert hasattr(clipsr.AsyncClient().classify_stream([], ["cat"]), "__anext__")


@pytest.mark.parametrize(
    "error",
    [
        clipsr.AlreadyExistsError,
        clipsr.AuthenticationError,
        clipsr.ClientClosedError,
        clipsr.DeadlineError,
        clipsr.InvalidRequestError,
        clipsr.ModelMismatchError,
        clipsr.NotFoundError,
        clipsr.RateLimitedError,
        clipsr.ServiceError,
        clipsr.ServiceUnavailableError,
    ],
)
def test_one_except_clause_catches_all(error):
    assert issubclass(error, clipsr.ClipsrError)


def test_values_cannot_be_changed():
    prediction = clipsr.Prediction(label="cat", cosine=0.3, probability=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction.label = "dog"
