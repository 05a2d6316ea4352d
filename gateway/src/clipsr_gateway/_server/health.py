"""grpc.health.v1, and the monitor that decides what it says."""

from __future__ import annotations

import asyncio
import io
import logging
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from clipsr_gateway._backend.protocol import InferenceBackend, Route
from clipsr_gateway._logs import log_event
from clipsr_gateway._manifest import Manifest

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

# What the canary classifies with: two labels, so that the probabilities are not trivially 1. The launcher's probe takes
# the same.
CANARY_LABELS = ("canary", "coal mine")
_CANARY_SIDE_PX = 16


class HealthService(health_pb2_grpc.HealthServicer):
    """Health of the whole server ("") and of named services, all equal.

    grpcio-health-checking's own asyncio servicer forgets the other watchers of a service when one of them leaves, and
    never ends a Watch, which would hold up every shutdown for the whole grace period.

    Args:
        services: full names of the services.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = frozenset(("", *services))
        self._is_serving = False
        self._is_closed = False
        self._changed = asyncio.Condition()

    @property
    def is_serving(self) -> bool:
        """Whether SERVING is what callers read."""
        return self._is_serving

    async def set_serving(self, is_serving: bool) -> None:
        """Change the status and tell all watchers; without effect after `close`."""
        async with self._changed:
            self._is_serving = is_serving and not self._is_closed
            self._changed.notify_all()

    async def close(self) -> None:
        """Say NOT_SERVING for good and ends all watches once they have said so."""
        async with self._changed:
            self._is_serving = False
            self._is_closed = True
            self._changed.notify_all()

    async def Check(  # noqa: N802 - the name in the proto
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Answer the status; NOT_FOUND for a service this server does not have."""
        status = self._status(request.service)
        if status == _SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service!r} here.")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - the name in the proto
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Streams the status now and at every change."""
        while True:
            status = self._status(request.service)
            await context.write(health_pb2.HealthCheckResponse(status=status))
            async with self._changed:
                while self._status(request.service) == status and not self._is_closed:
                    await self._changed.wait()
            if self._is_closed and self._status(request.service) == status:
                return

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return _SERVICE_UNKNOWN
        return _SERVING if self._is_serving else _NOT_SERVING


@dataclass(frozen=True, kw_only=True)
class HealthSchedule:
    """How often health is measured.

    Attributes:
        readiness_interval_s: between two cheap checks; also how soon a failed canary is tried again.
        waiting_interval_s: likewise while the backend is not ready, as when it starts.
        readiness_timeout_s: of one cheap check; a busy machine may take a second to answer.
        canary_interval_s: between two canaries while all is well.
        canary_timeout_s: of one canary image; the first one may wait for a model to warm up.
    """

    readiness_interval_s: float = 1.0
    waiting_interval_s: float = 0.1
    readiness_timeout_s: float = 5.0
    canary_interval_s: float = 30.0
    canary_timeout_s: float = 30.0


class HealthMonitor:
    """Turns health SERVING once a canary came through both routes, and back when the backend stops answering."""

    def __init__(
        self, *, backend: InferenceBackend, health: HealthService, manifest: Manifest, schedule: HealthSchedule
    ) -> None:
        self._backend = backend
        self._health = health
        self._templates = manifest.template_sets[manifest.default_templates.removeprefix("@")]
        self._schedule = schedule
        self._canary = canary_png()
        self._canary_due_s = 0.0
        self._is_backend_ready = False
        self._last_cause: str | None = ""  # equal to no cause, so that the first one is logged

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            cause = await self._measure()
            await self._health.set_serving(cause is None)
            if cause != self._last_cause:
                level = logging.INFO if cause is None else logging.WARNING
                status = "SERVING" if cause is None else "NOT_SERVING"
                log_event("health", {"status": status, "cause": cause}, level=level)
                self._last_cause = cause
            schedule = self._schedule
            await asyncio.sleep(
                schedule.readiness_interval_s if self._is_backend_ready else schedule.waiting_interval_s
            )

    async def _measure(self) -> str | None:
        """Return why the service is not fit to serve, or None if it is. Never raises: a dead monitor hides faults."""
        try:
            self._is_backend_ready = await self._backend.is_ready(timeout_s=self._schedule.readiness_timeout_s)
            if not self._is_backend_ready:
                self._canary_due_s = 0.0  # what comes back may be another server: prove it again
                return f"Triton at {self._backend.target} is not ready"
            now_s = asyncio.get_running_loop().time()
            if now_s < self._canary_due_s:
                return None
            self._canary_due_s = 0.0
            await self._run_canary()
            self._canary_due_s = now_s + self._schedule.canary_interval_s
        except Exception as error:
            return f"canary failed: {type(error).__name__}: {error}"
        return None

    async def _run_canary(self) -> None:
        """Classify the canary image on both routes.

        Raises:
            ValueError: similarities are not finite, or not as many as labels.
            BackendError: as the backend reports it.
        """
        routes: tuple[Route, ...] = ("upscaled", "native")
        encoded = self._backend.encode_labels(labels=CANARY_LABELS, templates=self._templates)
        for route in routes:
            similarities = await encoded.classify(
                self._canary,
                fit="center_crop",
                route=route,
                request_id=f"canary-{route}",
                timeout_s=self._schedule.canary_timeout_s,
            )
            if fault := similarities.validate(label_count=len(CANARY_LABELS)):
                raise ValueError(f"route {route}: {fault}")


def canary_png() -> bytes:
    """Return a small PNG with a colour gradient: cheap, the same every time, and not constant."""
    ramp = Image.linear_gradient("L").resize((_CANARY_SIDE_PX, _CANARY_SIDE_PX))
    image = Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_90), ramp.point(lambda value: 255 - value)))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
