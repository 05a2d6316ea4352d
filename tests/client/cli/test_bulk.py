"""`clipsr-client classify --output`: nothing is lost and nothing done twice, whatever interrupts it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet
import pytest
from tests.client.terminal import run_in_terminal

from clipsr.cli._classify.journal import Journal, JournalError

COMMAND = [sys.executable, "-c", "import sys; from clipsr.cli import main; sys.exit(main())"]
WAIT_S = 120
FIELDS = [
    "path",
    "status",
    "reason",
    "message",
    "label",
    "cosine",
    "probability",
    "none_of_these",
    "route",
    "input_height",
    "input_width",
    "model",
    "predictions",
    "warnings",
    "degradation",
    "degradation_probability",
    "degradations",
    "none_probability",
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """300 images in subfolders."""
    folder = tmp_path / "photos"
    for index in range(300):
        path = folder / f"{index % 7}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % index)
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_any(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return read_lines(path)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return pyarrow.parquet.read_table(path).to_pylist()


def command(photos: Path, output: Path, url: str, *more: str) -> list[str]:
    arguments = ["classify", str(photos), "--labels", "cat,dog", "--output", str(output), "--url", url, *more]
    return [*COMMAND, *arguments]


def journal_of(output: Path) -> Path:
    return output.with_name(output.name + ".journal")


def count_done(output: Path) -> int:
    """Images that are done, by the journal of a run that has ended."""
    with Journal(journal_of(output)) as journal:
        return len(journal)


def wait_until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def run_and_kill(arguments: list[str], fake_service: Any, *, after: int) -> None:
    """Run a command and kill it after it was given so many answers."""
    answered: list[int] = []
    fake_service.on_stream = lambda count, context: answered.append(count) if count < after else time.sleep(0.004)
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(answered) >= after or process.poll() is not None)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_killed_three_times_each_image_is_there_once(photos, tmp_path, fake_service, ending):
    fake_service.stream_burst = 5  # answers come in another order than images
    fake_service.fail_image(b"123")
    output = tmp_path / f"results.{ending}"
    for _ in range(3):
        run_and_kill(command(photos, output, fake_service.url), fake_service, after=random.randrange(1, 80))
        assert not output.exists()
    before = count_done(output)
    asked = sum(map(len, fake_service.streamed))
    done = subprocess.run(command(photos, output, fake_service.url), capture_output=True, timeout=WAIT_S, text=True)
    assert done.returncode == 1, done.stderr  # one image failed
    assert f"resuming after {before}" in done.stderr
    assert done.stdout == f"300 images: 299 classified, 1 failed; {output}\n"
    rows = read_any(output)
    assert [row["path"] for row in rows] == sorted(str(path) for path in photos.rglob("*.png"))
    assert Counter(row["status"] for row in rows) == {"OK": 299, "INVALID_ARGUMENT": 1}
    # What was in the journal was not asked again; what was under way when it was killed had to be.
    assert sum(map(len, fake_service.streamed)) - asked == 300 - before
    assert asked <= before + 3 * 64


class TestOutputs:
    @pytest.fixture
    def output(self, request, run, folder, fake_service, tmp_path) -> Path:
        fake_service.fail_image(b"c.PNG", reason="IMAGE_TRUNCATED", message='Ends "early".')
        path = tmp_path / f"results.{request.param}"
        more = [] if request.param == "csv" else ["--embeddings"]
        assert run("classify", str(folder), "--labels", "cat,dog", "--output", str(path), *more).code == 1
        return path

    @pytest.mark.parametrize("output", ["jsonl"], indirect=True)
    def test_json_lines(self, output, folder, fake_service):
        assert read_lines(output) == [
            self.good(folder / "a.jpg", fake_service),
            self.good(folder / "b" / "猫.webp", fake_service),
            self.bad(folder / "c.PNG"),
        ]

    @pytest.mark.parametrize("output", ["csv"], indirect=True)
    def test_csv(self, output, folder):
        rows = read_any(output)
        assert list(rows[0]) == FIELDS
        assert list(rows[0].values())[: FIELDS.index("model")] == [
            str(folder / "a.jpg"), "OK", "", "", "cat", "0.3", "0.5", "false", "upscaled", "32", "48",
        ]  # fmt: skip
        assert json.loads(rows[0]["predictions"])[1] == {"label": "dog", "cosine": 0.284375, "probability": 0.25}
        assert {name: value for name, value in rows[2].items() if value} == self.bad(folder / "c.PNG")

    @pytest.mark.parametrize("output", ["parquet"], indirect=True)
    def test_parquet(self, output, folder):
        rows = read_any(output)
        assert list(rows[0]) == [*FIELDS, "embedding"]
        assert rows[0]["label"] == "cat"
        assert (rows[0]["input_height"], rows[0]["input_width"], rows[0]["none_of_these"]) == (32, 48, False)
        assert rows[0]["embedding"] == pytest.approx([0.6, 0.8])
        assert [each["label"] for each in rows[0]["predictions"]] == ["cat", "dog"]
        assert {name: value for name, value in rows[2].items() if value is not None} == self.bad(folder / "c.PNG")

    def good(self, path: Path, fake_service: Any) -> dict[str, Any]:
        return {
            "path": str(path),
            "status": "OK",
            "predictions": [
                {"label": "cat", "cosine": 0.3, "probability": 0.5},
                {"label": "dog", "cosine": 0.284375, "probability": 0.25},
            ],
            "none_of_these": False,
            "route": "upscaled",
            "input_hw": [32, 48],
            "model": fake_service.info.digest,
            "embedding": [0.6, 0.8],
        }

    def bad(self, path: Path) -> dict[str, Any]:
        status = {"status": "INVALID_ARGUMENT", "reason": "IMAGE_TRUNCATED", "message": 'Ends "early".'}
        return {"path": str(path), **status}


class TestResuming:
    @pytest.fixture
    def interrupted(self, run, folder, fake_service, tmp_path) -> Path:
        """An output of which one image is done; then the service went away."""

        def cut(answered: int, context: grpc.ServicerContext) -> None:
            if answered == 1:
                context.abort(grpc.StatusCode.INTERNAL, "boom")

        fake_service.on_stream = cut
        output = tmp_path / "results.jsonl"
        done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(output))
        assert done.code == 3
        assert "1 images are done; the same command resumes after them" in done.err
        fake_service.on_stream = None
        return output

    def test_it_goes_on(self, run, folder, fake_service, interrupted):
        assert run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted)).code == 0
        assert [content for _, content in fake_service.streamed[1]] == ["b/猫.webp".encode(), b"c.PNG"]
        assert len(read_lines(interrupted)) == 3

    @pytest.mark.parametrize(
        ("more", "name"),
        [
            (["--labels", "bird"], "labels"),
            (["--templates", "a {}"], "templates"),
            (["--top-k", "1"], "top_k"),
            (["--fit", "squash"], "fit"),
            (["--route", "native"], "route"),
            (["--min-cosine", "0.2"], "min_cosine"),
            (["--min-probability", "0.2"], "min_probability"),
            (["--embeddings"], "embeddings"),
        ],
    )
    def test_other_settings_are_refused(self, run, folder, fake_service, interrupted, more, name):
        done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted), *more)
        assert done.code == 2
        assert f"other settings ({name})" in done.err
        assert "--restart" in done.err
        assert len(fake_service.streamed) == 1

    def test_another_model_is_refused(self, run, folder, fake_service, interrupted):
        fake_service.info.digest = "sha256:new"
        done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted))
        assert done.code == 2
        assert "other settings (model)" in done.err

    def test_a_restart_does_all_again(self, run, folder, fake_service, interrupted):
        arguments = ["classify", str(folder), "--labels", "bird", "--output", str(interrupted), "--restart"]
        assert run(*arguments).code == 0
        assert len(fake_service.streamed[1]) == 3
        assert run(*arguments[:-1]).code == 2  # it is finished
        assert run(*arguments).code == 0  # and replaced if one says so
        assert len(fake_service.streamed) == 3

    def test_damage_is_not_passed_over(self, run, folder, interrupted):
        journal = journal_of(interrupted)
        content = bytearray(journal.read_bytes())
        content[4096:] = b"x" * len(content[4096:])  # all pages but the first
        journal.write_bytes(content)
        done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted))
        assert done.code == 2
        assert "is damaged: begin again with --restart" in done.err
        assert run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted), "--restart").code == 0

    def test_a_journal_of_an_earlier_version_is_refused(self, run, folder, interrupted):
        journal = journal_of(interrupted)
        old = b'{"clipsr_journal":1,"folder":"/","settings":{}}\n'
        journal.write_bytes(old)
        done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted))
        assert done.code == 2
        assert "finish that run with the version that began it" in done.err
        assert done.err.count("\n") == 1
        assert journal.read_bytes() == old
        assert run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted), "--restart").code == 0

    def test_a_folder_by_another_name_is_the_same(self, run, folder, fake_service, interrupted, monkeypatch):
        monkeypatch.chdir(folder.parent)
        assert run("classify", folder.name, "--labels", "cat,dog", "--output", str(interrupted)).code == 0
        assert len(fake_service.streamed[1]) == 2

    @pytest.mark.parametrize("more", [[], ["--restart"]])
    def test_two_runs_do_not_mix(self, run, folder, interrupted, more):
        with Journal(journal_of(interrupted)):
            done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted), *more)
        assert done.code == 2
        assert "Another run is writing" in done.err
        assert count_done(interrupted) == 1


class TestRetryingFailedImages:
    @pytest.fixture
    def finished(self, run, folder, fake_service, tmp_path) -> list[str]:
        """The command of a finished run in which one image failed."""
        fake_service.fail_image(b"c.PNG")
        arguments = ["classify", str(folder), "--labels", "cat,dog", "--output", str(tmp_path / "results.jsonl")]
        done = run(*arguments)
        assert done.code == 1
        assert "--retry-failed does the failed images again" in done.err
        fake_service._failures.clear()
        return arguments

    def test_only_they_are_done_again(self, run, fake_service, finished, tmp_path):
        assert run(*finished, "--retry-failed").code == 0
        assert [content for _, content in fake_service.streamed[1]] == [b"c.PNG"]
        records = read_lines(tmp_path / "results.jsonl")
        assert [(Path(each["path"]).name, each["status"]) for each in records] == [
            ("a.jpg", "OK"),
            ("猫.webp", "OK"),
            ("c.PNG", "OK"),
        ]
        assert not journal_of(tmp_path / "results.jsonl").exists()

    def test_a_finished_run_is_not_done_again_by_itself(self, run, fake_service, finished):
        done = run(*finished)
        assert done.code == 2
        assert "is there already and finished" in done.err
        assert "--retry-failed" in done.err
        assert len(fake_service.streamed) == 1

    def test_without_its_output_the_run_begins_again(self, run, fake_service, finished, tmp_path):
        (tmp_path / "results.jsonl").unlink()
        assert run(*finished).code == 0
        assert len(fake_service.streamed[1]) == 3

    def test_other_settings_are_refused(self, run, fake_service, finished):
        done = run(*finished, "--retry-failed", "--top-k", "1")
        assert done.code == 2
        assert "other settings (top_k)" in done.err

    def test_it_can_be_interrupted(self, run, fake_service, finished, tmp_path):
        fake_service.on_stream = lambda answered, context: context.abort(grpc.StatusCode.INTERNAL, "boom")
        assert run(*finished, "--retry-failed").code == 3
        fake_service.on_stream = None
        assert run(*finished).code == 0
        assert len(read_lines(tmp_path / "results.jsonl")) == 3

    def test_nothing_failed(self, run, finished):
        assert run(*finished, "--retry-failed").code == 0
        done = run(*finished, "--retry-failed")
        assert (done.code, "no image failed" in done.err) == (0, True)


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--output", "results.txt"], "ends in none of"),
            (["--output", "gone/results.csv"], "does not exist"),
            (["--output", "results.csv", "--format", "csv"], "leave --format out"),
            (["--output", "results.csv", "--embeddings"], "holds no embeddings"),
            (["--embeddings"], "go with --format json"),
            (["--restart"], "go with --output"),
            (["--retry-failed"], "go with --output"),
            (["--output", "results.csv", "--restart", "--retry-failed"], "leave one of them out"),
        ],
    )
    def test_wrong_usage_is_one_sentence(self, run, folder, fake_service, monkeypatch, arguments, sentence):
        monkeypatch.chdir(folder)
        done = run("classify", str(folder), "--labels", "cat,dog", *arguments)
        assert (done.code, done.out) == (2, "")
        assert sentence in done.err
        assert fake_service.streamed == []

    def test_standard_input(self, run, tmp_path):
        done = run("classify", "-", "--labels", "cat", "--output", str(tmp_path / "results.csv"))
        assert done.code == 2
        assert "name files" in done.err

    def test_nothing_to_do(self, run, tmp_path):
        done = run("classify", str(tmp_path), "--labels", "cat", "--output", str(tmp_path / "results.csv"))
        assert done.code == 2
        assert "holds no image" in done.err
        assert list(tmp_path.iterdir()) == []

    def test_parquet_without_pyarrow(self, run, folder, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        done = run("classify", str(folder), "--labels", "cat", "--output", str(tmp_path / "results.parquet"))
        assert done.code == 2
        assert "pip install 'clipsr[export]'" in done.err

    def test_a_request_that_is_refused_leaves_nothing_done(self, run, folder, fake_service, tmp_path):
        fake_service.on_stream = lambda answered, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Twice.")
        done = run("classify", str(folder), "--labels", "cat,cat", "--output", str(tmp_path / "results.csv"))
        assert done.code == 2
        assert "Twice." in done.err

    def test_an_image_named_twice_is_done_once(self, run, folder, tmp_path):
        output = tmp_path / "results.jsonl"
        assert run("classify", str(folder), str(folder / "a.jpg"), "--labels", "cat", "--output", str(output)).code == 0
        assert len(read_lines(output)) == 3

    def test_the_model_changes_in_between(self, run, folder, fake_service, tmp_path):
        def change(answered: int, context: grpc.ServicerContext) -> None:
            fake_service.info.digest = "sha256:new"

        fake_service.on_stream = change
        done = run("classify", str(folder), "--labels", "cat", "--output", str(tmp_path / "r.csv"), "--batch-size", "1")
        assert done.code == 2
        assert "answers with another model now (sha256:new)" in done.err


class TestFullDisk:
    """A limit on the size of files stands for a full disk: a write is cut short, and the next one fails."""

    def test_the_journal_stays_intact(self, photos, tmp_path, fake_service):
        output = tmp_path / "results.jsonl"
        arguments = command(photos, output, fake_service.url)
        # By a shell: in a fork of this process, which serves, gRPC sometimes aborts.
        limited = ["bash", "-c", 'ulimit -f 98 && exec "$@"', "bash", *arguments]  # KiB
        done = subprocess.run(limited, capture_output=True, timeout=WAIT_S, text=True)
        assert done.returncode == 5, done.stderr
        assert "cannot be written: disk I/O error. Make room" in done.stderr
        assert "Traceback" not in done.stderr
        assert 1 < count_done(output) < 300
        assert subprocess.run(arguments, capture_output=True, timeout=WAIT_S).returncode == 0
        assert len(read_lines(output)) == 300

    @pytest.mark.parametrize("ending", ["jsonl", "parquet"])
    def test_the_output_is_written_later(self, photos, tmp_path, fake_service, ending, monkeypatch):
        output = tmp_path / f"results.{ending}"
        run_and_kill(command(photos, output, fake_service.url), fake_service, after=250)
        fake_service.on_stream = None
        asked = len(fake_service.streamed)
        done = subprocess.run(
            [*command(photos, output, fake_service.url)],
            capture_output=True,
            timeout=WAIT_S,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{self.make_failing_disk(tmp_path)}:{os.environ.get('PYTHONPATH', '')}"},
        )
        assert done.returncode == 5, done.stderr
        assert "could not be written: there is no room left" in done.stderr
        assert "All 300 images are done" in done.stderr
        assert not output.exists()
        assert not list(tmp_path.glob(".*.part"))
        assert subprocess.run(command(photos, output, fake_service.url), capture_output=True).returncode == 0
        assert len(read_any(output)) == 300
        assert len(fake_service.streamed) == asked + 1  # nothing was asked for the file itself

    def make_failing_disk(self, tmp_path: Path) -> Path:
        """A folder whose sitecustomize lets the output's fsync fail, as a full disk with delayed allocation does."""
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            "import os\n"
            "real = os.fsync\n"
            "def fsync(fd):\n"
            "    if os.readlink(f'/proc/self/fd/{fd}').endswith('.part'):\n"
            "        raise OSError(28, 'No space left on device')\n"
            "    real(fd)\n"
            "os.fsync = fsync\n"
        )
        return folder


