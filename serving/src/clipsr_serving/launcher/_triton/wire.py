"""The few protobuf messages of KServe v2 that the launcher sends, by hand.

Serving has no generated stubs: they come with tritonclient, which one module of the gateway imports.

Source: protobuf.dev, "Encoding"; KServe, open_inference_grpc.proto, ModelInferRequest and ModelInferResponse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

_LENGTH_DELIMITED = 2
_FIXED_BYTES = {1: 8, 5: 4}


def encode_infer_request(model: str, inputs: Mapping[str, Sequence[bytes]]) -> bytes:
    """Return a ModelInferRequest of one row: each input is BYTES [1, n]."""
    request = _field(1, model.encode())
    for name, strings in inputs.items():
        shape = _varint(1) + _varint(len(strings))
        request += _field(5, _field(1, name.encode()) + _field(2, b"BYTES") + _field(3, shape))
    for strings in inputs.values():
        request += _field(7, b"".join(struct.pack("<I", len(string)) + string for string in strings))
    return request


def decode_infer_response(response: bytes) -> dict[str, bytes]:
    """Return the raw contents of a ModelInferResponse's outputs by name.

    Raises:
        ValueError: it is no such message.
    """
    fields = list(_parse(response))
    names = [
        content.decode() for number, output in fields if number == 5 for inner, content in _parse(output) if inner == 1
    ]
    return dict(zip(names, [content for number, content in fields if number == 6], strict=True))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _parse(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the length-delimited fields; others are skipped."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            _, position = _read_varint(message, position)
        elif kind == _LENGTH_DELIMITED:
            length, position = _read_varint(message, position)
            yield tag >> 3, message[position : position + length]
            position += length
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        else:
            raise ValueError(f"wire type {kind} is not used")
    if position > len(message):
        raise ValueError("the message ends early")


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("the message ends early")
