"""The service as a whole: the connection to it, whether it works, and what it has."""

from __future__ import annotations

from types import TracebackType
from typing import Any, TypeVar

from grpc_health.v1 import health_pb2, health_pb2_grpc

from clipsr._async.connection import AsyncConnection
from clipsr._codecs import library_responses
from clipsr._codecs.arguments import as_text
from clipsr._codecs.model_info import decode_model_info
from clipsr._errors import DeadlineError, NotFoundError, ServiceUnavailableError
from clipsr._library_types import LibraryInfo
from clipsr._rpc import health
from clipsr._rpc.credentials import FilePath, make_access
from clipsr._rpc.retry import DEFAULT_RETRIES, RetryPolicy
from clipsr._types import ModelInfo
from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, library_pb2, library_pb2_grpc

_Self = TypeVar("_Self")
_NEVER = RetryPolicy(retries=0)


class AsyncServiceClient:
    """The part of a client that is no question about images; arguments as those of Client."""

    def __init__(
        self,
        url: str = "localhost:50051",
        *,
        timeout_s: float = 30.0,
        retries: int = DEFAULT_RETRIES,
        tls: bool | FilePath = False,
        cert_file: FilePath | None = None,
        key_file: FilePath | None = None,
        api_key: str | None = None,
        allow_insecure_key: bool = False,
    ) -> None:
        access = make_access(
            url,
            tls=tls,
            cert_file=cert_file,
            key_file=key_file,
            api_key=api_key,
            allow_insecure_key=allow_insecure_key,
        )
        self._connection = AsyncConnection(url, timeout_s=timeout_s, retry=RetryPolicy(retries=retries), access=access)
        self._call = self._connection.call

    @property
    def url(self) -> str:
        """The address that was given."""
        return self._connection.url

    async def list_libraries(self, *, timeout_s: float | None = None) -> list[LibraryInfo]:
        """Describe all libraries of the service, by name.

        Args:
            timeout_s: deadline, in seconds; None takes the client's.

        Raises:
            ClipsrError: as classify(); ServiceError where the service keeps no libraries.
        """
        return await list_libraries(self._connection, timeout_s=timeout_s)

    async def model_info(self, *, timeout_s: float | None = None) -> ModelInfo:
        """Describe the model that answers, and what it accepts.

        Raises:
            ClipsrError: as classify().
        """
        request = classifier_pb2.GetModelInfoRequest()
        return decode_model_info(await self._call(self._classifier.GetModelInfo, request, timeout_s))

    async def health(self, *, service: str = "", timeout_s: float | None = None) -> str:
        """Ask the standard health service, grpc.health.v1.

        Args:
            service: a full name such as "clipsr.v1.ClassifierService"; "" asks for the server as a whole.
            timeout_s: deadline, in seconds; None takes the client's.

        Returns:
            "SERVING", "NOT_SERVING", "UNKNOWN", or "SERVICE_UNKNOWN" if the server has no such service.

        Raises:
            ClipsrError: as classify(); ServiceUnavailableError if nobody answers.
        """
        check = self._connection.stub(health_pb2_grpc.HealthStub).Check
        request = health_pb2.HealthCheckRequest(service=as_text("service", service))
        try:
            return health.status_name(await self._call(check, request, timeout_s, retry=_NEVER))
        except NotFoundError:
            return health.SERVICE_UNKNOWN

    async def wait_for_ready(self, *, service: str = "", timeout_s: float | None = None) -> None:
        """Wait until the service is there and say that it can work.

        Args:
            service: as health()'s.
            timeout_s: how long to wait, in seconds; None takes the client's timeout.

        Raises:
            ServiceUnavailableError: nobody answers, or the service is not ready, and the time is up.
            AuthenticationError: TLS failed, or the service does not let this caller in; waiting would not help.
            ClipsrError: as health().
        """
        poller = health.ReadinessPoller(self.url, self._connection.choose_timeout_s(timeout_s))
        while True:
            try:
                is_ready = poller.observe(await self.health(service=service, timeout_s=poller.next_timeout_s()))
            except (DeadlineError, ServiceUnavailableError) as error:
                is_ready = poller.observe(error)
            if is_ready:
                return
            await self._connection.sleep(poller.pause_s())

    async def close(self) -> None:
        """Close the connection: calls under way, and later ones, end with ClientClosedError."""
        await self._connection.close()

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _classifier(self) -> Any:
        return self._connection.stub(classifier_pb2_grpc.ClassifierServiceStub)


async def list_libraries(connection: AsyncConnection, *, timeout_s: float | None) -> list[LibraryInfo]:
    """Return all libraries of a service; Client.list_libraries()."""
    stub = connection.stub(library_pb2_grpc.LibraryServiceStub)
    request = library_pb2.ListLibrariesRequest()
    return library_responses.decode_libraries(await connection.call(stub.ListLibraries, request, timeout_s))