def test_a_journal_is_closed_whatever_another_thread_asks_of_it(tmp_path):
    """In a process of its own, which SQLite ends otherwise."""
    script = """if True:
        import itertools, pathlib, sys, threading
        from clipsr.cli._classify.journal import Journal, JournalError

        def claim(journal, is_claiming):
            try:
                for place in itertools.count():
                    journal.claim(str(place), place=place)
                    is_claiming.set()
            except JournalError:
                pass

        for number in range(100):
            is_claiming = threading.Event()
            with Journal(pathlib.Path(sys.argv[1]) / str(number)) as journal:
                reader = threading.Thread(target=claim, args=(journal, is_claiming))
                reader.start()
                is_claiming.wait()
            reader.join()
    """
    done = subprocess.run([sys.executable, "-c", script, tmp_path], timeout=WAIT_S, check=False)
    assert done.returncode == 0


def test_a_terminal_shows_rate_and_remaining_time(photos, tmp_path, fake_service):
    fake_service.on_stream = lambda answered, context: time.sleep(0.005)
    bulk = command(photos, tmp_path / "results.csv", fake_service.url)
    done = run_in_terminal(bulk, timeout_s=WAIT_S, keeps_output=True)
    assert done.code == 0
    assert done.out.startswith(b"300 images: 300 classified; ")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.shown)
    assert re.search(r"classifying .* \d+/300 [\d.,]+ images/s 0:00:0\d", text)


