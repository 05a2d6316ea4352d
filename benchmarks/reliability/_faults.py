"""Faults of the machine: processes that hang, and a disk without room."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import Any

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
)
from benchmarks.reliability._processes import best, judge_calls, judge_recovery
from benchmarks.reliability._service import Service
from benchmarks.reliability._verdict import Verdict
from clipsr.v1 import library_pb2, library_pb2_grpc, types_pb2

__all__ = ["fill", "judge_add", "measure_full_disk", "measure_hang"]

_LABELS = ["a cat", "a dog", "a boat", "a tree"]
_LIBRARY = "reliability"
_TIMEOUT_S = 5.0
_ADD_TIMEOUT_S = 30.0
_RECOVERY_S = 15.0
_PATIENCE_S = 300.0  # clipsr-serve's own, for a restarted process
# What is filled is filled for everybody on it: only a file system that was made for this.
_LARGEST_DISK_BYTES = 1 << 30


async def measure_hang(
    service: Service, target: Target, victim: str, *, within_s: float, documented: Mapping[str, str], callers: int
) -> list[Verdict]:
    """Stop a process by SIGSTOP under load: it lives, and answers nothing.

    Args:
        service: the service.
        target: its address.
        victim: "gateway", "triton", or the name of a model, whose process it is.
        within_s: how long it may take until the service answers as before.
        documented: status code by reason.
        callers: how many send images meanwhile.
    """
    request = make_request([make_image(32)], _LABELS)
    async with connect(target, connections=callers) as stubs:
        asks: list[Caller] = [
            lambda stub=stub: call(stub.Classify, request, target, timeout_s=_TIMEOUT_S) for stub in stubs
        ]
        expected = await _expect(asks[0])
        load = asyncio.create_task(keep_calling(asks, seconds=within_s + 10))
        await asyncio.sleep(3)
        began_s = time.monotonic()
        os.kill(_find(service, victim), signal.SIGSTOP)
        outcomes = await load
    return [
        judge_calls(f"SIGSTOP of {victim}", outcomes, timeout_s=_TIMEOUT_S, documented=documented),
        judge_recovery(outcomes, expected=expected, began_s=began_s, within_s=within_s),
    ]


def _find(service: Service, victim: str) -> int:
    tree = service.process_tree()
    return next(pid for name, pid in sorted(tree.items()) if name == victim or name.startswith(f"triton/{victim}_"))


async def measure_full_disk(
    service: Service, target: Target, *, documented: Mapping[str, str], callers: int, seconds: float
) -> list[Verdict]:
    """Fill the disk of the state folder, logs and libraries; kill Triton on it; make room again.

    Raises:
        SystemExit: the file system is larger than one that was made for this.
    """
    request = make_request([make_image(32)], _LABELS)
    async with connect(target, connections=callers) as stubs:
        asks: list[Caller] = [
            lambda stub=stub: call(stub.Classify, request, target, timeout_s=_TIMEOUT_S) for stub in stubs
        ]
        expected = await _expect(asks[0])
        before = await _add(target, 1)
        with fill(service.state_dir):
            filled = await keep_calling(asks, seconds=seconds)
            during = await _add(target, 2)
            load = asyncio.create_task(keep_calling(asks, seconds=_RECOVERY_S + 10))
            await asyncio.sleep(1)
            began_s = time.monotonic()
            os.kill(service.pids()["triton"], signal.SIGKILL)
            killed = await load
        await _expect(asks[0])
        after = await _add(target, 3)
    failed = [outcome for outcome in filled if not outcome.is_ok]
    return [
        Verdict(
            claim="no room on the disk of the state folder: images are classified as before",
            measured=f"{len(filled)} calls, {count_codes(failed) or 'none'} failed",
            holds=bool(filled) and not failed and all(best(outcome) == best(expected) for outcome in filled),
        ),
        judge_add(before, during, after, documented=documented),
        judge_recovery(killed, expected=expected, began_s=began_s, within_s=_RECOVERY_S),
        Verdict(
            claim="the launcher goes on",
            measured=f"pid {service.status().get('pid')}, phase {service.status().get('phase')}",
            holds=service.status().get("phase") == "ready",
        ),
    ]


async def _expect(ask: Caller) -> Outcome:
    """Wait for an answer, where a fault of before is not over yet."""
    if (outcome := await first_answer(ask, patience_s=_PATIENCE_S)) is None:
        raise SystemExit(f"the service gave no answer for {_PATIENCE_S:g} s")
    return outcome


@contextmanager
def fill(folder: Path) -> Iterator[None]:
    """Leave no room on the file system of a folder, until the block ends."""
    total = shutil.disk_usage(folder).total
    if total > _LARGEST_DISK_BYTES:
        raise SystemExit(
            f"{folder} is on a file system of {total >> 20:,} MiB; give the service a small one of its own, such as "
            f"`mount -t tmpfs -o size=256m tmpfs {folder}` before `clipsr-serve up`"
        )
    filler = folder / ".filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                _write_until_full(file, bytes(size))
        yield
    finally:
        filler.unlink(missing_ok=True)


def _write_until_full(file: RawIOBase, block: bytes) -> None:
    with suppress(OSError):
        while True:
            file.write(block)


async def _add(target: Target, number: int) -> Outcome:
    """Add an image to a library of the measurement's own."""
    channel = target.access.open_channel(target.url)
    stub = library_pb2_grpc.LibraryServiceStub(channel)
    messages = [
        library_pb2.AddImagesRequest(options=library_pb2.AddImagesOptions(library=_LIBRARY)),
        library_pb2.AddImagesRequest(
            image=library_pb2.NewImage(image=types_pb2.Image(content=make_image(64, seed=number)))
        ),
    ]

    async def add(_: None, **options: Any) -> Any:
        async for answer in stub.AddImages(iter(messages), **options):
            return answer

    await call(stub.CreateLibrary, library_pb2.CreateLibraryRequest(name=_LIBRARY), target, timeout_s=_ADD_TIMEOUT_S)
    outcome = await call(add, None, target, timeout_s=_ADD_TIMEOUT_S)
    await channel.close()
    return outcome


def judge_add(before: Outcome, during: Outcome, after: Outcome, *, documented: Mapping[str, str]) -> Verdict:
    """Look at images added before, during and after a disk was full."""
    outcomes = {"before": before, "meanwhile": during, "afterwards": after}
    is_added = {name: outcome.is_ok and not outcome.answer.HasField("error") for name, outcome in outcomes.items()}
    said = ", ".join(
        f"{name} {'added' if is_added[name] else f'{outcome.code}/{outcome.reason}'}"
        for name, outcome in outcomes.items()
    )
    return Verdict(
        claim="an image is added to a library, or refused as documented; it is added once there is room",
        measured=said,
        holds=is_added["before"]
        and is_added["afterwards"]
        and (is_added["meanwhile"] or documented.get(during.reason) == during.code != "INTERNAL"),
    )
