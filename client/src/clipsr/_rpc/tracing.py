"""Passes an application's OpenTelemetry trace on, without depending on OpenTelemetry."""

from __future__ import annotations

import sys

# What the service reads. Source: W3C Trace Context, sections 3.2 and 3.3.
_HEADERS = ("traceparent", "tracestate")


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata that makes a call a part of the application's current span; empty where there is none.

    An application that has spans has imported OpenTelemetry, so where it was not imported there is nothing to pass on,
    and importing it here would only take time.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple((name, carrier[name]) for name in _HEADERS if name in carrier)
