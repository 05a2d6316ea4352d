"""A generic tool that knows nothing but the address can call every RPC: messages are built from reflection alone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

LABELS = {"labels": ["cat", "dog"]}
LIBRARY = "reflection"


@pytest.fixture
def channel(service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.url) as opened:
        yield opened


@pytest.fixture
def services(channel) -> list[ServiceDescriptor]:
    """What the server says it has; none of our own stubs."""
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = descriptor_pool.DescriptorPool(database)
    return [pool.FindServiceByName(name) for name in database.get_services()]


def requests_of(image: str) -> dict[str, list[dict[str, Any]]]:
    """What to send to each call, as JSON."""
    picture, sha256 = {"content": image}, hashlib.sha256(base64.b64decode(image)).hexdigest()
    return {
        "clipsr.v1.ClassifierService.Classify": [{"images": [picture], "options": {"labelSpace": LABELS}}],
        "clipsr.v1.ClassifierService.ClassifyStream": [
            {"options": {"labelSpace": LABELS}},
            {"image": {"index": "7", "image": picture}},
        ],
        "clipsr.v1.ClassifierService.GetModelInfo": [{}],
        "clipsr.v1.EmbeddingService.EmbedImages": [{"images": [picture]}],
        "clipsr.v1.EmbeddingService.EmbedTexts": [{"texts": ["cat", "dog"]}],
        # In this order: each finds what those before it left.
        "clipsr.v1.LibraryService.CreateLibrary": [{"name": LIBRARY}],
        "clipsr.v1.LibraryService.ListLibraries": [{}],
        "clipsr.v1.LibraryService.AddImages": [
            {"options": {"library": LIBRARY}},
            {"image": {"index": "3", "image": picture, "tags": ["cat"], "metadata": {"from": "samples"}}},
        ],
        "clipsr.v1.LibraryService.ListImages": [{"library": LIBRARY, "filter": {"anyTags": ["cat"]}}],
        "clipsr.v1.LibraryService.GetImage": [{"library": LIBRARY, "sha256": sha256, "parts": {"thumbnail": True}}],
        "clipsr.v1.LibraryService.SearchByText": [{"library": LIBRARY, "text": "cat", "options": {"topK": 1}}],
        "clipsr.v1.LibraryService.SearchByImage": [{"library": LIBRARY, "image": picture}],
        "clipsr.v1.LibraryService.ReembedLibrary": [{"library": LIBRARY}],
        "clipsr.v1.LibraryService.UpdateImages": [
            {"library": LIBRARY, "hashes": {"sha256": [sha256]}, "changes": {"addTags": ["seen"]}}
        ],
        "clipsr.v1.LibraryService.DeleteImages": [{"library": LIBRARY, "hashes": {"sha256": [sha256]}}],
        "clipsr.v1.LibraryService.DropLibrary": [{"library": LIBRARY}],
        "clipsr.v1.RestorerService.Restore": [{"image": picture, "remove": ["haze"]}],
        "clipsr.v1.UpscalerService.Upscale": [{"image": picture, "scale": 2}],
        "grpc.health.v1.Health.Check": [{"service": "clipsr.v1.EmbeddingService"}],
        "grpc.health.v1.Health.Watch": [{"service": "clipsr.v1.UpscalerService"}],
        "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo": [{"listServices": ""}],
    }


def call(channel: grpc.Channel, method: MethodDescriptor, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Calls a method; returns the first answer as JSON."""
    request = message_factory.GetMessageClass(method.input_type)
    answer = message_factory.GetMessageClass(method.output_type)
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    stub = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    messages = [json_format.ParseDict(body, request()) for body in bodies]
    answered = stub(iter(messages) if method.client_streaming else messages[0], timeout=60)
    if method.server_streaming:
        first = next(answered)
        answered.cancel()
    else:
        first = answered
    return json.loads(json_format.MessageToJson(first, descriptor_pool=method.containing_service.file.pool))


def test_every_call_can_be_made_from_reflection_alone(channel, services, repo_root):
    image = base64.b64encode(Path(repo_root / "samples" / "cat.png").read_bytes()).decode()
    requests = requests_of(image)
    methods = {method.full_name: method for service in services for method in service.methods}
    assert methods.keys() == requests.keys()
    restore = "clipsr.v1.RestorerService.Restore"
    with pytest.raises(grpc.RpcError) as caught:  # the bundled models hold no restorer
        call(channel, methods[restore], requests.pop(restore))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    answers = {name: call(channel, methods[name], bodies) for name, bodies in requests.items()}
    service = "clipsr.v1.ClassifierService"
    assert answers[f"{service}.Classify"]["results"][0]["classification"]["predictions"][0]["label"] == "cat"
    assert answers[f"{service}.ClassifyStream"]["index"] == "7"
    assert answers[f"{service}.GetModelInfo"]["modelInfo"]["limits"]["maxStreamImages"] > 0
    assert answers["clipsr.v1.EmbeddingService.EmbedImages"]["results"][0]["embedding"]["values"]
    assert len(answers["clipsr.v1.EmbeddingService.EmbedTexts"]["embeddings"]) == 2
    library = "clipsr.v1.LibraryService"
    assert answers[f"{library}.AddImages"]["added"]["hasOriginal"]
    assert answers[f"{library}.ListImages"]["totalCount"] == "1"
    assert answers[f"{library}.GetImage"]["image"]["thumbnail"]
    assert answers[f"{library}.SearchByText"]["hits"][0]["image"]["metadata"] == {"from": "samples"}
    assert answers[f"{library}.SearchByImage"]["hits"][0]["cosine"] == pytest.approx(1, abs=1e-3)
    assert answers[f"{library}.UpdateImages"] == {"matchedCount": "1", "changedCount": "1"}
    assert answers[f"{library}.DeleteImages"] == {"deletedCount": "1"}
    assert answers["clipsr.v1.UpscalerService.Upscale"]["content"]
    assert answers["grpc.health.v1.Health.Check"] == answers["grpc.health.v1.Health.Watch"] == {"status": "SERVING"}


def test_details_of_an_error_can_be_read_from_reflection_too(channel, services):
    """The status of a bad image holds messages of google.rpc, which the server describes as well."""
    (classifier,) = (one for one in services if one.name == "ClassifierService")
    bodies = [{"images": [{"content": ""}], "options": {"labelSpace": LABELS}}]
    answer = call(channel, classifier.methods_by_name["Classify"], bodies)
    details = {detail["@type"]: detail for detail in answer["results"][0]["error"]["details"]}
    assert details["type.googleapis.com/google.rpc.ErrorInfo"]["reason"] == "IMAGE_EMPTY"
    violations = details["type.googleapis.com/google.rpc.BadRequest"]["fieldViolations"]
    assert [violation["field"] for violation in violations] == ["images[0].content"]
