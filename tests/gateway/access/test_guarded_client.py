"""The Python client and its command against a gateway with mutual TLS, API keys and a rate."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from clipsr import AsyncClient, AuthenticationError, Client, RateLimitedError
from clipsr.cli import main
from clipsr_gateway import OperationsConfig, TlsConfig
from clipsr_gateway._access.keys import KeyLimits, add_key

LABELS = ["cat", "dog"]
RATE = 20.0  # images a second
BURST = 10


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with ca.pem, and certificates and keys of server and client."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for who, name in (("server", "localhost"), ("client", "team-a@example.org")):
        leaf = authority.issue_cert(name)
        leaf.private_key_pem.write_to_path(tmp_path / f"{who}.key")
        leaf.cert_chain_pems[0].write_to_path(tmp_path / f"{who}.pem")
    return tmp_path


@pytest.fixture
async def access(files: Path, start: Any) -> dict[str, Any]:
    """What a caller of a guarded gateway needs; `url` is where it listens."""
    limits = KeyLimits(items_per_second=RATE, burst=BURST)
    key = add_key(files / "keys.json", "team-a", limits=limits)
    tls = TlsConfig(certificate=files / "server.pem", key=files / "server.key", client_ca=files / "ca.pem")
    operations = OperationsConfig(api_keys=files / "keys.json", tls=tls)
    one = await start(listen="localhost:0", operations=operations)
    own = {"cert_file": files / "client.pem", "key_file": files / "client.key"}
    return {"url": f"localhost:{one.port}", "tls": files / "ca.pem", "api_key": key, **own}


async def test_who_shows_all_of_it_is_let_in(access):
    async with AsyncClient(**access) as client:
        await client.wait_for_ready(timeout_s=10)
        info = await client.model_info()
    assert info.limits.caller.items_per_second == RATE
    assert info.limits.caller.burst == BURST


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"api_key": None}, "UNAUTHENTICATED"),
        ({"api_key": "clipsr_wrong"}, "UNAUTHENTICATED"),
        ({"tls": True}, "UNAVAILABLE"),  # the public authorities do not know this one
    ],
    ids=["no key", "wrong key", "other authority"],
)
async def test_who_does_not_is_told_what_is_missing(access, png, backend, change, code):
    async with AsyncClient(**{**access, **change}) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.classify([png()], LABELS)
        assert caught.value.code == code
        with pytest.raises(AuthenticationError):
            _ = [outcome async for outcome in client.classify_stream([png()], LABELS)]
    assert backend.user_calls() == []


async def test_a_rate_is_kept_by_waiting(access, png):
    """More than the burst: calls wait as long as they are asked to, streams are slowed down; nothing fails."""
    images = [png(8 + index, 8) for index in range(BURST)]
    started_s = time.monotonic()
    async with AsyncClient(**access, timeout_s=20) as client:
        assert len(await client.classify(images, LABELS)) == BURST
        assert len(await client.classify(images, LABELS)) == BURST
        outcomes = [outcome async for outcome in client.classify_stream(images, LABELS)]
    assert sorted(index for index, _ in outcomes) == list(range(BURST))
    assert time.monotonic() - started_s > 2 * BURST / RATE * 0.9


async def test_without_retries_the_caller_decides(access, png):
    images = [png(8 + index, 8) for index in range(BURST)]
    async with AsyncClient(**access, retries=0) as client:
        await client.classify(images, LABELS)
        with pytest.raises(RateLimitedError) as caught:
            await client.classify(images, LABELS)
    assert caught.value.reason == "RATE_EXCEEDED"
    assert 0 < caught.value.retry_after_s <= BURST / RATE


async def test_the_other_twin(access, png):
    def ask() -> int:
        with Client(**access) as client:
            return len(list(client.classify_stream([png()], LABELS)))

    assert await asyncio.to_thread(ask) == 1


async def test_the_command(access, files, png, monkeypatch, capsys):
    images = files / "images"
    images.mkdir()
    for index in range(BURST * 2):
        (images / f"{index}.png").write_bytes(png(8 + index, 8))
    (files / "api-key").write_text(access["api_key"])
    where = ["--url", access["url"], "--ca", str(files / "ca.pem"), "--api-key-file", str(files / "api-key")]
    own = ["--cert", str(files / "client.pem"), "--key", str(files / "client.key")]
    output = files / "results.jsonl"
    words = ["classify", str(images), "--labels", "cat,dog", "--output", str(output), *where]
    assert await asyncio.to_thread(main, [*words, *own]) == 0
    assert len(output.read_text().splitlines()) == BURST * 2
    monkeypatch.setenv("CLIPSR_API_KEY", "clipsr_wrong")
    assert await asyncio.to_thread(main, ["info", *where[:4], *own]) == 4
    assert "clipsr_wrong" not in capsys.readouterr().err
