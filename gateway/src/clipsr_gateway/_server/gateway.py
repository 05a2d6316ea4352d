"""Serves on a port, and drains without dropping a call."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from clipsr.v1 import (
    classifier_pb2,
    classifier_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    library_pb2,
    library_pb2_grpc,
    restorer_pb2,
    restorer_pb2_grpc,
    upscaler_pb2,
    upscaler_pb2_grpc,
)
from clipsr_gateway._access.tls import server_credentials
from clipsr_gateway._address import parse_address
from clipsr_gateway._backend.core import MAX_STREAM_AGE_S, Core
from clipsr_gateway._backend.protocol import InferenceBackend
from clipsr_gateway._backend.triton import TritonBackend, optional_models
from clipsr_gateway._classifier.service import ClassifierService
from clipsr_gateway._embedding.service import EmbeddingService
from clipsr_gateway._library.disabled import DisabledLibraryService
from clipsr_gateway._limits import LibraryLimits, Limits
from clipsr_gateway._logs import log_event
from clipsr_gateway._manifest import Manifest, load_manifest
from clipsr_gateway._restorer.service import RestorerService
from clipsr_gateway._server.health import HealthMonitor, HealthSchedule, HealthService
from clipsr_gateway._server.operations import Operations, OperationsConfig
from clipsr_gateway._upscaler.service import UpscalerService
from clipsr_gateway._vocabulary import load_vocabulary
from clipsr_gateway.errors import ConfigurationError, ListenError

if TYPE_CHECKING:
    from clipsr_gateway._library.store.store import LibraryStore


_CLASSIFIER_NAME: str = classifier_pb2.DESCRIPTOR.services_by_name["ClassifierService"].full_name
_EMBEDDING_NAME: str = embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name
_LIBRARY_NAME: str = library_pb2.DESCRIPTOR.services_by_name["LibraryService"].full_name
_RESTORER_NAME: str = restorer_pb2.DESCRIPTOR.services_by_name["RestorerService"].full_name
_UPSCALER_NAME: str = upscaler_pb2.DESCRIPTOR.services_by_name["UpscalerService"].full_name
_SERVICE_NAMES = (_CLASSIFIER_NAME, _EMBEDDING_NAME, _LIBRARY_NAME, _RESTORER_NAME, _UPSCALER_NAME)
_HEALTH_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

# After the drain new calls are still refused in words for so long: callers who hear that go elsewhere, and gRPC would
# answer those that no handler has taken when the server closes with a bare CANCELLED.
_LAST_REFUSALS_S = 0.5

# After that only streams are left (Watch, reflection); this is for their last message to leave.
_STREAM_GRACE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """How the gateway runs.

    Attributes:
        listen: HOST:PORT to serve on; port 0 takes a free one.
        triton: HOST:PORT of Triton's gRPC endpoint.
        repository: the model repository, for its manifest.json.
        max_concurrent: requests in Triton at once: images to classify or embed, portions of texts, groups of tiles
            to upscale; more than Triton batches together only moves the queue.
        shutdown_delay_s: how long new calls are still served at shutdown while health says NOT_SERVING.
        grace_s: how long calls in flight may take to finish after that.
        max_stream_age_s: how long a stream is read from.
        library_uri: where image libraries are kept, a folder or an object store; None: nowhere.
        limits: what a request may hold.
        library_limits: what a library may hold.
        schedule: how often health is measured.
        operations: keys, TLS, metrics, traces, and how much is taken on.
    """

    listen: str = "127.0.0.1:50051"
    triton: str = "127.0.0.1:8001"
    repository: Path = Path("model_repository")
    max_concurrent: int = 32
    shutdown_delay_s: float = 0.0
    grace_s: float = 20.0
    max_stream_age_s: float = MAX_STREAM_AGE_S
    library_uri: str | None = None
    limits: Limits = field(default_factory=Limits)
    library_limits: LibraryLimits = field(default_factory=LibraryLimits)
    schedule: HealthSchedule = field(default_factory=HealthSchedule)
    operations: OperationsConfig = field(default_factory=OperationsConfig)

    def __post_init__(self) -> None:
        """Refuse addresses and counts that cannot work.

        Raises:
            ConfigurationError: naming the option.
        """
        for option, address in (("--listen", self.listen), ("--triton", self.triton)):
            parse_address(option, address)
        if self.max_concurrent < 1:
            raise ConfigurationError(f"--max-concurrent must be at least 1; it is {self.max_concurrent}.")
        for option, seconds in (("--shutdown-delay", self.shutdown_delay_s), ("--grace", self.grace_s)):
            if seconds < 0:
                raise ConfigurationError(f"{option} must not be negative; it is {seconds}.")


class Gateway:
    """The gRPC server with its services and its health monitor.

    Must be created inside a running event loop. `start` once, `stop` once.
    """

    def __init__(self, config: GatewayConfig, *, manifest: Manifest, backend: InferenceBackend) -> None:
        if config.library_uri is not None:
            config = replace(config, limits=replace(config.limits, library=config.library_limits))
        self._config = config
        self._backend = backend
        self._health = HealthService(_SERVICE_NAMES)
        self._monitor = HealthMonitor(backend=backend, health=self._health, manifest=manifest, schedule=config.schedule)
        self._monitor_task: asyncio.Task[None] | None = None
        self._operations = Operations(
            config.operations,
            manifest=manifest,
            max_concurrent=config.max_concurrent,
            health=self._health,
            gateway_version=version("clipsr-gateway"),
        )
        self._runner = self._operations.runner
        self._server = grpc.aio.server(
            interceptors=(self._operations.interceptor,), options=_server_options(config.limits)
        )
        core = Core(
            backend=backend,
            manifest=manifest,
            limits=config.limits,
            max_stream_age_s=config.max_stream_age_s,
            vocabulary=load_vocabulary(config.repository, manifest.taught_words),
        )
        self._libraries, library = _make_library_service(config, core)
        # The generated add_… functions have no annotations.
        classifier_pb2_grpc.add_ClassifierServiceServicer_to_server(  # pyright: ignore[reportUnknownMemberType]
            ClassifierService(core, gateway_version=version("clipsr-gateway")), self._server
        )
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(  # pyright: ignore[reportUnknownMemberType]
            EmbeddingService(core), self._server
        )
        library_pb2_grpc.add_LibraryServiceServicer_to_server(  # pyright: ignore[reportUnknownMemberType]
            library, self._server
        )
        restorer_pb2_grpc.add_RestorerServiceServicer_to_server(  # pyright: ignore[reportUnknownMemberType]
            RestorerService(core), self._server
        )
        upscaler_pb2_grpc.add_UpscalerServiceServicer_to_server(  # pyright: ignore[reportUnknownMemberType]
            UpscalerService(core), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(  # pyright: ignore[reportUnknownMemberType]
            self._health, self._server
        )
        names = (*_SERVICE_NAMES, _HEALTH_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    @property
    def operations(self) -> Operations:
        """Keys, metrics, and how much there is to do."""
        return self._operations

    @property
    def health(self) -> HealthService:
        """What callers are told about this server's health."""
        return self._health

    async def start(self) -> int:
        """Begin to serve, NOT_SERVING until the monitor's first canary.

        Returns:
            The port that is listened on.

        Raises:
            ListenError: the address, or that of the metrics, cannot be bound.
            CertificateError: the certificates are wrong.
        """
        try:
            tls = self._config.operations.tls
            if tls is None:
                port = self._server.add_insecure_port(self._config.listen)
            else:
                port = self._server.add_secure_port(self._config.listen, server_credentials(tls))
        except RuntimeError as cause:
            raise ListenError(self._config.listen) from cause
        if not port:
            raise ListenError(self._config.listen)
        self._operations.start()
        await self._server.start()
        if self._libraries is not None:
            self._libraries.start()
        self._monitor_task = asyncio.create_task(self._monitor.run())
        return port

    async def stop(self) -> bool:
        """Say NOT_SERVING, serve on for the delay, refuse new calls, wait for those in flight, close.

        Returns:
            Whether all calls in flight finished within the grace period.
        """
        if self._monitor_task is not None:
            self._monitor_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._monitor_task
        await self._health.close()
        await asyncio.sleep(self._config.shutdown_delay_s)
        is_busy = self._runner.in_flight > 0
        is_drained = await self._runner.drain(timeout_s=self._config.grace_s)
        if is_busy:
            await asyncio.sleep(_LAST_REFUSALS_S)
        await self._server.stop(_STREAM_GRACE_S if is_drained else 0)
        if self._libraries is not None:
            await self._libraries.close()
        await self._backend.close()
        await self._operations.stop()
        return is_drained