def test_an_interrupt_keeps_what_is_done(photos, tmp_path, fake_service):
    answers: list[int] = []
    gate = threading.Event()
    fake_service.on_stream = lambda count, context: answers.append(count) if count < 100 else gate.wait(WAIT_S)
    output = tmp_path / "results.csv"
    process = subprocess.Popen(command(photos, output, fake_service.url), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(answers) == 100)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)
    gate.set()
    assert process.returncode == 130
    assert re.search(r"\d+ images are done; the same command resumes after them\n$", errors)
    assert "Traceback" not in errors
    assert not output.exists()
    assert subprocess.run(command(photos, output, fake_service.url), capture_output=True).returncode == 0
    assert len(read_any(output)) == 300


class TestJournal:
    @pytest.fixture
    def journal(self, tmp_path) -> Iterator[Journal]:
        with Journal(tmp_path / "j") as journal:
            journal.begin({})
            yield journal

    def test_records_come_in_the_order_of_the_walk(self, journal):
        for place in (2, 0, 1):
            assert journal.claim(f"{place}", place=place)
        for path in ("1", "2", "0"):
            journal.append({"path": path, "status": "OK", "message": "x" * 10_000})
        assert [record["path"] for record in journal.records()] == ["0", "1", "2"]

    def test_a_claim_without_an_answer_is_void_after_an_interruption(self, journal, tmp_path):
        assert journal.claim("a.png", place=0)
        assert not journal.claim("./b/../a.png", place=1)
        journal.__exit__()
        with Journal(tmp_path / "j") as again:
            again.begin({})
            assert len(again) == 0
            assert again.claim("a.png", place=0)

    def test_a_path_that_is_not_utf8_survives(self, journal, tmp_path):
        assert journal.claim("\udcff.png", place=0)
        journal.append({"path": "\udcff.png", "status": "OK"})
        journal.__exit__()
        with Journal(tmp_path / "j") as again:
            again.begin({})
            assert not again.claim("\udcff.png", place=0)
            assert [record["path"] for record in again.records()] == ["\udcff.png"]

    def test_memory_does_not_grow(self, journal):
        def add(places: range) -> None:
            for place in places:
                assert journal.claim(f"photos/{place:08}.png", place=place)
                journal.append({"path": f"photos/{place:08}.png", "status": "OK"})

        add(range(100))  # fills the caches
        tracemalloc.start()
        add(range(100, 5_000))
        size_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert size_bytes < 50_000

    def test_a_foreign_database_is_left_alone(self, tmp_path):
        with contextlib.closing(sqlite3.connect(tmp_path / "j")) as database:
            database.execute("CREATE TABLE mine (x)")
        before = (tmp_path / "j").read_bytes()
        with pytest.raises(JournalError, match="no journal of this version"):
            Journal(tmp_path / "j")
        assert (tmp_path / "j").read_bytes() == before

    def test_a_foreign_file_is_left_alone(self, tmp_path):
        (tmp_path / "j").write_text("mine\n")
        with pytest.raises(JournalError, match="no journal of this version"):
            Journal(tmp_path / "j")
        assert (tmp_path / "j").read_text() == "mine\n"
