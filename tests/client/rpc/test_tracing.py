"""An application's trace goes with its calls, and OpenTelemetry is no dependency."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from opentelemetry.sdk.trace import TracerProvider

from clipsr import AsyncClient, Client

TRACER = TracerProvider().get_tracer("application")


def test_calls_join_the_span_that_they_are_made_in(fake_service):
    with Client(fake_service.url) as client:
        with TRACER.start_as_current_span("page") as span:
            client.classify([b"photo"], ["cat"])
        client.classify([b"photo"], ["cat"])
    context = span.get_span_context()
    inside, outside = (sent.get("traceparent") for sent in fake_service.metadata)
    assert inside.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    assert outside is None


def test_the_asynchronous_client_too(fake_service):
    async def ask() -> None:
        async with AsyncClient(fake_service.url) as client:
            with TRACER.start_as_current_span("page"):
                await client.classify([b"photo"], ["cat"])

    asyncio.run(ask())
    (sent,) = fake_service.metadata
    assert sent["traceparent"].startswith("00-")


def test_opentelemetry_is_not_imported_for_its_own_sake():
    program = (
        "import sys\n"
        "from clipsr._rpc.tracing import trace_metadata\n"
        "assert trace_metadata() == ()\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
