"""An S3 server on loopback: moto's, in a process of its own, so that every client speaks HTTP to it.

moto keeps objects in memory and honours conditional writes (`If-None-Match`, `If-Match`), but tests a condition and
writes in two steps, and lets everybody in. So writes come one at a time here, and other access keys than ACCESS_KEY are
refused as S3 refuses them; signatures are not checked.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ACCESS_KEY", "ObjectStore", "object_store"]

ACCESS_KEY = "clipsr-tests"
_SECRET_KEY = "secret-of-clipsr-tests"
_REGION = "us-east-1"
_REFUSAL = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidAccessKeyId</Code>'
    b"<Message>The AWS Access Key Id you provided does not exist in our records.</Message></Error>"
)


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """A running server.

    Attributes:
        endpoint: its URL.
        client: boto3's, for S3.
        process: the server.
    """

    endpoint: str
    client: Any
    process: subprocess.Popen[str] = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What pyarrow, Lance and AWS's own tools read; tests put it into the environment."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            "AWS_REGION": _REGION,
            "AWS_DEFAULT_REGION": _REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        """Make a bucket; return its URI, `s3://name`."""
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def keys(self, bucket: str) -> list[str]:
        """Return the keys of all objects of a bucket, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))

    def stop(self) -> None:
        """End the server and all it holds; its port refuses connections from now on."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run an S3 server on a free port for as long as the block takes, and no longer than this process."""
    import boto3

    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
            client = boto3.client(
                "s3",
                endpoint_url=endpoint,
                region_name=_REGION,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=_SECRET_KEY,
            )
            with contextlib.closing(client):
                yield ObjectStore(endpoint=endpoint, client=client, process=process)
        finally:
            process.kill()


_App = Callable[..., Iterable[bytes]]


def _guard(app: _App) -> _App:
    """Let only ACCESS_KEY in, and one write at a time."""
    writing = threading.Lock()

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if f"Credential={ACCESS_KEY}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            start_response(
                "403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(_REFUSAL)))]
            )
            return [_REFUSAL]
        reads = environ["REQUEST_METHOD"] in ("GET", "HEAD")
        with contextlib.nullcontext() if reads else writing:
            return app(environ, start_response)

    return guarded


def _serve() -> None:
    """Say the port on standard output; serve until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections open
        disable_nagle_algorithm = True

        def log_request(self, *_: Any, **__: Any) -> None:
            pass

    app = _guard(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
