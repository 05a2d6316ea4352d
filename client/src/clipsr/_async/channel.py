"""What asyncio does in its own way: the channel, waiting, and reading files. Twin of _sync/channel.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

import grpc
import grpc.aio

from clipsr._errors import ClientClosedError
from clipsr._rpc.channel import channel_options, make_target
from clipsr._rpc.credentials import Access
from clipsr._rpc.lifetime import Lifetime, closed

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class Channel:
    """A channel that belongs to the event loop of its first call.

    Args:
        url: HOST:PORT.
        access: how the service lets it in.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT.
    """

    def __init__(self, url: str, access: Access) -> None:
        self.lifetime = Lifetime()
        self._url, self._target, self._access = url, make_target(url), access
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stubs: dict[Callable[[Any], Any], Any] = {}

    def stub(self, kind: Callable[[Any], Any]) -> Any:
        """Return the stub of that class.

        Raises:
            ClientClosedError: after close(), or in another event loop than that of the first call.
        """
        self.lifetime.check()
        if self._channel is None:  # not in __init__: it takes hold of the running event loop, and there may be none yet
            self._channel = self._connect()
            self._loop = asyncio.get_running_loop()
        self._check_loop()
        if kind not in self._stubs:
            self._stubs[kind] = kind(self._channel)
        return self._stubs[kind]

    @contextlib.contextmanager
    def in_use(self) -> Generator[None, None, None]:
        """Raise ClientClosedError instead of what a channel does that is closed before the block or during it."""
        self.lifetime.check()
        try:
            yield
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError) as error:
            if not self.lifetime.is_closed or _is_cancelled():
                raise
            raise closed() from error.with_traceback(None)  # which would keep the call

    async def sleep(self, delay_s: float) -> None:
        """Wait; raise ClientClosedError as soon as the channel is closed."""
        is_closed = asyncio.Event()
        with self.lifetime.notify(is_closed.set), contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(is_closed.wait(), delay_s)
        self.lifetime.check()

    async def close(self) -> None:
        """Close; calls under way end with ClientClosedError.

        Raises:
            ClientClosedError: it belongs to another event loop, which is still there.
        """
        channel, is_orphaned = self._channel, self._loop is not None and self._loop.is_closed()
        if channel is not None and not is_orphaned:
            self._check_loop()
        self.lifetime.end(notifies=not is_orphaned)
        self._channel = None
        self._stubs.clear()
        if channel is not None and not is_orphaned:
            await channel.close()

    def _connect(self) -> grpc.aio.Channel:
        options, credentials = channel_options(self._url), self._access.credentials
        if credentials is None:
            return grpc.aio.insecure_channel(self._target, options=options)
        return grpc.aio.secure_channel(self._target, credentials, options=options)

    def _check_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            message = "The client belongs to the event loop of its first call: make one client in each asyncio.run()."
            raise ClientClosedError(message)


def _is_cancelled() -> bool:
    """Return whether somebody cancelled the task that runs; before Python 3.11 nobody can tell."""
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)
    return cancelling is not None and cancelling() > 0


async def run_blocking(
    function: Callable[_Parameters, _Result], *args: _Parameters.args, **options: _Parameters.kwargs
) -> _Result:
    """Call a function that may wait for files, in a thread."""
    return await asyncio.to_thread(function, *args, **options)
