"""`clipsr-batch classify` on a real Ray of this machine: every image once, whoever is killed on the way."""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from tests.object_store import object_store
from tests.serving.conftest import make_repository

from clipsr import Classification
from clipsr.local import Classifier

# Ray starts in 5 s on an idle machine, and in minutes on a busy one.
pytestmark = pytest.mark.timeout(900)
WAIT_S = 300
LABELS = ["cat", "dog", "horse"]
COMMAND = [sys.executable, "-c", "import sys; from clipsr_client_main import batch; sys.exit(batch())", "classify"]
CLUSTER = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
print(ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False).address_info["address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""
DATASET = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import pyarrow, ray.data
from clipsr import ClassifyOptions
from clipsr.batch import LocalModels, classify_dataset
address, source, repository, target = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
dataset = ray.data.from_arrow(pyarrow.parquet.read_table(source))
models = LocalModels(repository=repository, profile="cpu-onnx", threads=1)
done = classify_dataset(dataset, models, ClassifyOptions(labels=["cat", "dog", "horse"]), batch_size=7)
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(done.take_all()), target)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, int]]:
    """Address of a Ray with two cores, and the process that started it; a token in the environment lets callers in."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        with subprocess.Popen([sys.executable, "-c", CLUSTER], stdin=-1, stdout=-1, text=True) as process:
            yield process.stdout.readline().strip(), process.pid
            process.stdin.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures of several sizes, and two files that are none."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for number, size in enumerate(rng.integers(8, 100, (14, 2)).tolist()):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.{'jpg' if number % 3 else 'png'}")
    (folder / "03-text.png").write_bytes(b"text")
    (folder / "07-empty.jpg").touch()
    return folder


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """A Parquet file with 12 images, as far as a service that is none can tell."""
    path = tmp_path / "numbered.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"image %d" % number for number in range(12)]}), path)
    return path


def command(source: Path, output: Path, *more: object) -> list[str]:
    return [*COMMAND, str(source), "--labels", ",".join(LABELS), "--output", str(output), *map(str, more)]


def run(arguments: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=WAIT_S, check=False)
    return done.returncode, done.stdout, done.stderr


def rows_of(output: Path) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(output).to_pylist()


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def find_worker(root: int) -> int | None:
    """The actor of Ray that is below a process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    for pid in parents:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


@pytest.mark.parametrize("where", ["this machine", pytest.param("a cluster", marks=pytest.mark.slow)])
def test_each_image_has_its_row_which_is_what_the_process_alone_says(where, photos, repository, tmp_path, request):
    output = tmp_path / "out"
    options = ["--repository", repository, "--profile", "cpu-onnx", "--partition-size", 5, "--cores", 1]
    if where == "a cluster":
        options += ["--address", request.getfixturevalue("cluster")[0], "--workers", 2]
    code, said, errors = run(command(photos, output, *options))
    assert (code, said) == (1, f"16 images: 14 classified, 2 failed; {output}\n"), errors
    names = sorted(path.name for path in photos.iterdir())
    rows = rows_of(output)
    assert [row["path"] for row in rows] == names
    classifier = Classifier.load(repository, profile="cpu-onnx", threads=1)
    for row, alone in zip(rows, classifier.classify([photos / name for name in names], LABELS), strict=True):
        if not isinstance(alone, Classification):
            assert (row["status"], row["reason"], row["label"]) == (alone.code, alone.reason, None)
            continue
        assert (row["status"], row["label"], row["route"]) == ("OK", alone.predictions[0].label, alone.route)
        assert row["cosine"] == pytest.approx(alone.predictions[0].cosine, abs=1e-5)


