"""Prometheus metrics, on a port of their own.

Labels take few values: methods are those of the services, codes gRPC's, reasons those of docs/errors.md, and keys the
names of the key file. Nothing that a caller can choose becomes a label.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    MetricsHandler,
    PlatformCollector,
    ProcessCollector,
)

from clipsr_gateway._address import parse_address
from clipsr_gateway._admission.controller import Admission
from clipsr_gateway._calls.call import Call
from clipsr_gateway.errors import ListenError

_PREFIX = "clipsr_gateway"

# Of one call or stage, in seconds: from a cached classification on a GPU to an upscaled photo on two cores.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Powers of two up to Limits.max_embed_texts.
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counts calls; a CallObserver.

    Args:
        info: what is served, for the metric `clipsr_gateway_info`.
        admission: admission control, with the slots in Triton.
        is_serving: what health says.
    """

    def __init__(self, *, info: Mapping[str, str], admission: Admission, is_serving: Callable[[], bool]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._calls = self._counter("calls", "Calls that ended.", "method", "code", "key")
        self._seconds = self._histogram(
            "call_seconds", "How long calls took, refused ones left out.", _SECONDS, "method"
        )
        self._refused_seconds = self._histogram(
            "refused_call_seconds", "How long it took to refuse calls for a key, a rate or an overload.", _SECONDS
        )
        self._stages = self._histogram(
            "stage_seconds",
            "How long parts took: queue (waiting for Triton), inference (in Triton), labels, decode, encode.",
            _SECONDS,
            "stage",
        )
        self._items = self._counter("items", "Images and texts that were taken on.", "method", "key")
        self._items_per_call = self._histogram("items_per_call", "Images or texts of a call.", _ITEMS, "method")
        self._rejections = self._counter(
            "rejections", "Calls that failed, by reason (docs/errors.md).", "reason", "key"
        )
        self._in_flight = Gauge(f"{_PREFIX}_calls_in_flight", "Calls in progress.", ["method"], registry=self.registry)
        self._gauge("queue_length", "Requests that wait for a slot in Triton.", lambda: admission.slots.waiting)
        self._gauge("triton_requests_in_flight", "Requests in Triton.", lambda: admission.slots.in_use)
        self._gauge("messages_receiving", "Messages that are being received.", lambda: admission.receiving.in_use)
        self._gauge(
            "messages_waiting", "Calls that wait for their message to be received.", lambda: admission.receiving.waiting
        )
        self._gauge("queued_bytes", "Bytes of the messages of calls in progress.", lambda: admission.queued_bytes)
        self._gauge("work_units", "Work that was taken on and is not done, in small images.", lambda: admission.units)
        self._gauge("work_units_per_second", "How fast Triton works, as measured.", lambda: admission.units_per_second)
        self._gauge(
            "unloaded_latency_seconds", "How long a small image takes alone, as measured.", lambda: admission.alone_s
        )
        self._gauge(
            "estimated_wait_seconds", "How long a small image would take now.", lambda: admission.estimate_s(1.0)
        )
        self._gauge("serving", "1 while health says SERVING.", lambda: float(is_serving()))
        Info(_PREFIX, "What is served, by which version.", registry=self.registry).info(dict(info))

    def call_began(self, call: Call) -> None:
        """Count a call in."""
        self._in_flight.labels(call.method).inc()

    def call_ended(self, call: Call, *, latency_s: float) -> None:
        """Count a call out."""
        key = str(call.fields.get("key", ""))  # from the key file, never from the caller
        self._in_flight.labels(call.method).dec()
        self._calls.labels(call.method, call.code, key).inc()
        if call.reason:
            self._rejections.labels(call.reason, key).inc()
        if call.code in ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED"):
            self._refused_seconds.observe(latency_s)
            return
        self._seconds.labels(call.method).observe(latency_s)
        if call.items:
            self._items.labels(call.method, key).inc(call.items)
            self._items_per_call.labels(call.method).observe(call.items)
        for stage, seconds in call.stages_s.items():
            stages = self._stages.labels(stage)
            for value in seconds:
                stages.observe(value)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{_PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(f"{_PREFIX}_{name}", text, registry=self.registry).set_function(read)


# A scraper or two, and whoever looks: each has a thread and a descriptor, and an idle one ends by itself.
_CONNECTIONS = 16
_IDLE_S = 10


class _BoundedServer(ThreadingHTTPServer):
    """Closes the oldest connection where a further one would be too many, so that no crowd keeps a scraper out."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._open: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        handler = MetricsHandler.factory(registry)
        handler.timeout = _IDLE_S
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= _CONNECTIONS:
                with contextlib.suppress(OSError):
                    self._open.popleft().shutdown(socket.SHUT_RDWR)
            self._open.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a connection that broke is no news, and the page has no other errors."""


class MetricsServer:
    """Serves /metrics over HTTP from a thread, until closed.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        metrics: what to serve.

    Raises:
        ListenError: the address cannot be bound.
    """

    def __init__(self, address: str, metrics: Metrics) -> None:
        host, port = parse_address("--metrics", address)
        try:
            self._server = _BoundedServer((host.strip("[]"), port), metrics.registry)
        except OSError as cause:
            raise ListenError(address, option="--metrics") from cause
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stop; scrapes in progress finish."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
