"""Bytes that nobody would send on purpose: damaged images, and requests of every shape that the proto allows."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.load.images import make_image
from benchmarks.load.plan import Target
from benchmarks.reliability._load import make_request, metadata
from benchmarks.reliability._verdict import Verdict
from clipsr.v1 import classifier_pb2, embedding_pb2, upscaler_pb2

__all__ = ["fuzz_images", "fuzz_requests", "messages", "mutate", "mutated_images"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_IMAGES_A_CALL = 16
_TIMEOUT_S = 60.0
_LABELS = ["a cat", "a dog"]

# Codes that say "try again", which is no answer; the callers here do.
_AGAIN = ("RESOURCE_EXHAUSTED",)


def mutate(content: bytes, generator: random.Random) -> bytes:
    """Damages a file in one of the ways in which files get damaged."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        place = generator.randrange(len(data) or 1)
        match generator.randrange(7):
            case 0:  # flipped bits
                for _ in range(generator.choice((1, 4, 64))):
                    if data:
                        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            case 1:  # cut short
                del data[place:]
            case 2:  # a hole
                del data[place : place + generator.randrange(1, 64)]
            case 3:  # something in between
                data[place:place] = generator.randbytes(generator.randrange(1, 64))
            case 4:  # numbers at their edges, where headers have sizes
                edge = generator.choice(
                    (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\x00\x01\x86\xa0")
                )
                data[place : place + 4] = edge
            case 5:  # a part twice
                data[place:place] = data[place : place + generator.randrange(1, 256)]
            case _:  # the beginning of another format
                data[: generator.randrange(1, 16)] = generator.randbytes(8)
    return bytes(data)


def mutated_images(count: int, *, start: int = 0) -> Iterator[bytes]:
    """Damaged images of all formats, and random bytes; the same for the same numbers."""
    good = [make_image(side, seed=side, file_format=kind) for kind in FORMATS for side in (1, 24, 70)]
    for number in range(start, start + count):
        generator = random.Random(number)
        if number % 10 == 9:
            yield generator.randbytes(generator.choice((0, 1, 16, 1000, 20_000)))
        else:
            yield mutate(good[number % len(good)], generator)


def fuzz_images(target: Target, *, count: int, documented: dict[str, str]) -> list[Verdict]:
    """Send damaged images; each must be classified or refused with a documented reason."""
    outcomes: Counter[str] = Counter()
    with grpc.insecure_channel(target.url, [("grpc.max_send_message_length", -1)]) as channel:
        classify = channel.unary_unary(
            "/clipsr.v1.ClassifierService/Classify",
            request_serializer=classifier_pb2.ClassifyRequest.SerializeToString,
            response_deserializer=classifier_pb2.ClassifyResponse.FromString,
        )
        probe = make_request([make_image(32)], _LABELS)
        before = _ask(classify, probe, target)
        images = list(mutated_images(count))
        for start in range(0, count, _IMAGES_A_CALL):
            answer = _ask(classify, make_request(images[start : start + _IMAGES_A_CALL], _LABELS), target)
            if isinstance(answer, str):
                outcomes[answer] += len(images[start : start + _IMAGES_A_CALL])
                continue
            for result in answer.results:
                outcomes[_reason(result.error) if result.HasField("error") else "classified"] += 1
        after = _ask(classify, probe, target)
    bad = {what: times for what, times in outcomes.items() if not _is_documented(what, documented)}
    return [
        Verdict(
            claim=f"{count:,} damaged images: every answer a result or a documented status, none INTERNAL",
            measured=f"{dict(outcomes.most_common())}; undocumented: {bad or 'none'}",
            holds=not bad and sum(outcomes.values()) == count,
        ),
        _same(before, after),
    ]


def _is_documented(what: str, documented: dict[str, str]) -> bool:
    return what == "classified" or (what in documented and documented[what] != "INTERNAL")


def _same(before: Any, after: Any) -> Verdict:
    def best(answer: Any) -> object:
        if isinstance(answer, str):
            return answer
        return [(one.label, round(one.cosine, 3)) for one in answer.results[0].classification.predictions]

    return Verdict(
        claim="afterwards the service answers as before",
        measured=f"{best(before)}, then {best(after)}",
        holds=not isinstance(before, str) and best(before) == best(after),
    )


def _ask(method: Any, request: Any, target: Target) -> Any:
    """Return the response, or the reason of the error (its code where it has none)."""
    while True:
        try:
            return method(request, timeout=_TIMEOUT_S, metadata=metadata(target, "fuzz"))
        except grpc.RpcError as error:
            call: Any = error
            blob = dict(call.trailing_metadata() or ()).get("grpc-status-details-bin")
            reason = _reason(status_pb2.Status.FromString(blob)) if isinstance(blob, bytes) else call.code().name
            if call.code().name not in _AGAIN or not isinstance(blob, bytes):
                return reason
            time.sleep(0.2)


def _reason(status: Any) -> str:
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), f"code {status.code}")


