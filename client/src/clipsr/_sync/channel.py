"""What waiting code does in its own way: the channel, waiting, and reading files. Twin of _async/channel.py."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

import grpc

from clipsr._rpc.channel import channel_options, make_target
from clipsr._rpc.credentials import Access
from clipsr._rpc.lifetime import Lifetime, closed

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class Channel:
    """A channel that connects with its first call, and that threads may share.

    Args:
        url: HOST:PORT.
        access: how the service lets it in.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT.
    """

    def __init__(self, url: str, access: Access) -> None:
        self.lifetime = Lifetime()
        target, options = make_target(url), channel_options(url)
        if access.credentials is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            self._channel = grpc.secure_channel(target, access.credentials, options=options)
        self._stubs: dict[Callable[[Any], Any], Any] = {}

    def stub(self, kind: Callable[[Any], Any]) -> Any:
        """Return the stub of that class; raise ClientClosedError after close()."""
        self.lifetime.check()
        if kind not in self._stubs:
            self._stubs[kind] = kind(self._channel)
        return self._stubs[kind]

    @contextlib.contextmanager
    def in_use(self) -> Generator[None, None, None]:
        """Raise ClientClosedError instead of what a channel does that is closed before the block or during it."""
        self.lifetime.check()
        try:
            yield
        except (grpc.RpcError, ValueError) as error:  # ValueError: closed between the check and the call
            if not self.lifetime.is_closed:
                raise
            raise closed() from error.with_traceback(None)  # which would keep the call

    def sleep(self, delay_s: float) -> None:
        """Wait; raise ClientClosedError as soon as the channel is closed."""
        is_closed = threading.Event()
        with self.lifetime.notify(is_closed.set):
            is_closed.wait(delay_s)
        self.lifetime.check()

    def close(self) -> None:
        """Close; calls under way end with ClientClosedError."""
        self.lifetime.end()
        self._channel.close()


def run_blocking(
    function: Callable[_Parameters, _Result], *args: _Parameters.args, **options: _Parameters.kwargs
) -> _Result:
    """Call a function that may wait for files; asyncio has it called in a thread."""
    return function(*args, **options)
