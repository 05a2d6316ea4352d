"""The reliability harness on made-up outcomes: each of its checks passes what is good and trips on what is not."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from benchmarks.load.images import make_image
from benchmarks.load.loops import arrivals
from benchmarks.reliability import _faults as faults
from benchmarks.reliability._faults import fill, judge_add
from benchmarks.reliability._fuzz import FORMATS, messages, mutate, mutated_images
from benchmarks.reliability._hostile import judge_beside, judge_ready, make_scan_bomb, send_chunks
from benchmarks.reliability._load import Outcome, keep_calling, p99_ms, send_at_rate
from benchmarks.reliability._overload import judge_overload
from benchmarks.reliability._processes import judge_drain, judge_kill, judge_soak
from benchmarks.reliability._verdict import Verdict, documented_reasons, render
from hypothesis import given, settings
from PIL import Image

from clipsr.v1 import classifier_pb2, embedding_pb2, library_pb2, upscaler_pb2


def outcome(
    code: str = "OK",
    *,
    reason: str = "",
    retry_s: float | None = None,
    latency_s: float = 0.1,
    began_s: float = 0.0,
    request_id: str = "1",
    message: str = "",
) -> Outcome:
    answer = None
    if code == "OK":
        answer = classifier_pb2.ClassifyResponse()
        answer.results.add().classification.predictions.add(label="cat", cosine=0.25)
    return Outcome(
        request_id=request_id,
        code=code,
        reason=reason,
        message=message,
        retry_s=retry_s,
        began_s=began_s,
        latency_s=latency_s,
        answer=answer,
    )


def refused(**options: object) -> Outcome:
    return outcome("RESOURCE_EXHAUSTED", reason="OVERLOADED", **{"retry_s": 1.0, "latency_s": 0.001, **options})


def holds(verdicts: list[Verdict]) -> list[bool]:
    return [verdict.holds for verdict in verdicts]


def flood(*, admitted: int = 95, latency_s: float = 0.1, odd: Outcome | None = None, refused_s: float = 0.001) -> list:
    rest = [odd] if odd else []
    return [outcome(latency_s=latency_s)] * admitted + [refused(latency_s=refused_s)] * 300 + rest


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (flood(), [True, True, True, True]),
        (flood(latency_s=0.3), [False, True, True, True]),
        (flood(odd=outcome("UNAVAILABLE", latency_s=0.0)), [True, False, True, True]),
        (flood(odd=refused(retry_s=None)), [True, False, True, True]),
        (flood(refused_s=0.06), [True, True, False, True]),
        (flood(admitted=80), [True, True, True, False]),
        ([outcome()] * 95, [True, False, True, True]),
    ],
    ids=["good", "slow", "wrong code", "no delay", "slow refusal", "little done", "nothing refused"],
)
def test_overload(outcomes, expected):
    assert holds(judge_overload(outcomes, capacity=100, unloaded_ms=120, seconds=1, factor=4)) == expected


DOCUMENTED = {"BACKEND_UNAVAILABLE": "UNAVAILABLE", "INTERNAL": "INTERNAL"}
AWAY = outcome("UNAVAILABLE", reason="BACKEND_UNAVAILABLE", began_s=10.5, latency_s=0.002)


@pytest.mark.parametrize(
    ("during", "after", "expected"),
    [
        ([AWAY], outcome(began_s=14), [True, True, True]),
        ([outcome("UNAVAILABLE", began_s=10.5)], outcome(began_s=14), [True, True, True]),
        ([AWAY, outcome("UNKNOWN", began_s=10.6)], outcome(began_s=14), [False, True, True]),
        ([AWAY, outcome("UNAVAILABLE", reason="NEW", began_s=10.6)], outcome(began_s=14), [False, True, True]),
        ([AWAY, outcome("DEADLINE_EXCEEDED", began_s=10, latency_s=9)], outcome(began_s=30), [False, True, True]),
        ([outcome("UNAVAILABLE", began_s=30)], outcome(began_s=31), [True, False, True]),
        ([AWAY], outcome("UNAVAILABLE", began_s=14), [True, False, True]),
        ([outcome("UNAVAILABLE", began_s=10.5, latency_s=4)], outcome(began_s=15), [True, True, False]),
        ([outcome(began_s=10.5)], outcome(began_s=14), [False, True, True]),
    ],
    ids=["good", "broken", "odd code", "odd reason", "late", "slow recovery", "none", "a timeout", "nothing happened"],
)
def test_kill(during, after, expected):
    outcomes = [outcome(began_s=5), *during, after]
    verdicts = judge_kill(
        outcomes, expected=outcome(), victim="triton", killed_s=10, timeout_s=5, documented=DOCUMENTED
    )
    assert holds(verdicts) == expected


@pytest.mark.parametrize(
    ("alone", "beside", "expected"),
    [
        ([outcome()], [outcome(latency_s=0.29)], True),
        ([outcome()], [outcome(latency_s=0.31)], False),
        ([outcome()], [outcome(), refused()], False),
        ([outcome()], [], False),
    ],
    ids=["good", "slow", "refused", "no call came back"],
)
def test_beside_another_caller(alone, beside, expected):
    assert judge_beside("scan bombs", alone, beside, {"DEADLINE_EXCEEDED/": 9}).holds == expected


def test_ready_after_an_attack():
    assert judge_ready(outcome(began_s=14.8), ended_s=10).holds
    assert not judge_ready(outcome(began_s=15), ended_s=10).holds
    assert not judge_ready(None, ended_s=10).holds


def test_a_scan_bomb_is_an_image_that_is_small_to_send():
    content = make_scan_bomb(64, 300)
    assert len(content) < 10_000
    assert content.count(b"\xff\xda") >= 300
    with Image.open(io.BytesIO(content)) as image:
        assert image.convert("RGB").getpixel((63, 63)) == (0, 0, 0)


@pytest.mark.parametrize(("answer", "expected"), [(b"HTTP/1.1 400 Bad\r\n\r\n", "HTTP/1.1 400 Bad"), (b"", "closed")])
async def test_a_flood_comes_in_chunks_of_one_byte_and_says_how_it_ended(answer, expected):
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answer and not received.endswith(b"\r\n0\r\n\r\n"):
            received.extend(await reader.read(1 << 20))
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        assert (await send_chunks(f"{host}:{port}", chunks=5000)).startswith(expected)
    assert received.count(b"1\r\nA\r\n") == (5000 if answer else 0)
    assert await send_chunks(f"{host}:{port}", chunks=5000) == "closed"


def added(error: int = 0) -> Outcome:
    answer = library_pb2.AddImagesResponse()
    if error:
        answer.error.code = error
    else:
        answer.added.SetInParent()
    return replace(outcome(), answer=answer)


FULL = outcome("RESOURCE_EXHAUSTED", reason="LIBRARY_STORAGE_FULL")


@pytest.mark.parametrize(
    ("during", "after", "expected"),
    [
        (FULL, added(), True),
        (added(), added(), True),
        (outcome("INTERNAL", reason="INTERNAL"), added(), False),
        (outcome("UNKNOWN"), added(), False),
        (added(13), added(), False),
        (FULL, FULL, False),
    ],
    ids=["refused", "there was room", "INTERNAL", "undocumented", "of the image", "never again"],
)
def test_adding_to_a_full_disk(during, after, expected):
    documented = DOCUMENTED | {"LIBRARY_STORAGE_FULL": "RESOURCE_EXHAUSTED"}
    assert judge_add(added(), during, after, documented=documented).holds == expected


def test_only_a_small_disk_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(faults.shutil, "disk_usage", lambda _: SimpleNamespace(total=2 << 30))
    with pytest.raises(SystemExit, match="2,048 MiB; give the service a small one"), fill(tmp_path):
        pass
    monkeypatch.setattr(faults.shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 20))
    monkeypatch.setattr(faults, "_write_until_full", lambda file, block: file.write(block))
    with fill(tmp_path):
        assert (tmp_path / ".filler").stat().st_size == (1 << 20) + (1 << 12) + 1
    assert list(tmp_path.iterdir()) == []


def line(request_id: str, code: str = "OK", reason: str = "") -> dict[str, object]:
    return {"event": "call", "request_id": request_id, "code": code, "reason": reason}


STOPPED = {"event": "stopped", "drained": True}


@pytest.mark.parametrize(
    ("outcomes", "log", "expected"),
    [
        ([outcome()], [line("1"), STOPPED], True),
        ([outcome(), outcome("UNAVAILABLE", request_id="2")], [line("1"), line("2"), STOPPED], False),
        (
            [outcome(), outcome("UNAVAILABLE", request_id="2")],
            [line("1"), line("2", "UNAVAILABLE", "SHUTTING_DOWN"), STOPPED],
            True,
        ),
        (
            [outcome(), outcome("UNAVAILABLE", request_id="2", message="failed to connect")],
            [line("1"), STOPPED],
            True,
        ),
        ([outcome(), outcome("UNAVAILABLE", request_id="2", message="Socket closed")], [line("1"), STOPPED], False),
        ([outcome()], [line("1"), {"event": "stopped", "drained": False}], False),
    ],
    ids=["good", "lost", "refused", "never arrived", "unknown", "cut off"],
)
def test_drain(outcomes, log, expected):
    assert holds(judge_drain(outcomes, log)) == [expected]


@pytest.mark.parametrize(
    ("last", "expected"),
    [({"gateway": 104}, True), ({"gateway": 106}, False), ({"gateway": 50}, True), ({"gateway": 104, "new": 1}, False)],
)
def test_soak(last, expected):
    samples = [{"gateway": 60 + number} for number in range(40)] + [{"gateway": 100}] * 50 + [last] * 10
    assert holds(judge_soak(samples, codes={"OK": 100}, requests=100)) == [expected]


def failing_every_other() -> tuple[Callable[[], Awaitable[Outcome]], list[Outcome]]:
    """A caller whose every other call fails, and the outcomes that it had."""
    had: list[Outcome] = []

    async def caller() -> Outcome:
        had.append(refused() if len(had) % 2 else outcome())
        return had[-1]

    return caller, had


async def test_every_outcome_of_a_load_is_kept():
    caller, had = failing_every_other()
    assert await keep_calling([caller], seconds=4, clock=lambda: float(len(had))) == had
    assert [one.code for one in had] == ["OK", "RESOURCE_EXHAUSTED"] * 2
    caller, had = failing_every_other()
    assert await send_at_rate([caller, caller], rate=200, seconds=0.2) == had
    assert len(had) == len(list(arrivals(200, 0.2, seed=0))) > 10


def test_damaged_images_are_damaged_and_repeat():
    images = list(mutated_images(200))
    assert images == list(mutated_images(200))
    assert len(set(images)) > 190
    readable = 0
    for content in images:
        try:
            Image.open(io.BytesIO(content), formats=FORMATS).load()
            readable += 1
        except Exception:  # whatever damaged bytes provoke
            pass
    assert 5 < readable < 150


def test_mutation_takes_any_bytes():
    for content in (b"", b"x", make_image(8)):
        for seed in range(50):
            mutate(content, random.Random(seed))


@pytest.mark.parametrize(
    "name", ["ClassifyRequest", "ClassifyStreamRequest", "EmbedTextsRequest", "UpscaleRequest", "GetModelInfoRequest"]
)
def test_requests_of_every_shape_are_messages(name):
    files = (classifier_pb2, embedding_pb2, upscaler_pb2)
    descriptor = next(file.DESCRIPTOR.message_types_by_name[name] for file in files
                      if name in file.DESCRIPTOR.message_types_by_name)  # fmt: skip

    @settings(max_examples=30)
    @given(messages(descriptor))
    def check(message):
        assert message.FromString(message.SerializeToString()).DESCRIPTOR.name == name

    check()


def test_the_table_and_the_percentile():
    assert p99_ms([]) == 0
    assert p99_ms([0.001 * number for number in range(1, 101)]) == pytest.approx(99)
    assert "| it runs | yes, it does | yes |" in render([Verdict(claim="it runs", measured="yes, it does", holds=True)])
    assert "| **no** |" in render([Verdict(claim="it runs", measured="no", holds=False)])


def test_the_documented_reasons_are_read_from_the_page(repo_root):
    documented = documented_reasons(repo_root / "docs" / "errors.md")
    assert documented["IMAGE_TRUNCATED"] == "INVALID_ARGUMENT"
    assert documented["OVERLOADED"] == "RESOURCE_EXHAUSTED"
    assert documented["API_KEY_INVALID"] == "UNAUTHENTICATED"
