"""`clipsr-client classify --output`: nothing is lost and nothing done twice, whatever interrupts it."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet
import pytest
from tests.client.terminal import run_in_terminal

from clipsr.cli._classify.journal import Journal, JournalError
from clipsr.cli._inputs import find_images, walk_images

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
    journal = journal_of(output)
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def kill_after(process: subprocess.Popen[bytes], output: Path, done: int) -> None:
    """Kill the process once the journal holds so many images."""
    end_s = time.monotonic() + WAIT_S
    while count_done(output) < done and process.poll() is None:
        assert time.monotonic() < end_s
        time.sleep(0.002)
    process.kill()
    process.wait()


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_killed_three_times_each_image_is_there_once(photos, tmp_path, fake_service, ending):
    fake_service.on_stream = lambda answered, context: time.sleep(0.004)
    fake_service.stream_burst = 5  # answers come in another order than images
    fake_service.fail_image(b"123")
    output = tmp_path / f"results.{ending}"
    for stop in sorted(random.sample(range(1, 240), 3)):
        process = subprocess.Popen(command(photos, output, fake_service.url), stderr=subprocess.DEVNULL)
        kill_after(process, output, stop)
        assert process.returncode == -signal.SIGKILL
        assert not output.exists()
    before = count_done(output)
    asked = sum(map(len, fake_service.streamed))
    done = subprocess.run(command(photos, output, fake_service.url), capture_output=True, timeout=WAIT_S, text=True)
    assert done.returncode == 1, done.stderr  # one image failed
    assert f"going on after {before}" in done.stderr
    assert done.stdout == f"300 images: 299 classified, 1 failed; {output}\n"
    rows = read_any(output)
    assert [row["path"] for row in rows] == sorted(str(path) for path in photos.rglob("*.png"))
    assert Counter(row["status"] for row in rows) == {"OK": 299, "INVALID_ARGUMENT": 1}
    assert not journal_of(output).exists()
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
        assert list(rows[0].values())[:-2] == [
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
        assert "1 images are done; the same command goes on from there" in done.err
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

    @pytest.mark.parametrize("tail", [b'{"path":"x","sta', b"\0" * 100, b'{"path":"x"}\n', b"\xff\n\0"])
    def test_a_torn_end_is_done_again(self, run, folder, fake_service, interrupted, tail):
        with journal_of(interrupted).open("ab") as file:
            file.write(tail)
        assert run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted)).code == 0
        assert len(read_lines(interrupted)) == 3

    def test_damage_in_the_middle_is_not_passed_over(self, run, folder, interrupted):
        journal = journal_of(interrupted)
        header, record = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(header + b"garbage\n" + record)
        done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted))
        assert done.code == 2
        assert "is damaged: begin again with --restart" in done.err

    def test_a_folder_by_another_name_is_the_same(self, run, folder, fake_service, interrupted, monkeypatch):
        monkeypatch.chdir(folder.parent)
        assert run("classify", folder.name, "--labels", "cat,dog", "--output", str(interrupted)).code == 0
        assert len(fake_service.streamed[1]) == 2

    def test_two_runs_do_not_mix(self, run, folder, interrupted):
        settings = json.loads(journal_of(interrupted).read_text().splitlines()[0])["settings"]
        journal = Journal(journal_of(interrupted), settings, folder=Path.cwd())
        done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(interrupted))
        journal.close()
        assert done.code == 2
        assert "Another run is writing" in done.err


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--output", "results.txt"], "ends in none of"),
            (["--output", "gone/results.csv"], "does not exist"),
            (["--output", "results.csv", "--format", "csv"], "leave --format out"),
            (["--output", "results.csv", "--embeddings"], "holds no embeddings"),
            (["--embeddings"], "go with --output"),
            (["--restart"], "go with --output"),
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

    def limited(self, size: int) -> Any:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def test_the_journal_stays_intact(self, photos, tmp_path, fake_service):
        output = tmp_path / "results.jsonl"
        arguments = command(photos, output, fake_service.url)
        done = subprocess.run(
            arguments, capture_output=True, timeout=WAIT_S, text=True, preexec_fn=self.limited(10_000)
        )
        assert done.returncode == 5, done.stderr
        assert "cannot be written: File too large. Make room" in done.stderr
        assert "Traceback" not in done.stderr
        assert journal_of(output).read_bytes().endswith(b"}\n")
        assert 10 < count_done(output) < 100
        assert subprocess.run(arguments, capture_output=True, timeout=WAIT_S).returncode == 0
        assert len(read_lines(output)) == 300

    @pytest.mark.parametrize("ending", ["jsonl", "parquet"])
    def test_the_output_is_written_later(self, photos, tmp_path, fake_service, ending, monkeypatch):
        output = tmp_path / f"results.{ending}"
        process = subprocess.Popen(command(photos, output, fake_service.url), stderr=subprocess.DEVNULL)
        kill_after(process, output, 250)
        asked = len(fake_service.streamed)
        done = subprocess.run(
            [*command(photos, output, fake_service.url)],
            capture_output=True,
            timeout=WAIT_S,
            text=True,
            env={**os.environ, "PYTHONPATH": str(self.make_failing_disk(tmp_path, ending))},
        )
        assert done.returncode == 5, done.stderr
        assert "could not be written: No space left on device. All 300 images are done" in done.stderr
        assert not output.exists()
        assert not list(tmp_path.glob(".*.part"))
        assert subprocess.run(command(photos, output, fake_service.url), capture_output=True).returncode == 0
        assert len(read_any(output)) == 300
        assert len(fake_service.streamed) == asked + 1  # nothing was asked for the file itself

    def make_failing_disk(self, tmp_path: Path, ending: str) -> Path:
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


def test_a_terminal_shows_rate_and_remaining_time(photos, tmp_path, fake_service):
    fake_service.on_stream = lambda answered, context: time.sleep(0.005)
    bulk = command(photos, tmp_path / "results.csv", fake_service.url)
    done = run_in_terminal(bulk, timeout_s=WAIT_S, keeps_output=True)
    assert done.code == 0
    assert done.out.startswith(b"300 images: 300 classified; ")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.shown)
    assert re.search(r"classifying .* \d+/300 [\d.,]+ images/s 0:00:0\d", text)


def test_an_interrupt_keeps_what_is_done(photos, tmp_path, fake_service):
    fake_service.on_stream = lambda answered, context: time.sleep(0.01)
    output = tmp_path / "results.csv"
    process = subprocess.Popen(command(photos, output, fake_service.url), stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + WAIT_S
    while count_done(output) < 20:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert re.search(r"\d+ images are done; the same command goes on from there\n$", errors)
    assert "Traceback" not in errors
    assert not output.exists()
    assert subprocess.run(command(photos, output, fake_service.url), capture_output=True).returncode == 0
    assert len(read_any(output)) == 300


class TestWalk:
    def test_finds_what_classify_finds_in_its_order(self, folder, photos):
        for name in ("b.png", "a", "b-c.png", "B.png"):
            (folder / name).mkdir() if name == "a" else (folder / name).write_bytes(b"x")
        (folder / "a" / "z.gif").write_bytes(b"x")
        (folder / "loop").symlink_to(folder)
        (folder / "link.png").symlink_to(folder / "gone.png")
        for paths in ([str(folder)], [str(photos), str(folder / "notes.txt"), str(folder)]):
            assert list(walk_images(paths)) == find_images(paths)

    def test_a_folder_without_permission_is_an_item(self, folder, monkeypatch):
        real = os.scandir

        def scandir(path: Any) -> Any:
            if Path(path).name == "b":
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr("os.scandir", scandir)
        items = {Path(item.path).name: item.failure for item in walk_images([str(folder)])}
        assert items["b"].code == "PERMISSION_DENIED"
        assert items["a.jpg"] is None


class TestJournal:
    def test_records_come_in_the_order_of_the_walk(self, tmp_path):
        journal = Journal(tmp_path / "j", {}, folder=tmp_path)
        for place in (2, 0, 1):
            journal.append({"path": f"{place}", "status": "OK", "message": "x" * 10_000}, place=place)
        assert [record["path"] for record in journal.records()] == ["0", "1", "2"]
        journal.close()

    def test_a_path_that_is_not_utf8_survives(self, tmp_path):
        journal = Journal(tmp_path / "j", {}, folder=tmp_path)
        journal.append({"path": "\udcff.png", "status": "OK"}, place=0)
        journal.close()
        again = Journal(tmp_path / "j", {}, folder=tmp_path)
        assert not again.claim("\udcff.png")
        assert [record["path"] for record in again.records()] == ["\udcff.png"]
        again.close()

    def test_an_image_takes_100_to_200_bytes_of_memory(self, tmp_path):
        journal = Journal(tmp_path / "j", {}, folder=tmp_path)
        tracemalloc.start()
        for place in range(20_000):
            assert journal.claim(f"photos/{place:08}.png")
            journal._note({"status": "OK"}, place, place)
        size_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        journal.close()
        assert 50 < size_bytes / 20_000 < 200  # docs/cli.md says 100 to 200; the set of keys grows in steps

    def test_a_foreign_file_is_left_alone(self, tmp_path):
        (tmp_path / "j").write_text('{"clipsr_journal": 99}\n')
        with pytest.raises(JournalError, match="no journal of this version"):
            Journal(tmp_path / "j", {}, folder=tmp_path)
        assert (tmp_path / "j").read_text() == '{"clipsr_journal": 99}\n'