def messages(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Any message of a type: each field absent, or any value its type allows, sensible ones more often."""
    fields = {field.name: _values(field) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: _build(descriptor, chosen))


def _build(descriptor: Descriptor, chosen: dict[str, Any]) -> Any:
    message = GetMessageClass(descriptor)()
    for name, value in chosen.items():
        field = descriptor.fields_by_name[name]
        if field.is_repeated:
            getattr(message, name).extend(value)
        elif field.message_type is not None:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


_CONTENT = [make_image(side, seed=side, file_format=kind) for kind in FORMATS for side in (8, 40)]


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    one = _scalars(field)
    return st.lists(one, max_size=5) if field.is_repeated else one


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type)
    if field.enum_type is not None:
        return st.integers(-1, 5)
    text = st.one_of(st.sampled_from(["a cat", "a photo of a {}.", "@simple", "cifar10"]), st.text(max_size=40))
    return {
        FieldDescriptor.TYPE_BYTES: st.one_of(st.sampled_from(_CONTENT), st.binary(max_size=200)),
        FieldDescriptor.TYPE_STRING: text,
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_UINT32: st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1)),
        FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
        FieldDescriptor.TYPE_FLOAT: st.one_of(st.floats(0, 4, width=32), st.floats(width=32)),
        FieldDescriptor.TYPE_DOUBLE: st.floats(),
    }[field.type]


def fuzz_requests(target: Target, *, count: int, documented: dict[str, str]) -> list[Verdict]:
    """Send requests of every shape to every method, and bytes that are no request."""
    outcomes: Counter[str] = Counter()
    with grpc.insecure_channel(target.url, [("grpc.max_receive_message_length", -1)]) as channel:
        methods = [_method(channel, service, method) for service, method in _methods()]
        probe, classify = make_request([make_image(32)], _LABELS), _method(channel, *_methods()[0])[0]
        before = _ask(classify, probe.SerializeToString(), target)

        @seed(0)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        )
        @given(st.one_of(*(_calls(send, descriptor) for send, descriptor in methods)))
        def attempt(case: tuple[Callable[..., Any], bytes]) -> None:
            send, raw = case
            answer = _ask(send, raw, target)
            outcomes[answer if isinstance(answer, str) else "answered"] += 1

        attempt()
        after = _ask(classify, probe.SerializeToString(), target)
    bad = {
        what: times for what, times in outcomes.items() if what != "answered" and not _is_documented(what, documented)
    }
    total = sum(outcomes.values())
    return [
        Verdict(
            claim=f"{total:,} fuzzed requests: every answer a response or a documented status, none INTERNAL",
            measured=f"{dict(outcomes.most_common())}; undocumented: {bad or 'none'}",
            holds=not bad and total >= min(count, 100),
        ),
        _same(_parsed(before), _parsed(after)),
    ]


def _parsed(answer: Any) -> Any:
    return answer if isinstance(answer, str) else classifier_pb2.ClassifyResponse.FromString(answer)


def _methods() -> list[tuple[Any, Any]]:
    files = (classifier_pb2, embedding_pb2, upscaler_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    return [(service, method) for service in services for method in service.methods]


def _method(channel: grpc.Channel, service: Any, method: Any) -> tuple[Callable[..., Any], Descriptor]:
    path = f"/{service.full_name}/{method.name}"
    if method.client_streaming:
        stream = channel.stream_stream(path)
        return lambda raw, **options: list(stream(iter([raw, raw]), **options)), method.input_type
    return channel.unary_unary(path), method.input_type


def _calls(send: Callable[..., Any], descriptor: Descriptor) -> st.SearchStrategy[tuple[Callable[..., Any], bytes]]:
    raw = st.one_of(messages(descriptor).map(lambda message: message.SerializeToString()), st.binary(max_size=300))
    return raw.map(lambda content: (send, content))