@pytest.mark.slow
def test_from_a_bucket_into_a_bucket_whose_store_stops_in_the_middle(numbered, fake_service, tmp_path):
    """Ray of this machine, whose workers have the settings of the environment."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(answered: int, _: Any) -> None:
        if len(fake_service.streamed) == 2 and answered == 0:
            reached.set()
            go_on.wait(WAIT_S)

    fake_service.on_stream = hold
    with object_store() as store, pytest.MonkeyPatch.context() as environment:
        for name, value in store.environment.items():
            environment.setenv(name, value)
        source, output = f"{store.make_bucket('bucket')}/in/numbered.parquet", "s3://bucket/out"
        store.client.put_object(Bucket="bucket", Key="in/numbered.parquet", Body=numbered.read_bytes())
        begin = [*command(source, output, "--url", fake_service.url), "--partition-size", "3"]
        with subprocess.Popen(begin, stdout=-1, stderr=-1, text=True) as process:
            assert reached.wait(WAIT_S)
            process.kill()
            go_on.set()
            process.communicate(timeout=WAIT_S)
        code, said, errors = run(begin)
        assert (code, said) == (0, f"12 images: 12 classified; {output}\n"), errors
        assert "resuming after " in errors
        rows = pyarrow.parquet.read_table(output).to_pylist()
        assert [row["path"] for row in rows] == [f"numbered.parquet#{number}" for number in range(12)]
        assert [key for key in store.keys("bucket") if key.startswith("out/_")] == ["out/_run.json"]
        code, _, errors = run([*begin, "--top-k", "1"])
        assert code == 2
        assert "was begun with other labels or options" in errors
        fake_service.on_stream = lambda *_: store.stop()
        code, _, errors = run([*begin, "--restart"])
    assert code == 3
    assert "The object store of s3://bucket cannot be used: nothing answers at its endpoint" in errors
    assert errors.endswith("What is done stays done; the same command resumes.\n")


@pytest.mark.slow
def test_what_is_done_is_not_done_again(photos, repository, tmp_path, cluster):
    output = tmp_path / "out"
    options = ["--repository", repository, "--profile", "cpu-onnx", "--partition-size", 5, "--address", cluster[0]]
    begin = command(photos, output, *options, "--cores", 1)
    assert run(begin)[0] == 1
    whole, parts = rows_of(output), sorted(output.glob("part-*.parquet"))
    assert len(parts) == 4
    parts[2].unlink()
    before = {path: path.stat().st_ino for path in parts if path.exists()}
    code, said, errors = run(begin)
    assert (code, said) == (1, f"16 images: 14 classified, 2 failed; {output}\n")
    assert "clipsr-batch: resuming after 11 images that are done" in errors
    assert {path: path.stat().st_ino for path in before} == before
    assert rows_of(output) == whole
    (photos / "07-empty.jpg").write_bytes((photos / "00.png").read_bytes())
    (photos / "03-text.png").write_bytes((photos / "00.png").read_bytes())
    code, said, _ = run([*begin, "--retry-failed"])
    assert (code, said) == (0, f"16 images: 16 classified; {output}\n")
    assert {path for path in before if path.stat().st_ino == before[path]} == {parts[3]}
    code, _, errors = run([*begin, "--top-k", "1"])
    assert code == 2
    assert "was begun with other labels or options: choose another --output" in errors


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["the command", "its worker"])
def test_each_image_is_there_once_whoever_is_killed(victim, numbered, fake_service, tmp_path, cluster):
    output, reached, go_on = tmp_path / "out", threading.Event(), threading.Event()
    answered = 0

    def hold(_: int, context: Any) -> None:
        nonlocal answered
        answered += 1
        if answered == 8:
            reached.set()
            go_on.wait(WAIT_S)

    fake_service.on_stream = hold
    begin = command(numbered, output, "--url", fake_service.url, "--partition-size", 3, "--address", cluster[0])
    with subprocess.Popen(begin, stdout=-1, stderr=-1, text=True) as process:
        assert reached.wait(WAIT_S)
        done = [row["path"] for row in rows_of(output)]
        assert len(done) == 6
        if victim == "the command":
            process.kill()
        else:
            os.kill(wait_until(lambda: find_worker(cluster[1])), signal.SIGKILL)
        go_on.set()
        errors = process.communicate(timeout=WAIT_S)[1]
    if victim == "the command":
        code, said, errors = run(begin)
        assert (code, said) == (0, f"12 images: 12 classified; {output}\n"), errors
        assert "resuming after " in errors
    assert process.returncode == (-signal.SIGKILL if victim == "the command" else 0), errors
    rows = rows_of(output)
    assert [row["path"] for row in rows] == [f"numbered.parquet#{number}" for number in range(12)]
    assert {(row["status"], row["label"]) for row in rows} == {("OK", "cat")}
    asked = Counter(content for stream in fake_service.streamed for _, content in stream)
    assert [asked[b"image " + name.partition("#")[2].encode()] for name in done] == [1] * 6
    # Of a command that is killed the worker may finish what it is at.
    assert 2 in asked.values() or victim == "the command"


@pytest.mark.slow
def test_what_ends_a_run_is_said_in_a_sentence(numbered, tmp_path, cluster, fake_service):
    begin = command(numbered, tmp_path / "out", "--url", fake_service.url, "--address", cluster[0])
    code, _, errors = run([*begin, "--workers", "3"])
    assert code == 2
    assert "3 workers of 1 cores need more than the 2 of Ray." in errors
    fake_service.keys = {"key"}
    code, _, errors = run(begin)
    assert (code, errors.count("\n")) == (4, 1)
    assert errors.startswith(f"clipsr-batch: The service at {fake_service.url} does not let you in: No such key.")
    fake_service.keys = set()

    def fail(answered: int, context: Any) -> None:
        if len(fake_service.streamed) > 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "No more.")

    fake_service.on_stream = fail
    code, _, errors = run([*begin, "--partition-size", "3", "--retries", "0"])
    assert code == 3
    assert "No more." in errors
    assert errors.endswith("What is done stays done; the same command resumes.\n")
    assert len(list((tmp_path / "out").glob("part-*"))) == 1


@pytest.mark.slow
def test_a_dataset_gets_a_column(repository, tmp_path, cluster):
    contents = []
    for number in range(10):
        buffer = io.BytesIO()
        Image.new("RGB", (12 + number, 20), (20 * number, 9, 9)).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    contents[4] = b"text"
    source, target = tmp_path / "source.parquet", tmp_path / "target.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"number": range(10), "image": contents}), source)
    done = subprocess.run(
        [sys.executable, "-c", DATASET, cluster[0], source, repository, target], timeout=WAIT_S, check=False
    )
    assert done.returncode == 0
    rows = {row["number"]: row["outcome"] for row in rows_of(target)}
    assert rows.pop(4)["reason"] == "IMAGE_UNRECOGNIZED"
    assert len(rows) == 9
    for number, outcome in rows.items():
        assert (outcome["status"], outcome["input_height"], outcome["input_width"]) == ("OK", 20, 12 + number)
        assert len(outcome["predictions"]) == 3
