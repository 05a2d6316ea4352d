"""How servers that speak HTTP are asked: forms with files, JSON with base64."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from benchmarks.load.loops import Ask
from benchmarks.load.plan import Target
from benchmarks.load.summary import OK

__all__ = ["connect_http", "http_body"]


@asynccontextmanager
async def connect_http(
    target: Target, images: Sequence[bytes], connections: int, timeout_s: float
) -> AsyncIterator[list[Ask]]:
    """Open sessions to an HTTP server; gives one `Ask` each."""
    bodies = [http_body(target, content) for content in images]
    timeout = aiohttp.ClientTimeout(total=timeout_s)

    def ask_over(session: aiohttp.ClientSession) -> Ask:
        async def ask(number: int) -> str:
            body, content_type = bodies[number % len(bodies)]
            try:
                async with session.post(target.url, data=body, headers={"Content-Type": content_type}) as response:
                    answer = await response.read()
                    if response.status != 200:
                        return f"HTTP {response.status}"
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                return type(error).__name__
            json.loads(answer)  # the caller of gRPC gets an object, too
            return OK

        return ask

    # Each with as many sockets as it has calls at once: HTTP/1.1 carries one call at a time.
    sessions = [
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) for _ in range(connections)
    ]
    try:
        yield [ask_over(session) for session in sessions]
    finally:
        await asyncio.gather(*(session.close() for session in sessions))


def http_body(target: Target, content: bytes) -> tuple[bytes, str]:
    """Return an image as the body of a request, with its content type."""
    encoded = base64.b64encode(content).decode()
    if target.kind == "json-base64":
        return json.dumps({"image": encoded}).encode(), "application/json"
    if target.kind == "infinity":
        document = {
            "model": "clip",
            "input": [f"data:image/png;base64,{encoded}"],
            "modality": "image",
            "encoding_format": "base64",  # floats as text would cost it more
        }
        return json.dumps(document).encode(), "application/json"
    boundary = "clipsr-benchmark-7f3a"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="image.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
