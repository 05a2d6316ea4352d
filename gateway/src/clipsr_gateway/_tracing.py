"""OpenTelemetry traces: from the caller, through the gateway's stages, into Triton's own spans.

OpenTelemetry is an extra; this is the only module that imports it, and only when traces are asked for.
"""

from __future__ import annotations

import contextvars
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any, Protocol, cast

import grpc

from clipsr_gateway.errors import ConfigurationError

_SERVICE_NAME = "clipsr-gateway"

# What the caller sends of a trace. Source: W3C Trace Context, sections 3.2 and 3.3.
_HEADERS = ("traceparent", "tracestate")

# The server's faults; what the caller did wrong is no error of the server. Source: OpenTelemetry's semantic conventions
# for gRPC, span status.
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

# For one batch to reach the collector, also when the gateway stops; a collector that is away holds up no longer.
_EXPORT_TIMEOUT_S = 2

_Metadata = Iterable[tuple[str, Any]]

_outgoing: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar("clipsr_traceparent", default=None)


def outgoing_headers() -> Mapping[str, str] | None:
    """Return what a request sent now must carry for its spans to join the trace; None outside of one."""
    return _outgoing.get()


class CallSpan(Protocol):
    """The span of one call."""

    def ends(self, code: str) -> None:
        """Note the status code, by its name."""
        ...


class Tracing(Protocol):
    """Follows calls."""

    def call(self, method: str, request_id: str, metadata: Any) -> AbstractContextManager[CallSpan]:
        """Return a span for a call, below the caller's if its metadata names one."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Return a span for a part of the call; `inference` goes on in Triton."""
        ...

    def close(self) -> None:
        """Send what is left; may take seconds."""
        ...


class _NoSpan:
    def ends(self, code: str) -> None:
        pass


class _NoTracing:
    def call(self, method: str, request_id: str, metadata: Any) -> AbstractContextManager[CallSpan]:
        return nullcontext(_NO_SPAN)

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        pass


_NO_SPAN = _NoSpan()
NO_TRACING: Tracing = _NoTracing()
"""Follows nothing."""


class OpenTelemetry:
    """Sends spans to an OTLP collector, in the background.

    Args:
        endpoint: URL of the collector's gRPC endpoint, for example `http://127.0.0.1:4317`; https means TLS.

    Raises:
        ConfigurationError: the extra `otel` is not installed, or the URL is none.
    """

    def __init__(self, endpoint: str) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"--otlp-endpoint must be a URL such as http://127.0.0.1:4317; it is {endpoint!r}."
            )
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as cause:
            message = "Traces need OpenTelemetry; run `pip install 'clipsr-gateway[otel]'`, or set no OTLP endpoint."
            raise ConfigurationError(message) from cause
        # Resource.create lets OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say it otherwise.
        resource = Resource.create({"service.name": _SERVICE_NAME, "service.version": version(_SERVICE_NAME)})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=_EXPORT_TIMEOUT_S
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("clipsr_gateway")
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace

    @contextmanager
    def call(self, method: str, request_id: str, metadata: Any) -> Generator[CallSpan]:
        """Return a span for a call; see Tracing."""
        carrier = {key: str(value) for key, value in cast("_Metadata", metadata or ()) if key in _HEADERS}
        with self._tracer.start_as_current_span(
            method,
            context=self._propagator.extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.method": method, "clipsr.request_id": request_id},
        ) as span:
            yield _OpenTelemetrySpan(self._trace, span)

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Return a span for a stage; see Tracing."""
        kind = self._trace.SpanKind.CLIENT if name == "inference" else self._trace.SpanKind.INTERNAL
        # A stage that fails may fail one image of many; what failed the call is in the call's own span.
        with self._tracer.start_as_current_span(name, kind=kind, record_exception=False):
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            token = _outgoing.set(carrier)
            try:
                yield
            finally:
                _outgoing.reset(token)

    def close(self) -> None:
        """Send what is left."""
        self._provider.force_flush(_EXPORT_TIMEOUT_S * 1000)
        self._provider.shutdown()


class _OpenTelemetrySpan:
    def __init__(self, trace: Any, span: Any) -> None:
        self._trace = trace
        self._span = span

    def ends(self, code: str) -> None:
        self._span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
        if code in _FAULTS:
            self._span.set_status(self._trace.StatusCode.ERROR, code)
