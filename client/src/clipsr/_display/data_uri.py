"""Image files inside HTML, so that a page fetches nothing."""

from __future__ import annotations

import base64

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
"""How files begin that every browser shows; WebP, whose mark comes later, is looked for apart."""


def data_uri(content: bytes) -> str | None:
    """Return an image file as a data: URI; None if it is of no kind that every browser shows."""
    kind = next((kind for signature, kind in _SIGNATURES if content.startswith(signature)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "image/webp"
    return None if kind is None else f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
