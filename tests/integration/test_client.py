"""The Python client and its bulk command against the running service."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from clipsr import AsyncClient, Classification, Client, FailedImage
from tests.integration.conftest import running
from tests.tolerances import COSINE
from tests.waiting import wait_until

LABELS = ["cat", "dog", "horse", "bus"]


@pytest.fixture(scope="module")
def samples(repo_root) -> list[Path]:
    return sorted((repo_root / "samples").glob("*.png"))


def test_a_stream_says_what_classify_says(client, samples):
    images = [samples[index % len(samples)] for index in range(150)]
    expected = client.classify(samples, LABELS)
    outcomes = dict(client.classify_stream(iter(images), LABELS))
    assert sorted(outcomes) == list(range(150))
    for index, outcome in outcomes.items():
        alone = expected[index % len(samples)]
        assert outcome.model_digest == alone.model_digest
        assert {p.label: p.cosine for p in outcome.predictions} == pytest.approx(
            {p.label: p.cosine for p in alone.predictions}, abs=COSINE
        )


def test_labels_and_texts_that_are_cut_are_warned_of(client, samples):
    long = "a photo of a cat and a dog with an apple in a bus on the road " * 3
    for labels, fields in ((["cat", "dog"], []), (["cat", long], ["options.label_space.labels[1]"])):
        for _ in range(2):  # known the second time, to the gateway and to Triton
            [single] = client.classify(samples[:1], labels)
            streamed = dict(client.classify_stream(samples[:9], labels))
            for outcome in (single, *streamed.values()):
                assert [warning.field for warning in outcome.warnings] == fields
    [known, cut] = client.embed_texts(["cat", long])
    assert known.warnings == cut.warnings
    assert [(warning.reason, warning.field) for warning in cut.warnings] == [("TEXT_CUT", "texts[1]")]


def test_a_heic_and_an_avif_of_a_phone_are_classified_and_upscaled(client, samples):
    """With the extra `heif`, as the environments of make have it."""
    pillow_heif.register_heif_opener()
    with Image.open(samples[0]) as image:
        for kind in ("HEIF", "AVIF"):
            buffer = io.BytesIO()
            image.convert("RGB").save(
                buffer, kind, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
            )
            [outcome] = client.classify([buffer.getvalue()], LABELS)
            assert isinstance(outcome, Classification), outcome
            assert outcome.input_hw == image.size  # it lies on its side
            assert client.upscale(buffer.getvalue(), scale=1).input_hw == outcome.input_hw


def test_the_asynchronous_twin_says_the_same(service, client, samples):
    async def run() -> dict[int, Classification | FailedImage]:
        async with AsyncClient(service.url, timeout_s=60) as twin:
            await twin.wait_for_ready()
            return {index: outcome async for index, outcome in twin.classify_stream(samples, LABELS)}

    best = {index: outcome.predictions[0].label for index, outcome in client.classify_stream(samples, LABELS)}
    assert {index: outcome.predictions[0].label for index, outcome in asyncio.run(run()).items()} == best


def test_a_bad_image_of_a_stream_fails_alone(client, samples, tmp_path):
    outcomes = dict(client.classify_stream([samples[0], b"no image", tmp_path / "gone.png", b""], LABELS))
    assert isinstance(outcomes[0], Classification)
    assert [outcomes[index].reason for index in (1, 2, 3)] == ["IMAGE_UNRECOGNIZED", "", "IMAGE_EMPTY"]


def test_embeddings_give_the_cosines_of_classify(client, samples):
    templates = ["a photo of a {}."]
    [result] = client.classify(samples[:1], LABELS, templates=templates, top_k=0, return_embedding=True)
    [image] = client.embed_images(samples[:1])
    texts = client.embed_texts(LABELS, templates=templates)
    assert image.values == pytest.approx(result.embedding, abs=1e-3)
    for label, text in zip(LABELS, texts, strict=True):
        cosine = sum(a * b for a, b in zip(image.values, text.values, strict=True))
        expected = next(p.cosine for p in result.predictions if p.label == label)
        assert cosine == pytest.approx(expected, abs=COSINE)
    assert image.model_digest == texts[0].model_digest == result.model_digest


def test_thresholds_and_what_the_encoder_saw(client, samples):
    [low] = client.classify(samples[:1], LABELS, min_cosine=-1.0, return_encoder_input=True)
    [high] = client.classify(samples[:1], LABELS, min_cosine=0.99)
    assert (low.none_of_these, high.none_of_these) == (False, True)
    assert low.encoder_input.startswith(b"\x89PNG")


def bulk(service, folder: Path, output: Path) -> list[str]:
    arguments = ["classify", str(folder), "--labels", ",".join(LABELS), "--top-k", "1", "--output", str(output)]
    return [str(service.bin / "clipsr-client"), *arguments, "--url", service.url]


def spread(folder: Path, samples: list[Path], count: int) -> list[str]:
    """Write so many copies of the samples, and one file that is no image."""
    contents = [path.read_bytes() for path in samples]
    for index in range(count - 1):
        path = folder / f"{index // 1_000}" / f"{index:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[index % len(contents)])
    (folder / "bad.png").write_bytes(b"no image")
    return sorted(str(path) for path in folder.rglob("*.png"))


def count_done(output: Path, scratch: Path) -> int:
    """Images that a running command has done: its journal is locked, so a copy is read; 0 where that is torn."""
    scratch.mkdir(exist_ok=True)
    for ending in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{output}.journal{ending}", scratch / f"journal{ending}")
    with contextlib.closing(sqlite3.connect(scratch / "journal")) as database:
        try:
            return database.execute("SELECT count(*) FROM images").fetchone()[0]
        except sqlite3.DatabaseError:
            return 0


def kill_at_random(service, folder: Path, output: Path, *, count: int) -> None:
    """Start the command three times and kill it with SIGKILL after a random number of images."""
    for stop in sorted(random.sample(range(1, count * 4 // 5), 3)):
        process = subprocess.Popen(bulk(service, folder, output), stderr=subprocess.DEVNULL)
        scratch = output.parent / "scratch"
        wait_until(lambda: count_done(output, scratch) >= stop or process.poll() is not None, 600)  # noqa: B023 - waits here
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()


def check_bulk(service, samples: list[Path], tmp_path: Path, *, count: int) -> None:
    output = tmp_path / "results.csv"
    paths = spread(tmp_path / "images", samples, count)
    kill_at_random(service, tmp_path / "images", output, count=count)
    done = subprocess.run(bulk(service, tmp_path / "images", output), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == paths
    assert Counter(row["status"] for row in rows) == {"OK": count - 1, "INVALID_ARGUMENT": 1}
    with Client(service.url) as client:
        expected = [result.predictions[0].label for result in client.classify(samples, LABELS, top_k=1)]
    for row in rows:
        if row["status"] == "OK":
            assert row["label"] == expected[int(Path(row["path"]).stem) % len(samples)]
    assert output.with_name("results.csv.journal").exists()  # for --retry-failed


def test_a_bulk_run_killed_three_times_has_each_image_once(service, samples, tmp_path):
    check_bulk(service, samples, tmp_path, count=300)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_bulk_run_of_5000_images_killed_three_times_has_each_image_once(service, samples, tmp_path):
    check_bulk(service, samples, tmp_path, count=5_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["gateway", "triton"])
def test_a_bulk_run_outlives_a_part_of_the_service(serve_bin, repo_root, samples, tmp_path, victim):
    """While a killed process comes back, the run waits; then it goes on, and no image is lost or done twice."""
    with running(serve_bin, repo_root / "model_repository", tmp_path / "state") as own:
        output = tmp_path / "results.csv"
        paths = spread(tmp_path / "images", samples, 1_500)
        # Longer than the 15 s within which docs/deployment.md promises the service back.
        process = subprocess.Popen([*bulk(own, tmp_path / "images", output), "--timeout", "60", "--retries", "20"])
        wait_until(lambda: count_done(output, tmp_path / "scratch") >= 200 or process.poll() is not None, 600)
        assert process.poll() is None
        children = json.loads((own.state_dir / "state.json").read_text())["children"]
        os.kill(next(child["pid"] for child in children if child["name"] == victim), signal.SIGKILL)
        assert process.wait(600) == 1
        with output.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert sorted(row["path"] for row in rows) == paths
        assert Counter(row["status"] for row in rows) == {"OK": 1_499, "INVALID_ARGUMENT": 1}


def test_json_lines_carry_embeddings(service, samples, tmp_path):
    output = tmp_path / "results.jsonl"
    done = service.cli(
        "classify", samples[0], "--labels", "cat,dog", "--output", output, "--embeddings", "--min-cosine", "0.99"
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text("utf-8"))
    assert sum(value * value for value in record["embedding"]) == pytest.approx(1, abs=1e-3)
    assert record["none_of_these"] is True
