"""Libraries on an S3 server: the documented settings, every fault with its cause, several writers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tests.gateway.library import test_kills as kills
from tests.gateway.library_rows import SETTINGS, is_whole, original, row
from tests.object_store import ACCESS_KEY, ObjectStore, object_store

from clipsr_gateway import StorageUnavailableError
from clipsr_gateway._library.store.maintenance import Maintenance, MaintenanceConfig
from clipsr_gateway._library.store.records import Filter, Parts, content_hash
from clipsr_gateway._library.store.store import LibraryStore

# Each use of LanceDB in a new process loads 180 MB.
pytestmark = pytest.mark.timeout(300)

EVERYTHING = Parts(thumbnail=True, original=True, embedding=True)

# Of each of two gateways, and in common.
IMAGES, COMMON = 5_000, 1_000


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as running:
        running.make_bucket("libraries")
        yield running


@pytest.fixture(autouse=True)
def settings(server, monkeypatch) -> None:
    """What docs/library.md says to set, and nothing else."""
    for name in server.environment:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ALLOW_HTTP"):
        monkeypatch.setenv(name, server.environment[name])
    monkeypatch.setenv("AWS_ENDPOINT", server.endpoint)


@pytest.fixture
def uri(request) -> str:
    """A folder of this test's own."""
    return f"s3://libraries/{content_hash(request.node.name.encode())[:12]}"


@contextlib.asynccontextmanager
async def opened(uri: str) -> AsyncIterator[LibraryStore]:
    store = LibraryStore(uri, max_libraries=4)
    try:
        yield store
    finally:
        await store.close()


