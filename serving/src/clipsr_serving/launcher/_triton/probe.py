"""Asks running servers whether they answer."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from clipsr_serving.errors import LaunchError

_HTTP_TIMEOUT_S = 5
_CANARY_TIMEOUT_S = 60  # the first request with new labels encodes them
_CANARY_LABELS = ("red", "blue")
_CANARY_MODELS = ("classify", "classify_native")


def find_executable(name: str, package: str) -> Path:
    """Find a console script beside this interpreter, or on PATH.

    Raises:
        LaunchError: it is not installed.
    """
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    found = shutil.which(name)
    if found is None:
        raise LaunchError(f"{name} is not installed; run `pip install {package}` in the environment of clipsr-serve.")
    return Path(found)


def is_triton_ready(http_address: str) -> bool:
    """Return True once all models are loaded and warm."""
    try:
        with urllib.request.urlopen(f"http://{http_address}/v2/health/ready", timeout=_HTTP_TIMEOUT_S) as response:
            return response.status == 200
    except OSError:
        return False


def is_gateway_serving(client: Path, url: str) -> bool:
    """Return True once `clipsr-client health` says SERVING."""
    command = [str(client), "health", "--url", url, "--timeout", "5"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def make_canary_body() -> tuple[bytes, int]:
    """Return a small picture and two labels, as a request of the KServe v2 HTTP protocol.

    Returns:
        the body, and the length of its JSON part.

    Source: Triton, "Binary Tensor Data Extension".
    """
    picture = _make_png(32)
    image = struct.pack("<I", len(picture)) + picture
    document = {
        "inputs": [
            {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(image)}},
            {"name": "fit", "shape": [1, 1], "datatype": "BYTES", "data": ["center_crop"]},
            {"name": "labels", "shape": [1, 2], "datatype": "BYTES", "data": list(_CANARY_LABELS)},
            {"name": "templates", "shape": [1, 1], "datatype": "BYTES", "data": ["a photo of a {}."]},
        ]
    }
    header = json.dumps(document).encode()
    return header + image, len(header)


def _make_png(side_px: int) -> bytes:
    """Return a colour gradient as a PNG; by hand, as the launcher's other verbs should not wait for an imaging library.

    Source: PNG specification, third edition, sections 5 and 11.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)  # 8 bits, RGB
    step = 256 // side_px
    rows = [
        b"\x00" + b"".join(bytes((row * step, column * step, 128)) for column in range(side_px))
        for row in range(side_px)
    ]
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(rows))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def run_canary(http_address: str) -> None:
    """Classify the picture on both routes through Triton alone.

    Raises:
        LaunchError: a route fails, or answers with something that is not a probability.
    """
    body, header_length = make_canary_body()
    for model in _CANARY_MODELS:
        request = urllib.request.Request(
            f"http://{http_address}/v2/models/{model}/infer",
            data=body,
            headers={"Inference-Header-Content-Length": str(header_length)},
        )
        try:
            with urllib.request.urlopen(request, timeout=_CANARY_TIMEOUT_S) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", errors="replace")
            raise LaunchError(f"Triton is up, but {model} fails: {reason}") from error
        except OSError as error:
            raise LaunchError(f"Triton is up, but {model} does not answer: {error}") from error
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        probability = outputs["probability"]
        if len(probability) != len(_CANARY_LABELS) or not all(0 <= value <= 1 for value in probability):
            raise LaunchError(f"Triton is up, but {model} answers {outputs}; export the model again.")
