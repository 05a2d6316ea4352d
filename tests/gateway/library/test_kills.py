"""`kill -9` while images are added: of the gateway at ten random moments, and of the command that adds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.gateway.conftest import embedding_of
from tests.gateway.library.test_service import new_image, picture

from clipsr.v1 import library_pb2, library_pb2_grpc
from clipsr_gateway._library.store.records import Parts, Record, content_hash
from clipsr_gateway._library.store.store import LibraryStore

# Of the moments; another one finds other moments.
SEED = 7
KILLS = 10
CLIENT_KILLS = 3
FILES = 2_000  # so many that none of the killed commands comes near the end, though the test may be late
CALL_S = 120.0

EVERYTHING = Parts(thumbnail=True, original=True, embedding=True)
CLIENT = [sys.executable, "-c", "import sys; from clipsr.cli import main; sys.exit(main())"]

# Eleven gateways, each of which loads 180 MB.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When something is killed.

    Attributes:
        answers: so many images are acknowledged before.
        delay_s: and so long after that.
    """

    answers: int
    delay_s: float


def draw_moments(count: int) -> list[Moment]:
    """From before the first answer to somewhere within a later commit; a commit has up to 64 images."""
    draw = random.Random(SEED)
    return [Moment(answers=draw.randrange(150), delay_s=draw.uniform(0, 0.15)) for _ in range(count)]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "libraries")


