"""Asks running servers whether they answer: over gRPC and loopback, whatever proxy the environment names."""

from __future__ import annotations

import re
import shutil
import struct
import sys
import urllib.request
import zlib
from pathlib import Path

import grpc

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._triton.tls import TlsFiles, is_answering
from clipsr_serving.launcher._triton.wire import decode_infer_response, encode_infer_request

_TIMEOUT_S = 5
_CANARY_TIMEOUT_S = 60  # the first request with new labels encodes them
# The labels of the gateway's canary, and the usual template: embedded once for both.
CANARY_LABELS = (b"canary", b"coal mine")
_CANARY_MODELS = ("classify", "classify_native")
_CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a refused connection of an earlier probe delays no later one
]
_TRITON = "/inference.GRPCInferenceService"
_HEALTH = "/grpc.health.v1.Health/Check"
_YES = b"\x08\x01"  # ServerReadyResponse with ready: true, and HealthCheckResponse with status: SERVING
_ENCODER_RUNS = re.compile(r'^nv_inference_exec_count\{[^}]*model="text_encoder"[^}]*\} (\S+)$', re.MULTILINE)


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


def _call(address: str, method: str, request: bytes, *, timeout_s: float) -> bytes:
    with grpc.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        return bytes(channel.unary_unary(method)(request, timeout=timeout_s))


def is_triton_ready(address: str) -> bool:
    """Return True once all models are loaded and warm."""
    try:
        return _call(address, f"{_TRITON}/ServerReady", b"", timeout_s=_TIMEOUT_S) == _YES
    except grpc.RpcError:
        return False


def is_gateway_serving(address: str) -> bool:
    """Return True while the gateway says SERVING; without TLS."""
    try:
        return _call(address, _HEALTH, b"", timeout_s=_TIMEOUT_S) == _YES
    except grpc.RpcError:
        return False


def is_gateway_alive(address: str, *, timeout_s: float, tls: TlsFiles | None) -> bool:
    """Return True if the gateway answers at all, NOT_SERVING included."""
    if tls is not None:
        return is_answering(address, _HEALTH, tls, timeout_s=timeout_s)
    try:
        _call(address, _HEALTH, b"", timeout_s=timeout_s)
    except grpc.RpcError as error:
        return error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    return True


def make_canary_inputs() -> dict[str, tuple[bytes, ...]]:
    """Return a small picture and two labels, one row of the inputs of `classify`."""
    return {
        "image": (_make_png(32),),
        "fit": (b"center_crop",),
        "labels": CANARY_LABELS,
        "templates": (b"a photo of a {}.",),
    }


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


def run_canary(address: str, *, timeout_s: float = _CANARY_TIMEOUT_S) -> None:
    """Classify the picture on both routes through Triton alone.

    Raises:
        LaunchError: a route fails, or answers with something that is not a probability.
    """
    for model in _CANARY_MODELS:
        request = encode_infer_request(model, make_canary_inputs())
        try:
            outputs = decode_infer_response(_call(address, f"{_TRITON}/ModelInfer", request, timeout_s=timeout_s))
        except grpc.RpcError as error:
            how = "does not answer" if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED else "fails"
            raise LaunchError(f"Triton is up, but {model} {how}: {error.details()}") from error
        probability = struct.unpack(f"<{len(CANARY_LABELS)}f", outputs["probability"])
        if not all(0 <= value <= 1 for value in probability):
            raise LaunchError(f"Triton is up, but {model} answers {probability}; export the model again.")


def is_triton_alive(address: str, *, metrics_address: str, timeout_s: float) -> bool:
    """Return True if both routes answer, or if they wait because the text encoder works through a long list.

    Raises:
        LaunchError: saying what failed.
    """
    runs = _count_encoder_runs(metrics_address)
    try:
        run_canary(address, timeout_s=timeout_s)
    except LaunchError:
        if _count_encoder_runs(metrics_address) == runs:
            raise
    return True


def _count_encoder_runs(metrics_address: str) -> float:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{metrics_address}/metrics", timeout=_TIMEOUT_S) as response:
            page = response.read().decode("utf-8", errors="replace")
    except OSError:
        return 0
    return sum(float(count) for count in _ENCODER_RUNS.findall(page))
