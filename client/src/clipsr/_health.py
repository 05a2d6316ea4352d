"""The standard health service, grpc.health.v1, without a package of its own.

Its request is one string in field 1 and its answer one enum in field 1, which on the wire are what the well-known
wrappers StringValue and Int32Value are. Generated stubs would collide with those of grpcio-health-checking, which the
gateway has in the same process: a protobuf pool takes a name only once.

Source: the gRPC Health Checking Protocol.
"""

from __future__ import annotations

from google.protobuf import wrappers_pb2

__all__ = ["CHECK", "SERVICE_UNKNOWN", "decode_status", "encode_service"]

CHECK = "/grpc.health.v1.Health/Check"

SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
"""What Watch answers about a service that the server does not have; Check fails with NOT_FOUND instead."""

_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", SERVICE_UNKNOWN)  # HealthCheckResponse.ServingStatus, from 0


def encode_service(service: str) -> bytes:
    """Returns a HealthCheckRequest; "" asks for the server as a whole."""
    return wrappers_pb2.StringValue(value=service).SerializeToString()


def decode_status(response: bytes) -> str:
    """Returns the name of a HealthCheckResponse's status; numbers without a name are UNKNOWN."""
    number = wrappers_pb2.Int32Value.FromString(response).value
    return _STATUSES[number] if 0 <= number < len(_STATUSES) else "UNKNOWN"
