"""LibraryService of a gateway that keeps no libraries: every call is told how to have some."""

from __future__ import annotations

from typing import NoReturn

from clipsr.v1 import library_pb2, library_pb2_grpc
from clipsr_gateway.errors import LibrariesDisabledError


class DisabledLibraryService(library_pb2_grpc.LibraryServiceServicer):
    """Refuses all methods, so that reflection and health look the same on every server."""

    def __init__(self) -> None:
        for method in library_pb2.DESCRIPTOR.services_by_name["LibraryService"].methods:
            setattr(self, method.name, _refuse)


async def _refuse(request: object, context: object) -> NoReturn:
    raise LibrariesDisabledError
