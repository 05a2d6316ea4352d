"""Image files inside HTML, so that a page fetches nothing."""

from __future__ import annotations

import base64

from clipsr._formats import find_shown_type


def data_uri(content: bytes) -> str | None:
    """Return an image file as a data: URI; None if it is of no kind that every browser shows."""
    media_type = find_shown_type(content)
    return None if media_type is None else f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
