"""Serves the pages until it is stopped."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from clipsr import Client, ClipsrError
from clipsr.ui._middleware import make_middleware
from clipsr.ui._pages import make_pages
from clipsr.ui._theme import make_css, make_theme

_INFO_TIMEOUT_S = 5.0
_MAX_FILE_BYTES = 16 << 20  # the gateway's default, while it cannot be asked


class AddressError(Exception):
    """The address is taken, reserved, or none of this machine; its text says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UiOptions:
    """Where the pages are served.

    Attributes:
        host: an address of this machine; IPv6 without brackets.
        port: 0 takes a free one.
        is_shared: whether gradio's servers hand the pages on to everyone who has the link.
    """

    host: str
    port: int
    is_shared: bool = False

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the pages."""
        return not self.is_shared and (self.host == "localhost" or _is_loopback(self.host))


def serve(client: Client, options: UiOptions, *, announce: Callable[[str], None]) -> None:
    """Serve the pages until SIGINT or SIGTERM; uploads are kept in a folder that is removed at the end.

    Args:
        client: whom the pages ask.
        options: where to listen.
        announce: gets the address, once it can be opened.

    Raises:
        AddressError: the address cannot be listened on.
    """
    # Not an Event: its set(), in a handler, could wait for ever for the lock that the interrupted wait() holds.
    stops = SimpleQueue[None]()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stops.put(None))
    port = _claim(options)
    with tempfile.TemporaryDirectory(prefix="clipsr-ui-", ignore_cleanup_errors=True) as uploads:
        # gradio takes these from the environment only.
        os.environ["GRADIO_TEMP_DIR"] = uploads
        os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), options.host, "localhost"]))
        _run(client, options, port=port, announce=announce, stops=stops)


def _run(
    client: Client, options: UiOptions, *, port: int | None, announce: Callable[[str], None], stops: SimpleQueue[None]
) -> None:
    hosts = {"127.0.0.1", "localhost", "[::1]", _in_url(options.host)} if options.is_local else None
    pages = make_pages(client)
    _, url, share_url = pages.launch(
        server_name=_in_url(options.host),
        server_port=port,
        share=options.is_shared,
        max_file_size=_ask_max_file_bytes(client),
        app_kwargs={"middleware": make_middleware(hosts), "docs_url": None, "redoc_url": None},
        theme=make_theme(),
        css=make_css(),
        footer_links=[],
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        num_workers=0,
        root_path="",
        allowed_paths=None,
    )
    try:
        announce(share_url or url)
        stops.get()
    finally:
        pages.close(verbose=False)


def _claim(options: UiOptions) -> int | None:
    """Return the port to listen on, having seen that it is free; gradio would say less about why it is not.

    None leaves the choice to gradio, which takes another where this one is taken meanwhile.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that ended just now does not count
        try:
            trial.bind((options.host, options.port))
        except OSError as error:
            raise AddressError(error.strerror) from error
    return options.port or None


def _ask_max_file_bytes(client: Client) -> int:
    """Return how large an upload may be; a page checks again by the limits of the moment."""
    try:
        return client.model_info(timeout_s=_INFO_TIMEOUT_S).limits.max_image_bytes
    except ClipsrError:
        return _MAX_FILE_BYTES


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