@contextmanager
def running_gateway(repository: Path, uri: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and its address; killed at the end, if it was not before."""
    command = [sys.executable, "-m", "tests.gateway.library_gateway", str(repository), uri, *options]
    folder = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, f"the gateway ended with {process.wait()}"
            yield process, f"127.0.0.1:{port}"
        finally:
            process.kill()


def add(
    address: str, numbers: Iterable[int], *, answered: Callable[[int], None] = lambda _: None
) -> dict[int, library_pb2.AddImagesResponse]:
    """Adds numbered images over one stream, until that ends or breaks; answers by number."""

    def messages() -> Iterator[library_pb2.AddImagesRequest]:
        yield library_pb2.AddImagesRequest(options=library_pb2.AddImagesOptions(library="pets"))
        for number in numbers:
            fields = {"source": f"{number}.png", "tags": [f"t{number % 7}"], "metadata": {"number": str(number)}}
            yield library_pb2.AddImagesRequest(image=new_image(number, **fields))

    answers: dict[int, library_pb2.AddImagesResponse] = {}
    with grpc.insecure_channel(address) as channel:
        stub = library_pb2_grpc.LibraryServiceStub(channel)
        answered(0)
        with contextlib.suppress(grpc.RpcError):  # what is missing then, the caller finds
            for answer in stub.AddImages(messages(), timeout=CALL_S):
                answers[answer.index] = answer
                answered(len(answers))
    return answers


def add_until_killed(
    process: subprocess.Popen[str], address: str, moment: Moment, *, start: int
) -> tuple[set[int], set[int]]:
    """Adds images from a number on, and kills the gateway; which images it was sent, and which it acknowledged."""
    offered: set[int] = set()

    def numbers() -> Iterator[int]:
        number = start
        while process.poll() is None:
            offered.add(number)
            yield number
            number += 1

    def kill_in_time(count: int) -> None:
        if count == moment.answers:
            threading.Timer(moment.delay_s, process.kill).start()

    answers = add(address, numbers(), answered=kill_in_time)
    assert process.wait(timeout=CALL_S) == -9
    assert all(answer.HasField("added") for answer in answers.values())
    return offered, set(answers)


def read_rows(uri: str) -> dict[int, Record]:
    """All rows by the number of their image, as a process that opens the table now sees them."""

    async def read() -> list[Record]:
        store = LibraryStore(uri, max_libraries=4)
        table = await store.open("pets")
        hashes = await table.hashes()
        assert len(hashes) == len(set(hashes)) == await table.count()
        rows = await table.fetch(hashes, EVERYTHING)
        await store.close()
        return rows

    return {int(row.metadata["number"]): row for row in asyncio.run(read())}


def check_rows(rows: dict[int, Record], known: dict[int, Record]) -> None:
    """Rows that were read before are as they were, and every column of the others is that of their image."""
    for number, row in rows.items():
        if number in known:
            assert replace(row, embedding=None) == replace(known[number], embedding=None)
            np.testing.assert_array_equal(row.embedding, known[number].embedding)
        else:
            check_whole(number, row)


def check_whole(number: int, row: Record) -> None:
    """Every column of a row is that of its image."""
    content = picture(number)
    assert (row.sha256, row.original, row.has_original) == (content_hash(content), content, True)
    assert (row.source, row.tags, row.metadata) == (f"{number}.png", (f"t{number % 7}",), {"number": str(number)})
    assert (row.size_hw, row.size_bytes, row.media_type) == ((8, 8), len(content), "image/png")
    assert (row.fit, row.route, row.is_route_forced) == ("", "upscaled", False)
    assert abs(row.add_time_us / 1e6 - time.time()) < 3600
    assert row.model_digest == "sha256:" + "ab" * 32
    assert row.embedding is not None
    assert np.linalg.norm(row.embedding) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(row.embedding, embedding_of(content))
    with Image.open(io.BytesIO(row.thumbnail)) as thumbnail, Image.open(io.BytesIO(content)) as sent:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (8, 8))
        assert thumbnail.convert("RGB").tobytes() == sent.tobytes()


@pytest.mark.slow
def test_a_gateway_that_is_killed_keeps_what_it_acknowledged(repository, uri):
    rows: dict[int, Record] = {}
    offered: set[int] = set()
    acknowledged: set[int] = set()
    for kill, moment in enumerate([*draw_moments(KILLS), None]):
        told = f"seed {SEED}, kill {kill}, {moment}"
        with running_gateway(repository, uri, "--tidy-often") as (process, address):
            if not kill:
                create(address)
            again = {number: answer.WhichOneof("outcome") for number, answer in add(address, sorted(offered)).items()}
            assert set(again) == offered, told
            assert set(again.values()) <= {"added", "already_present"}, told
            assert acknowledged <= {number for number in again if again[number] == "already_present"}, told
            complete = read_rows(uri)
            assert set(complete) == set(rows) | offered, told
            check_rows(complete, rows)
            if moment is None:
                break
            offered, acknowledged = add_until_killed(process, address, moment, start=len(complete))
        rows = read_rows(uri)
        assert set(complete) | acknowledged <= set(rows) <= set(complete) | offered, told
        check_rows(rows, complete)
    assert sorted(complete) == list(range(len(complete)))
    assert len(complete) > 50 * KILLS  # it was killed at work


def create(address: str) -> None:
    """An empty library."""
    with grpc.insecure_channel(address) as channel:
        stub = library_pb2_grpc.LibraryServiceStub(channel)
        stub.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"), timeout=CALL_S)


def test_the_command_that_adds_is_killed_and_repeated(repository, uri, tmp_path):
    folder, results = tmp_path / "photos", tmp_path / "results.jsonl"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number}.png").write_bytes(picture(number))
    with running_gateway(repository, uri, "--tidy-often") as (_, address):
        create(address)
        command = [*CLIENT, "library", "add", str(folder), "--library", "pets", "--url", address]
        acknowledged: set[str] = set()
        for kill, moment in enumerate(draw_moments(CLIENT_KILLS)):
            told = f"seed {SEED}, kill {kill}, {moment}"
            with subprocess.Popen(
                [*command, "--results", str(results)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                wait_for_added(results, moment.answers, process)
                time.sleep(moment.delay_s)
                process.kill()
            assert process.returncode == -9, told
            acknowledged |= {line["sha256"] for line in read_results(results)}
            results.unlink()
            assert acknowledged <= list_hashes(address), told
        assert 0 < len(acknowledged) < FILES  # it was killed at work
        done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_S, check=False)
        assert done.returncode == 0, done.stderr
        assert f"{FILES:,} images: " in done.stdout
        already = int(done.stdout.split(" there already")[0].rpartition(" ")[2].replace(",", ""))
        assert len(acknowledged) <= already < FILES
        assert list_hashes(address) == {content_hash(picture(number)) for number in range(FILES)}


def wait_for_added(results: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until the command has written that so many images are added."""
    while not results.exists() or sum(line["status"] == "ADDED" for line in read_results(results)) < count:
        assert process.poll() is None, "nothing was left to add"
        time.sleep(0.005)


def read_results(path: Path) -> list[dict[str, str]]:
    """The lines of --results; the last one may be half written."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def list_hashes(address: str) -> set[str]:
    """The names of all images, as the service lists them."""
    with grpc.insecure_channel(address) as channel:
        stub = library_pb2_grpc.LibraryServiceStub(channel)
        found: set[str] = set()
        request = library_pb2.ListImagesRequest(library="pets", page_size=1000)
        while True:
            page = stub.ListImages(request, timeout=CALL_S)
            found |= {image.sha256 for image in page.images}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token
