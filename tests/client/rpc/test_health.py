"""What the standard health service answers has a name, in this version and later ones."""

from __future__ import annotations

from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from clipsr._rpc.health import status_name


@given(number=st.integers(-(2**31), 2**31 - 1))
def test_every_health_answer_has_a_name(number):
    statuses = health_pb2.HealthCheckResponse.ServingStatus
    expected = statuses.Name(number) if number in statuses.values() else "UNKNOWN"
    assert status_name(health_pb2.HealthCheckResponse(status=number)) == expected