class Relay:
    """Stands between Lance and the server, in threads of its own, and can be cut.

    Attributes:
        port: where it listens.
        cut_after: bytes of requests after which it cuts itself; None never.
        requests: what was sent to the server.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target, self.port = (host, int(port)), 0
        self.cut_after: int | None = None
        self.requests: list[bytes] = []
        self._listener: socket.socket | None = None
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and refuse others."""
        with self._lock:
            ends, self._ends = [self._listener, *self._ends], []
            self._listener, self.cut_after = None, None
        for end in filter(None, ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes its thread; closing does not
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(self._target)
                with self._lock:
                    is_cut = self._listener is not listener
                    self._ends += [near, far]
                if is_cut:
                    near.close()
                    far.close()
                    return
                threading.Thread(target=self._copy, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._copy, args=(far, near, False), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                if is_request:
                    self.requests.append(data)
                    if self._is_spent(len(data)):
                        self.cut()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _is_spent(self, count: int) -> bool:
        with self._lock:
            if self.cut_after is None:
                return False
            self.cut_after -= count
            return self.cut_after <= 0


@pytest.fixture
def relay(server, monkeypatch) -> Iterator[Relay]:
    between = Relay(server.endpoint)
    between.open()
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{between.port}")
    yield between
    between.cut()


async def test_rows_come_back_from_the_bucket_that_the_settings_name(server, uri):
    async with opened(uri) as store:
        await store.create("pets", SETTINGS)
        assert await store.add("pets", row(1))
        assert await store.names() == ["pets"]
    assert any(key.startswith(uri.removeprefix("s3://libraries/")) for key in server.keys("libraries"))
    async with opened(uri) as again:
        (read,) = await (await again.open("pets")).fetch([row(1).sha256], EVERYTHING)
        assert is_whole(read)
        assert (await again.infos())[0].name == "pets"
        await again.drop("pets")
        assert await again.names() == []


@pytest.mark.parametrize(
    ("variable", "value", "bucket", "said"),
    [
        ("AWS_REGION", "us-east-1", "missing-bucket", "no such bucket"),
        ("AWS_ACCESS_KEY_ID", "another", "libraries", "credentials"),
        ("AWS_ALLOW_HTTP", "false", "libraries", "AWS_ALLOW_HTTP=true"),
    ],
)
async def test_what_an_operator_must_mend_is_said(monkeypatch, variable, value, bucket, said):
    assert value != ACCESS_KEY
    monkeypatch.setenv(variable, value)
    async with opened(f"s3://{bucket}/x") as store:
        with pytest.raises(StorageUnavailableError, match=said) as caught:
            await store.names()
    assert caught.value.reason == "LIBRARY_STORAGE_UNAVAILABLE"
    assert caught.value.is_lasting


async def test_a_server_that_dies_within_a_write_and_returns_loses_nothing(relay, uri):
    large = replace(row(2), original=original(2, size=3_000_000))
    async with opened(uri) as store:
        await store.create("pets", SETTINGS)
        assert await store.add("pets", row(1))
        relay.cut_after = 1_000_000
        with pytest.raises(StorageUnavailableError) as caught:
            await store.add("pets", large)
        assert relay.cut_after is None  # it was cut within the write
        assert not caught.value.is_lasting
        with pytest.raises(StorageUnavailableError, match="nothing answers"):
            await store.find("pets", row(1).sha256)
        relay.open()
        assert await store.add("pets", large)
        table = await store.open("pets")
        assert sorted(await table.hashes()) == sorted([row(1).sha256, large.sha256])
        (read,) = await table.fetch([large.sha256], EVERYTHING)
        assert read.original == large.original


async def test_an_index_is_read_once(relay, uri):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1_200, SETTINGS.embed_dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    async with opened(uri) as store:
        await store.create("pets", SETTINGS)
        table = await store.open("pets")
        await table.insert([replace(row(n), embedding=values, original=b"") for n, values in enumerate(vectors)])
        await Maintenance(MaintenanceConfig(scalar_index_rows=500, vector_index_rows=1_000)).tidy(table)
        reads: list[int] = []
        for _ in range(2):
            relay.requests.clear()
            (best,) = await table.find(vectors[7], top_k=1, where=Filter(), parts=Parts())
            assert best.record.sha256 == row(7).sha256
            reads.append(sum(b"_indices/" in sent for sent in relay.requests))
    assert reads[0] > 0
    assert reads[1] == 0


async def test_two_writers_of_one_bucket_add_every_image_once(uri):
    async with opened(uri) as one, opened(uri) as other:
        await one.create("pets", SETTINGS)
        numbers = range(40)
        added = await asyncio.gather(*(each.add("pets", row(number)) for number in numbers for each in (one, other)))
        assert sum(added) == len(numbers)
        hashes = await (await other.open("pets")).hashes()
        assert sorted(hashes) == sorted(row(number).sha256 for number in numbers)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_gateways_one_of_which_is_killed_add_every_image_once(repository, uri):
    """What its callers have no answer for they send to the gateway that is started in its place."""
    outcomes: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:

        def start() -> tuple[subprocess.Popen[str], str]:
            return stack.enter_context(kills.running_gateway(repository, uri))

        (process, address), (_, other) = start(), start()
        kills.create(address)

        def add_all(to: str, numbers: Iterable[int], kill_at: int = -1) -> None:
            left = set(numbers)

            def answered(count: int) -> None:
                if count == kill_at:
                    process.kill()

            while left:
                answers = kills.add(to, sorted(left), answered=answered)
                outcomes.update(str(answer.WhichOneof("outcome")) for answer in answers.values())
                left -= set(answers)
                if len(answers) >= kill_at > 0:
                    assert process.wait(kills.CALL_S) == -signal.SIGKILL
                    to, kill_at = start()[1], -1
                else:
                    assert answers, f"{len(left)} images are left, and none is answered"

        with ThreadPoolExecutor(2) as threads:
            adding = [
                threads.submit(add_all, address, range(IMAGES), IMAGES // 2),
                threads.submit(add_all, other, range(IMAGES - COMMON, 2 * IMAGES - COMMON)),
            ]
            for each in adding:
                each.result()
    rows = kills.read_rows(uri)  # each once
    assert sorted(rows) == list(range(2 * IMAGES - COMMON))
    for number, kept in rows.items():
        kills.check_whole(number, kept)
    assert set(outcomes) == {"added", "already_present"}
    assert outcomes.total() == 2 * IMAGES
    # Of images that were on disk when the gateway was killed, the callers hear later that they are there.
    assert len(rows) - 128 <= outcomes["added"] <= len(rows)