def _make_library_service(
    config: GatewayConfig, core: Core
) -> tuple[LibraryStore | None, library_pb2_grpc.LibraryServiceServicer]:
    """Return the store and the service of libraries; only a gateway that keeps some needs LanceDB.

    Raises:
        ConfigurationError: LanceDB is not installed.
    """
    if config.library_uri is None:
        return None, DisabledLibraryService()
    try:
        from clipsr_gateway._library.core import LibraryCore
        from clipsr_gateway._library.service import LibraryService
        from clipsr_gateway._library.store.store import LibraryStore
    except ModuleNotFoundError as cause:
        message = f"--library-uri needs {cause.name}; install it with `pip install 'clipsr-gateway[library]'`."
        raise ConfigurationError(message) from cause
    store = LibraryStore(config.library_uri, max_libraries=config.library_limits.max_libraries)
    library_core = LibraryCore(
        backend=core.backend,
        manifest=core.manifest,
        limits=core.limits,
        max_stream_age_s=core.max_stream_age_s,
        vocabulary=core.vocabulary,
        store=store,
        library_limits=config.library_limits,
    )
    return store, LibraryService(library_core)


async def serve(config: GatewayConfig) -> None:
    """Run the gateway in front of Triton until SIGTERM or SIGINT.

    Raises:
        ManifestError: the repository's manifest.json is absent or wrong.
        ListenError: the address cannot be bound.
    """
    manifest = load_manifest(config.repository, limits=config.limits)
    stop_requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop_requested.set)
    backend = TritonBackend(config.triton, optional_models=optional_models(manifest))
    gateway = Gateway(config, manifest=manifest, backend=backend)
    loop.add_signal_handler(signal.SIGHUP, gateway.operations.reload_keys)
    port = await gateway.start()
    host, _ = parse_address("--listen", config.listen)
    fields = {"address": f"{host}:{port}", "triton": config.triton, "model": manifest.name, "digest": manifest.digest}
    log_event("listening", fields | {"metrics": gateway.operations.metrics_address})
    gateway.operations.warn(config.listen)
    await stop_requested.wait()
    log_event("stopping", {"shutdown_delay_s": config.shutdown_delay_s, "grace_s": config.grace_s})
    is_drained = await gateway.stop()
    log_event("stopped", {"drained": is_drained})


def _server_options(limits: Limits) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.so_reuseport", 0),  # on by default: a second gateway on a taken port would start and share its calls
        ("grpc.keepalive_time_ms", 60_000),  # finds callers that vanished, so that their work is cancelled
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Callers may ping this often; gRPC's default of five minutes answers their keepalive with "too_many_pings".
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Clients resolve names again only when a connection ends: without an age, new servers get no calls.
        ("grpc.max_connection_age_ms", 10 * 60_000),
        ("grpc.max_connection_age_grace_ms", 10 * 60_000),
    ]
