"""What every answer of the web server says to the browser, and which requests of other web sites it refuses."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, section 9.2.1: they change nothing


def make_middleware(hosts: Collection[str] | None) -> list[Middleware]:
    """Return what stands before the pages, outermost first.

    Args:
        hosts: names that the server may be called by; None allows all. Another web site could let its own name point to
            this machine and then read the pages (DNS rebinding); it cannot change the name that the browser sends.
    """
    allowed = ["*"] if hosts is None else sorted(hosts)
    return [
        Middleware(PageHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False),
        Middleware(SameOriginWrites),
    ]


class PageHeaders:
    """ASGI middleware that adds headers for the browser to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class SameOriginWrites:
    """ASGI middleware that refuses what pages of other web sites let a browser send, such as uploads.

    Programs that are no browsers send none of the headers it looks at and pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app = self._app
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS and _is_cross_site(Headers(scope=scope)):
            app = PlainTextResponse("Pages of other web sites may not use this one.\n", status_code=403)
        await app(scope, receive, send)


def _is_cross_site(headers: Headers) -> bool:
    """Return whether a browser says so: Sec-Fetch-Site, or the Origin where that is missing.

    Sec-Fetch-Site comes first, as it is right behind a proxy that changes Host, too; browsers send it to HTTPS and to
    this machine only (https://www.w3.org/TR/fetch-metadata/).
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
