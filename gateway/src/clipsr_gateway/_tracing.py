"""OpenTelemetry traces: from the caller, through the gateway's stages, into Triton's own spans.

OpenTelemetry is an extra; this is the only module that imports it, and only when traces are asked for.
"""

from __future__ import annotations

import contextvars
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol, cast

import grpc

from clipsr_gateway.errors import ConfigurationError

_SERVICE_NAME = "clipsr-gateway"

# The server's faults; what the caller did wrong is no error of the server. Source: OpenTelemetry's semantic conventions
# for gRPC, span status.
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

# For one batch to reach the collector, also when the gateway stops; a collector that is away holds up no longer.
_EXPORT_TIMEOUT_S = 2

# OpenTelemetry's own default. Source: OpenTelemetry Protocol Exporter specification, configuration options.
_DEFAULT_ENDPOINT = "http://localhost:4317"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
# This gateway has a Prometheus page and logs to standard error, and is configured by variables.
_UNSUPPORTED = ("OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE")

_Metadata = Iterable[tuple[str, Any]]

_outgoing: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar("clipsr_traceparent", default=None)


def outgoing_headers() -> Mapping[str, str] | None:
    """Return what a request sent now must carry for its spans to join the trace; None outside of one."""
    return _outgoing.get()


@dataclass(frozen=True, kw_only=True)
class TracingConfig:
    """Where spans go. All else is read from the environment by OpenTelemetry itself.

    Attributes:
        endpoint: of an OTLP collector, over gRPC; None sends none.
        is_optional: whether traces that cannot be sent are a warning and no error: the environment asked for them, and
            may speak to all programs of a machine.
        has_own_timeout: whether the environment says how long an export may take.
        objections: what the environment asks for and this gateway does not do, as sentences.
    """

    endpoint: str | None = None
    is_optional: bool = False
    has_own_timeout: bool = False
    objections: tuple[str, ...] = ()


def read_tracing_config(option: str | None, environment: Mapping[str, str]) -> TracingConfig:
    """Return what `--otlp-endpoint` and OpenTelemetry's standard variables ask for; the option wins.

    Raises:
        ConfigurationError: the option is no URL.

    Source: OpenTelemetry specification, environment variables; empty values are as none.
    """
    values = {name: value.strip() for name, value in environment.items() if name.startswith("OTEL_") and value.strip()}
    objections = [
        f"{name}={values[name]} is not supported: only traces are exported, as environment variables say."
        for name in _UNSUPPORTED
        if values.get(name, "none") != "none"
    ]
    endpoint = option
    if option is not None and not option.startswith(("http://", "https://")):
        raise ConfigurationError(f"--otlp-endpoint must be a URL such as http://127.0.0.1:4317; it is {option!r}.")
    if option is None:
        endpoint, objection = _find_endpoint(values)
        objections += [objection] if objection else []
    if values.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return TracingConfig()
    return TracingConfig(
        endpoint=endpoint,
        is_optional=option is None,
        has_own_timeout=any(name in values for name in _TIMEOUTS),
        objections=tuple(objections),
    )


def _find_endpoint(values: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the endpoint that the environment names, and why there are no traces where it asks for others."""
    exporter = values.get(_EXPORTER, "")
    default = _DEFAULT_ENDPOINT if exporter == "otlp" else None
    endpoint = next((values[name] for name in _ENDPOINTS if name in values), default)
    protocol = next((values[name] for name in _PROTOCOLS if name in values), "grpc")
    if exporter == "none":
        return None, None
    if exporter not in ("", "otlp"):
        return None, f"{_EXPORTER}={exporter} is not supported; set it to otlp or none."
    if endpoint is not None and protocol != "grpc":
        how = "name the collector's gRPC port (often 4317) and set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc"
        return None, f"Traces go out by OTLP over gRPC, and {protocol} is asked for; {how}."
    return endpoint, None


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
        endpoint: the collector's gRPC endpoint, for example `http://127.0.0.1:4317`; https means TLS.
        has_own_timeout: whether OpenTelemetry reads from the environment how long an export may take.

    Raises:
        ConfigurationError: the extra `otel` is not installed, or OpenTelemetry refuses one of its variables.
    """

    def __init__(self, endpoint: str, *, has_own_timeout: bool = False) -> None:
        try:
            self._set_up(endpoint, None if has_own_timeout else _EXPORT_TIMEOUT_S)
        except ImportError as cause:
            message = "Traces need OpenTelemetry; run `pip install 'clipsr-gateway[otel]'`, or set no OTLP endpoint."
            raise ConfigurationError(message) from cause
        except Exception as cause:  # of each variable another one
            message = f"OpenTelemetry cannot send traces as its variables (OTEL_…) say: {cause}"
            raise ConfigurationError(message) from cause

    def _set_up(self, endpoint: str, timeout_s: float | None) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # Resource.create lets OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say it otherwise.
        resource = Resource.create({"service.name": _SERVICE_NAME, "service.version": version(_SERVICE_NAME)})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # A scheme decides; without one, OTEL_EXPORTER_OTLP_INSECURE does.
        is_plain = True if endpoint.startswith("http://") else None
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=is_plain, timeout=timeout_s)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("clipsr_gateway")
        self._propagator: Any = propagate.get_global_textmap()  # as OTEL_PROPAGATORS says
        self._headers = frozenset(self._propagator.fields)
        self._trace = trace

    @contextmanager
    def call(self, method: str, request_id: str, metadata: Any) -> Generator[CallSpan]:
        """Return a span for a call; see Tracing."""
        carrier = {key: str(value) for key, value in cast("_Metadata", metadata or ()) if key in self._headers}
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
