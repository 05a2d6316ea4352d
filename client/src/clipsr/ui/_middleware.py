"""What every answer of the web server says to the browser, and to whom it answers at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

# gradio compiles templates (unsafe-eval) and puts styles and its configuration into the page (unsafe-inline). What is
# certain all the same: the browser fetches nothing, and sends nothing, anywhere else.
_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode("ascii")),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI middleware around the web server.

    Args:
        app: what answers.
        hosts: names that the server may be called by, lower case; None allows all. Somebody else's web page could let
            its own name point to this machine and then read the pages (DNS rebinding); it cannot change the name that
            the browser sends.
    """

    def __init__(self, app: _App, *, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if self._hosts is None or _host(scope) in self._hosts:
            await self._app(scope, receive, send_with_headers)
        else:
            await _refuse(send_with_headers)


def _host(scope: _Message) -> str:
    """Return the name in the Host header, without its port."""
    value = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1").lower()
    name, colon, port = value.rpartition(":")
    return name if colon and port.isdigit() else value


async def _refuse(send: _Send) -> None:
    text = b"This server answers only by the address that it listens on, such as http://127.0.0.1:7860.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode("ascii"))]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": text})
