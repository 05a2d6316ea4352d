"""What an operator sees and decides: keys, admission control, metrics and traces, put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

from clipsr_gateway._access.authentication import Authenticator
from clipsr_gateway._access.tls import TlsConfig
from clipsr_gateway._address import parse_address
from clipsr_gateway._admission.controller import Admission, AdmissionConfig
from clipsr_gateway._calls.call import CallRunner
from clipsr_gateway._calls.interceptor import AdmissionInterceptor
from clipsr_gateway._logs import log_event
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._server.health import HealthService
from clipsr_gateway._server.metrics import Metrics, MetricsServer
from clipsr_gateway._tracing import NO_TRACING, OpenTelemetry, Tracing, TracingConfig
from clipsr_gateway.errors import ConfigurationError, ListenError

_LOOPBACK = ("127.", "[::1]", "localhost", "unix:")


@dataclass(frozen=True, kw_only=True)
class OperationsConfig:
    """How the gateway is guarded and watched.

    Attributes:
        api_keys: the key file; None asks for no key.
        tls: certificates; None serves without TLS.
        metrics: HOST:PORT of the Prometheus page, port 0 takes a free one; None has none.
        is_metrics_optional: whether a metrics port that is taken is a warning and no error.
        tracing: where spans go.
        admission: how much is admitted at once.
    """

    api_keys: Path | None = None
    tls: TlsConfig | None = None
    metrics: str | None = None
    is_metrics_optional: bool = False
    tracing: TracingConfig = field(default_factory=TracingConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)

    def __post_init__(self) -> None:
        """Refuse an address that cannot work.

        Raises:
            ConfigurationError: naming the option.
        """
        if self.metrics is not None:
            parse_address("--metrics", self.metrics, example="127.0.0.1:9464, or off")


class Operations:
    """Guards and watches one server. Must be created inside a running event loop.

    Args:
        config: what is wanted.
        manifest: what is served.
        max_concurrent: requests in Triton at once.
        health: what callers are told.
        gateway_version: shown with the metrics.

    Attributes:
        admission: admission control.
        metrics: what is counted, served or not.
        runner: runs every call.
        interceptor: the server's, which every call passes.

    Raises:
        KeyFileError: the key file is wrong.
        ConfigurationError: traces cannot be sent.
    """

    def __init__(
        self,
        config: OperationsConfig,
        *,
        manifest: Manifest,
        max_concurrent: int,
        health: HealthService,
        gateway_version: str,
    ) -> None:
        self._config = config
        self._authenticator = Authenticator(config.api_keys)
        self._objections = list(config.tracing.objections)
        self._tracing = self._make_tracing(config.tracing)
        self.admission = Admission(config.admission, max_concurrent=max_concurrent)
        self.metrics = Metrics(
            info={"version": gateway_version, "model": manifest.name, "digest": manifest.digest},
            admission=self.admission,
            is_serving=lambda: health.is_serving,
        )
        self._metrics_server: MetricsServer | None = None
        self._no_metrics: str | None = None
        self.runner = CallRunner(self.admission, (self.metrics,), tracing=self._tracing)
        self.interceptor = AdmissionInterceptor(
            runner=self.runner, authenticator=self._authenticator, admission=self.admission, config=config.admission
        )
        self._watch: asyncio.Task[None] | None = None

    def _make_tracing(self, config: TracingConfig) -> Tracing:
        """Raise ConfigurationError for traces that cannot be sent, unless they are optional."""
        try:
            if config.endpoint is not None:
                return OpenTelemetry(config.endpoint, has_own_timeout=config.has_own_timeout)
        except ConfigurationError as error:
            if not config.is_optional:
                raise
            self._objections.append(str(error))
        return NO_TRACING

    @property
    def metrics_address(self) -> str | None:
        """HOST:PORT of the Prometheus page; None if there is none."""
        return self._metrics_server.address if self._metrics_server else None

    def start(self) -> None:
        """Serve metrics and watch the key file.

        Raises:
            ListenError: the metrics' address cannot be bound.
        """
        if self._config.metrics is not None:
            try:
                self._metrics_server = MetricsServer(self._config.metrics, self.metrics)
            except ListenError as error:
                if not self._config.is_metrics_optional:
                    raise
                self._no_metrics = str(error)
        self._watch = asyncio.create_task(self._authenticator.watch())

    def warn(self, address: str) -> None:
        """Say in the log what an operator may not expect: no metrics or traces, or that anybody may call."""
        for objection in self._objections:
            log_event("no_traces", {"cause": objection}, level=logging.WARNING)
        if self._no_metrics is not None:
            log_event("no_metrics", {"cause": self._no_metrics}, level=logging.WARNING)
        if address.startswith(_LOOPBACK):
            return
        if self._authenticator.is_open:
            message = "anybody who reaches this address may call; give --api-keys FILE"
            log_event("no_api_keys", {"address": address, "cause": message}, level=logging.WARNING)
        elif self._config.tls is None:
            message = "API keys travel readable over the network; give --tls-cert and --tls-key, or end TLS before"
            log_event("no_tls", {"address": address, "cause": message}, level=logging.WARNING)

    def reload_keys(self) -> None:
        """Read the key file again, as SIGHUP asks for."""
        self._authenticator.reload()

    async def stop(self) -> None:
        """Stop watching; send the last spans."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        await asyncio.to_thread(self._tracing.close)
