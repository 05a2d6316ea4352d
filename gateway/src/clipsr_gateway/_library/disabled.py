"""LibraryService of a gateway that keeps no libraries: every call is told how to have some."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc.aio

from clipsr.v1 import library_pb2, library_pb2_grpc
from clipsr_gateway._calls.call import CallRunner
from clipsr_gateway.errors import LibrariesDisabledError

_Context = grpc.aio.ServicerContext[Any, Any]


class DisabledLibraryService(library_pb2_grpc.LibraryServiceServicer):
    """Refuses all methods, so that reflection and health look the same on every server.

    Args:
        gate: counts the calls.
    """

    def __init__(self, *, gate: CallRunner) -> None:
        self._gate = gate
        for method in library_pb2.DESCRIPTOR.services_by_name["LibraryService"].methods:
            setattr(self, method.name, self._refuse_stream if method.server_streaming else self._refuse)

    async def _refuse(self, request: Any, context: _Context) -> NoReturn:
        await self._gate.refuse("Library", context, LibrariesDisabledError())

    async def _refuse_stream(self, request: Any | AsyncIterator[Any], context: _Context) -> None:
        await self._gate.refuse("Library", context, LibrariesDisabledError())
