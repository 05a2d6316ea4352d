"""`clipsr-client` in this process, against a service on a real socket."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pyarrow.parquet
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.client.conftest import make_status

from clipsr.cli._classify.records import COLUMNS
from clipsr.v1 import classifier_pb2, types_pb2

NOBODY = "127.0.0.1:1"  # tcpmux: privileged, and gone from the world


@pytest.fixture
def cat(folder: Path) -> str:
    """One image."""
    return str(folder / "a.jpg")


def bad_request(field: str, description: str) -> Message:
    return error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field=field, description=description)]
    )


class TestJson:
    def test_prints_one_object_a_line(self, run, cat, fake_service) -> None:
        done = run("classify", cat, "--labels", " cat , dog", "--format", "json")
        assert done.code == 0
        assert done.err == ""
        assert [json.loads(line) for line in done.out.splitlines()] == [
            {
                "path": cat,
                "status": "OK",
                "predictions": [
                    {"label": "cat", "cosine": 0.3, "probability": 0.5},
                    {"label": "dog", "cosine": 0.284375, "probability": 0.25},
                ],
                "none_of_these": False,
                "route": "upscaled",
                "input_hw": [32, 48],
                "model": fake_service.info.digest,
            }
        ]

    def test_a_failed_image_does_not_fail_its_neighbours(self, run, folder, fake_service) -> None:
        fake_service.fail_image(b"b/\xe7\x8c\xab.webp", message="Ends early.")
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        objects = [json.loads(line) for line in done.out.splitlines()]
        assert done.code == 1
        assert [Path(each["path"]).name for each in objects] == ["a.jpg", "猫.webp", "c.PNG"]
        assert objects[1] == {
            "path": str(folder / "b" / "猫.webp"),
            "status": "INVALID_ARGUMENT",
            "reason": "IMAGE_TRUNCATED",
            "message": "Ends early.",
        }
        assert [each["status"] for each in objects] == ["OK", "INVALID_ARGUMENT", "OK"]

    def test_embeddings_come_if_asked_for(self, run, cat) -> None:
        done = run("classify", cat, "--labels", "cat,dog", "--format", "json", "--embeddings")
        assert json.loads(done.out)["embedding"] == [0.6, 0.8]

    def test_keeps_unicode_readable(self, run, cat) -> None:
        done = run("classify", cat, "--labels", "猫,🐶", "--format", "json")
        assert '"label": "猫"' in done.out
        assert '"label": "🐶"' in done.out

    def test_a_path_that_is_not_utf8_survives(self, run, tmp_path) -> None:
        path = str(tmp_path / "\udcff.png")
        Path(path).write_bytes(b"x")
        done = run("classify", path, "--labels", "cat,dog", "--format", "json")
        assert json.loads(done.out)["path"] == path


class TestCsv:
    def test_has_a_row_an_image(self, run, folder, fake_service) -> None:
        fake_service.fail_image(b"c.PNG", message='Ends "early", it seems.')
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert done.code == 1
        assert [(Path(row["path"]).name, row["status"], row["label"]) for row in rows] == [
            ("a.jpg", "OK", "cat"),
            ("猫.webp", "OK", "cat"),
            ("c.PNG", "INVALID_ARGUMENT", ""),
        ]
        assert rows[2]["message"] == 'Ends "early", it seems.'

    def test_is_what_an_output_holds(self, run, folder, fake_service, tmp_path) -> None:
        fake_service.fail_image(b"c.PNG")
        for output_format, ending in [("csv", "csv"), ("json", "jsonl")]:
            printed = run("classify", str(folder), "--labels", "cat,dog", "--format", output_format).out
            output = tmp_path / f"results.{ending}"
            assert run("classify", str(folder), "--labels", "cat,dog", "--output", str(output)).code == 1
            assert output.read_text("utf-8") == printed

    @pytest.mark.parametrize("name", ["x\rz.png", "x\nz.png", "x\r\nz.png", 'x",z.png'])
    def test_a_name_with_a_line_end_is_one_cell(self, run, tmp_path, name) -> None:
        (tmp_path / name).write_bytes(b"x")
        done = run("classify", str(tmp_path), "--labels", "cat,dog", "--format", "csv")
        rows = list(csv.reader(io.StringIO(done.out, newline="")))
        assert [len(row) for row in rows] == [len(COLUMNS)] * 2
        assert rows[1][0] == str(tmp_path / name)

    @pytest.mark.parametrize("sign", ["=", "+", "-", "@"])
    def test_formulas_are_marked_if_asked_for(self, run, tmp_path, monkeypatch, sign) -> None:
        monkeypatch.chdir(tmp_path)
        name = f"{sign}1.png"
        Path(name).write_bytes(b"x")
        cells = []
        for options in ([], ["--csv-safe"]):
            done = run("classify", "--labels", "cat,dog", "--format", "csv", *options, "--", name)
            cells += [row["path"] for row in csv.DictReader(io.StringIO(done.out))]
        assert cells == [name, f"'{name}"]


class TestRobust:
    """What is wrong with an image, in every format; the service names it from the robust encoder alone."""

    @pytest.fixture(autouse=True)
    def kinds(self, fake_service) -> None:
        fake_service.info.degradation_kinds.extend(["low-light", "clean"])

    def test_json_lists_all_kinds(self, run, cat) -> None:
        done = run("classify", cat, "--labels", "cat,dog", "--format", "json", "--encoder", "robust")
        assert json.loads(done.out)["degradations"] == [
            {"kind": "low-light", "cosine": 0.5, "probability": 0.75},
            {"kind": "clean", "cosine": 0.5, "probability": 0.25},
        ]
        assert "degradations" not in json.loads(run("classify", cat, "--labels", "cat,dog", "--format", "json").out)

    def test_csv_has_the_likeliest_in_columns(self, run, cat) -> None:
        done = run("classify", cat, "--labels", "cat,dog", "--format", "csv", "--encoder", "robust")
        (row,) = csv.DictReader(io.StringIO(done.out))
        assert (row["label"], row["cosine"]) == ("cat", "0.3")
        assert (row["degradation"], row["degradation_probability"]) == ("low-light", "0.75")
        assert [each["kind"] for each in json.loads(row["degradations"])] == ["low-light", "clean"]
        (row,) = csv.DictReader(io.StringIO(run("classify", cat, "--labels", "cat,dog", "--format", "csv").out))
        assert (row["degradation"], row["degradations"]) == ("", "")

    def test_parquet_has_them_too(self, run, cat, tmp_path) -> None:
        output = tmp_path / "results.parquet"
        assert run("classify", cat, "--labels", "cat,dog", "--encoder", "robust", "--output", str(output)).code == 0
        (row,) = pyarrow.parquet.read_table(output).to_pylist()
        assert (row["degradation"], row["degradation_probability"]) == ("low-light", 0.75)
        assert [each["kind"] for each in row["degradations"]] == ["low-light", "clean"]

    def test_the_table_has_a_column(self, run, cat, monkeypatch) -> None:
        monkeypatch.chdir(Path(cat).parent)
        head, row = run("classify", Path(cat).name, "--labels", "cat,dog", "--encoder", "robust").out.splitlines()
        assert head.split() == ["image", "best", "label", "probability", "cosine", "route", "damage", "runners-up"]
        assert row[head.index("damage") :].split() == ["low-light", "75.0%", "dog", "25.0%"]
        assert row.index("dog") == head.index("runners-up")
        assert "damage" not in run("classify", cat, "--labels", "cat,dog").out

    def test_auto_names_the_damage_where_there_is_some(self, run, cat, tmp_path, monkeypatch) -> None:
        (tmp_path / "clean.png").write_bytes(b"clean")
        (tmp_path / "cat.png").write_bytes(b"cat")
        monkeypatch.chdir(tmp_path)
        options = ("classify", "cat.png", "clean.png", "--labels", "cat,dog", "--encoder", "auto")
        head, damaged, clean, *_ = run(*options).out.splitlines()
        assert "low-light 75.0%" in damaged
        assert "low-light" not in clean
        assert damaged.index("dog") == clean.index("dog") == head.index("runners-up")
        rows = map(json.loads, run(*options, "--format", "json").out.splitlines())
        assert [bool(row.get("degradations")) for row in rows] == [True, False]

    def test_a_run_resumes_with_its_own_encoder_only(self, run, cat, tmp_path, fake_service) -> None:
        output = tmp_path / "results.csv"
        fake_service.fail_image(Path(cat).read_bytes())
        command = ["classify", cat, "--labels", "cat,dog", "--output", str(output)]
        for begun, resumed in ([], ["--encoder", "robust"]), (["--encoder", "robust"], []):
            assert run(*command, "--restart", *begun).code == 1
            done = run(*command, "--retry-failed", *resumed)
            assert done.code == 2
            assert "other settings (encoder)" in done.err

    def test_a_service_without_it_says_how_to_get_it(self, run, cat, fake_service) -> None:
        sentence = "This service has no encoder for damaged images."
        fake_service.abort(grpc.StatusCode.FAILED_PRECONDITION, sentence)
        done = run("classify", cat, "--labels", "cat,dog", "--encoder", "robust")
        assert (done.code, done.out) == (2, "")
        assert sentence in done.err

    def test_info_lists_them(self, run) -> None:
        assert "low-light, clean" in run("info").out


class TestTable:
    def test_shows_everything_in_a_pipe(self, run, folder, fake_service, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "20")
        fake_service.fail_image(b"c.PNG", message="The image ends early; send the whole file.")
        labels = "a label that is longer than its column,dog,bird"
        done = run("classify", str(folder), "--labels", labels)
        lines = done.out.splitlines()
        assert done.code == 1
        assert "\x1b" not in done.out
        assert len(lines) == 6  # header, three images, an empty line, the count
        assert lines[1].startswith(str(folder / "a.jpg"))
        assert "a label that is longer than its column" in lines[1]
        assert "█████ " in lines[1]
        assert lines[1].endswith("50.0%   0.300  upscaled  dog 25.0%, bird 12.5%")
        assert lines[3].endswith("✗ INVALID_ARGUMENT: The image ends early; send the whole file.")
        assert lines[5] == "3 images: 2 classified, 1 failed"

    def test_prints_markup_as_it_is(self, run, tmp_path) -> None:
        path = tmp_path / "[bold]x[red].png"
        path.write_bytes(b"x")
        done = run("classify", str(path), "--labels", "[red],:cat:,[/]")
        assert "[bold]x[red].png  [red] " in done.out
        assert ":cat: 25.0%, [/] 12.5%" in done.out

    def test_control_characters_do_not_reach_the_terminal(self, run, tmp_path, fake_service) -> None:
        path = tmp_path / "\x1b[2Jx\n.png"
        path.write_bytes(b"x")
        done = run("classify", str(path), "--labels", "c\x1b]0;at,dog")
        assert "\x1b" not in done.out
        assert r"\x1b[2Jx\n.png" in done.out

    def test_bidirectional_controls_are_written_out(self, run, tmp_path) -> None:
        path = tmp_path / "cat\u202egnp.exe.png"
        path.write_bytes(b"x")
        done = run("classify", str(path), "--labels", "\u2066cat,dog")
        assert r"cat\u202egnp.exe.png" in done.out
        assert r"\u2066cat" in done.out

    def test_a_set_of_the_service_gives_the_columns(self, run, cat) -> None:
        done = run("classify", cat, "--labels", "@animals")
        assert done.code == 0
        assert "dog 25.0%, bird 12.5%" in done.out


class TestRequest:
    def test_carries_all_options(self, run, cat, fake_service) -> None:
        arguments = ["--top-k", "1", "--fit", "squash", "--route", "native"]
        arguments += ["--templates", "a {}.", "--templates", "the {}!"]
        done = run("classify", cat, "--labels", "cat,dog", *arguments)
        assert done.code == 0
        assert fake_service.streamed == [[(0, b"a.jpg")]]
        assert fake_service.configs == [
            classifier_pb2.ClassifyOptions(
                label_space=types_pb2.LabelSpace(labels=["cat", "dog"], templates=["a {}.", "the {}!"]),
                fit=types_pb2.FIT_SQUASH,
                route=types_pb2.ROUTE_NATIVE,
                top_k=1,
            )
        ]

    def test_names_a_set(self, run, cat, fake_service) -> None:
        run("classify", cat, "--labels", "@animals", "--templates", "@simple")
        space = fake_service.configs[0].label_space
        assert (list(space.labels), space.label_set, list(space.templates)) == ([], "animals", ["@simple"])

    def test_reads_a_labels_file(self, run, cat, fake_service, tmp_path) -> None:
        file = tmp_path / "labels.txt"
        file.write_bytes("\ufeffcat, the animal\r\n\r\n  猫  \n@home\n".encode())
        assert run("classify", cat, "--labels-file", str(file)).code == 0
        assert list(fake_service.configs[0].label_space.labels) == ["cat, the animal", "猫", "@home"]

    def test_reads_labels_from_standard_input(self, run, cat, fake_service, monkeypatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("cat\n猫\n".encode())))
        assert run("classify", cat, "--labels-file", "-").code == 0
        assert list(fake_service.configs[0].label_space.labels) == ["cat", "猫"]
        done = run("classify", "-", "--labels-file", "-")
        assert done.code == 2
        assert "either an image or the labels file" in done.err

    def test_outcomes_come_in_the_order_of_the_images(self, run, folder, fake_service) -> None:
        fake_service.stream_burst = 3  # answered from the last to the first
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        assert [Path(json.loads(line)["path"]).name for line in done.out.splitlines()] == ["a.jpg", "猫.webp", "c.PNG"]

    def test_reads_standard_input(self, run, fake_service, monkeypatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
        done = run("classify", "-", "--labels", "cat,dog", "--format", "json")
        assert json.loads(done.out)["path"] == "-"
        assert fake_service.streamed[0][0][1] == b"from a pipe"

    def test_the_option_beats_the_environment(self, run, fake_service, monkeypatch) -> None:
        monkeypatch.setenv("CLIPSR_URL", NOBODY)
        assert run("health", "--url", fake_service.url).code == 0


class TestUnreadable:
    def test_a_file_without_permission_fails_alone(self, run, folder, fake_service, monkeypatch) -> None:
        real_open = Path.open

        def deny(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.name == "a.jpg":  # chmod would not stop a test that root runs
                raise PermissionError(13, "Permission denied", str(path))
            return real_open(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", deny)
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        first, *others = [json.loads(line) for line in done.out.splitlines()]
        assert done.code == 1
        assert first["status"] == "PERMISSION_DENIED"
        assert [other["status"] for other in others] == ["OK", "OK"]
        assert len(fake_service.streamed[0]) == 2

    def test_a_folder_without_permission_fails_alone(self, run, folder, monkeypatch) -> None:
        real = os.scandir

        def scandir(path: Any) -> Any:
            if Path(path).name == "b":  # chmod would not stop a test that root runs
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr("os.scandir", scandir)
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        records = [json.loads(line) for line in done.out.splitlines()]
        assert done.code == 1
        assert [record["status"] for record in records] == ["OK", "PERMISSION_DENIED", "OK"]
        assert records[1]["path"] == str(folder / "b")
        assert records[1]["message"] == "The folder may not be read: check its permissions."

    @pytest.mark.parametrize("name", ["loop", "loop.png"])
    def test_a_link_to_itself_takes_no_neighbour_along(self, run, folder, name) -> None:
        (folder / name).symlink_to(folder / name)
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        statuses = {Path(each["path"]).name: each["status"] for each in map(json.loads, done.out.splitlines())}
        failed = {"loop.png": "DATA_LOSS"} if name == "loop.png" else {}
        assert statuses == {"a.jpg": "OK", "猫.webp": "OK", "c.PNG": "OK"} | failed

    @pytest.mark.parametrize("output", [[], ["--output", "results.jsonl"]])
    def test_pipes_and_sockets_are_never_opened(self, run, folder, tmp_path, monkeypatch, output) -> None:
        monkeypatch.chdir(tmp_path)
        os.mkfifo(folder / "pipe.png")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("photos/socket.png")
        done = run("classify", "photos", "/dev/zero", "--labels", "cat,dog", *(output or ["--format", "json"]))
        text = Path("results.jsonl").read_text("utf-8") if output else done.out
        messages = {Path(each["path"]).name: each.get("message", "") for each in map(json.loads, text.splitlines())}
        assert done.code == 1
        assert list(messages) == ["a.jpg", "猫.webp", "c.PNG", "pipe.png", "socket.png", "zero"]
        assert [messages[name].split(",")[0] for name in ("pipe.png", "socket.png", "zero")] == [
            "This is a named pipe",
            "This is a socket",
            "This is a device",
        ]

    def test_what_is_left_out_is_counted_in_one_line(self, run, folder) -> None:
        for name in ("x.psd", "y.PSD", "._a.jpg", "plain"):
            (folder / name).write_bytes(b"x")
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "a.jpg").write_bytes(b"x")
        (folder / "up").symlink_to(folder)
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        assert len(done.out.splitlines()) == 3
        assert done.err == (
            "clipsr-client: left out of folders: hidden 3, .psd 2, __MACOSX 1, .txt 1, without ending 1, "
            "linked folders 1\n"
        )

    def test_photos_of_phones_are_taken_from_folders(self, run, folder) -> None:
        for name in ("x.heic", "y.HIF", "z.avif", "w.mpo"):
            (folder / name).write_bytes(b"x")
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        assert len(done.out.splitlines()) == 3 + 4

    def test_a_file_beyond_the_limit_is_not_sent(self, run, folder, fake_service) -> None:
        fake_service.info.limits.max_image_bytes = 5
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        assert done.code == 1
        assert [json.loads(line)["status"] for line in done.out.splitlines()] == ["OK", "INVALID_ARGUMENT", "OK"]
        assert [content for _, content in fake_service.streamed[0]] == [b"a.jpg", b"c.PNG"]

    def test_a_link_that_leads_nowhere_fails_alone(self, run, folder) -> None:
        (folder / "link.png").symlink_to(folder / "gone.png")
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        assert done.code == 1
        assert json.loads(done.out.splitlines()[-1])["status"] == "NOT_FOUND"


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ([], "Missing command"),
            (["frobnicate"], "No such command"),
            (["classify", "--labels", "cat"], "Missing argument"),
            (["classify", "CAT"], "There are no labels"),
            (["classify", "CAT", "--labels", " , "], "--labels is empty"),
            (["classify", "CAT", "--labels", "cat", "--labels-file", "CAT"], "leave one of them out"),
            (["classify", "CAT", "--labels", "@a,b"], "stands alone"),
            (["classify", "CAT", "--labels", "@"], "lacks the set's name"),
            (["classify", "CAT", "--labels", "cat", "--templates", "@a", "--templates", "{}"], "stands alone"),
            (["classify", "CAT", "--labels", "cat", "--frob"], "No such option"),
            (["classify", "CAT", "--labels", "cat", "--format", "xml"], "'xml'"),
            (["classify", "CAT", "--labels", "cat", "--timeout", "0"], "above 0"),
            (["classify", "CAT", "--labels", "cat", "--timeout", "nan"], "above 0"),
            (["classify", "CAT", "--labels", "cat", "--url", "http://localhost:1"], "HOST:PORT"),
            (["classify", "CAT", "--labels", "cat", "--url", "localhost"], "HOST:PORT"),
            (["classify", "CAT", "gone.png", "--labels", "cat"], "'gone.png' does not exist"),
            (["classify", "CAT/x.png", "--labels", "cat"], "does not exist"),
            (["classify", "-", "-", "--labels", "cat"], "only once"),
            (["classify", "CAT", "--labels-file", "gone.txt"], "does not exist"),
        ],
    )
    def test_wrong_usage_is_one_sentence(self, run, cat, fake_service, arguments, sentence) -> None:
        done = run(*(each.replace("CAT", cat) for each in arguments))
        assert done.code == 2
        assert done.out == ""
        assert sentence in done.err
        assert done.err.startswith("clipsr-client: ")
        assert fake_service.streamed == []

    def test_a_folder_without_images(self, run, tmp_path) -> None:
        done = run("classify", str(tmp_path), "--labels", "cat,dog")
        assert done.code == 2
        assert "holds no image" in done.err

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [(b"", "holds no label"), (b" \n\n", "holds no label"), ("猫".encode("utf-16"), "is not UTF-8")],
    )
    def test_a_labels_file_that_cannot_be_used(self, run, cat, tmp_path, content, sentence) -> None:
        file = tmp_path / "labels.txt"
        file.write_bytes(content)
        done = run("classify", cat, "--labels-file", str(file))
        assert done.code == 2
        assert sentence in done.err

    def test_standard_input_that_is_a_terminal(self, run, monkeypatch) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
        done = run("classify", "-", "--labels", "cat,dog")
        assert done.code == 2
        assert "is a terminal" in done.err

    def test_the_service_refuses_the_whole_request(self, run, cat, fake_service) -> None:
        violation = bad_request("label_space.labels[1]", "appears twice")
        status = make_status(grpc.StatusCode.INVALID_ARGUMENT.value[0], "The label 'cat' is there twice.", violation)
        fake_service.on_stream = lambda answered, context: context.abort_with_status(rpc_status.to_status(status))
        done = run("classify", cat, "--labels", "cat,cat", "--format", "csv")
        assert done.code == 2
        assert done.out == ""
        assert done.err == ("clipsr-client: The label 'cat' is there twice.\n  label_space.labels[1]: appears twice\n")


class TestUnreachable:
    def test_nobody_listens(self, run, cat) -> None:
        done = run("classify", cat, "--labels", "cat,dog", "--url", NOBODY)
        assert done.code == 3
        assert done.out == ""
        assert NOBODY in done.err
        assert "clipsr-serve up" in done.err

    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
    def test_the_service_goes_away_halfway(self, run, folder, fake_service, code) -> None:
        def abort_later(answered: int, context: grpc.ServicerContext) -> None:
            if answered == 1 or len(fake_service.streamed) > 1:
                context.abort(code, "Triton is not ready.")

        fake_service.on_stream = abort_later
        done = run("classify", str(folder), "--labels", "cat,dog", "--batch-size", "1", "--format", "json")
        assert done.code == 3
        assert len(done.out.splitlines()) == 1
        assert "Triton is not ready." in done.err

    def test_a_deadline_before_any_answer(self, run, cat, fake_service) -> None:
        fake_service.delay_s = 30
        started_s = time.monotonic()
        done = run("classify", cat, "--labels", "cat,dog", "--timeout", "0.2")
        assert done.code == 3
        assert done.out == ""
        assert "--timeout" in done.err
        assert time.monotonic() - started_s < 20

    def test_a_deadline_after_an_answer(self, run, folder, fake_service) -> None:
        ended = threading.Event()
        fake_service.on_stream = lambda answered, context: ended.wait(60) if answered else None
        done = run("classify", str(folder), "--labels", "cat,dog", "--timeout", "0.5", "--format", "json")
        ended.set()
        assert done.code == 3
        assert len(done.out.splitlines()) == 1
        assert "--timeout" in done.err


class TestInfo:
    def test_describes_the_model(self, run, fake_service) -> None:
        done = run("info")
        assert done.code == 0
        for part in ("clipsr-test", "64 × 64 px", "65 px", "@animals", "cat, dog, bird", "a photo of a {}.", "256"):
            assert part in done.out
        assert "16 MiB" in done.out
        assert "cd" * 32 in done.out
        assert "100.5 images or texts a second, 200 at once; 8 at a time" in done.out

    def test_describes_what_libraries_hold(self, run, fake_service) -> None:
        lines = dict(line.strip().split("  ", 1) for line in run("info").out.splitlines() if "  " in line.strip())
        shown = {name: value.strip() for name, value in lines.items()}
        assert shown["name"] == "63 of a-z, 0-9, - and _, beginning with a letter or digit"
        assert shown["tags of an image"] == "32 of at most 128 bytes"
        assert shown["values of an image"] == "33 of at most 2 KiB"
        assert [shown[f"images {kind}"] for kind in ("found", "of a page")] == ["1,000", "500"]
        fake_service.info.limits.ClearField("library")
        assert "the service keeps no libraries" in run("info").out

    def test_as_json(self, run, fake_service) -> None:
        done = run("info", "--format", "json")
        info = json.loads(done.out)
        assert info["label_sets"] == {"animals": ["cat", "dog", "bird"]}
        assert info["limits"]["max_images"] == 256
        assert info["digest"] == fake_service.info.digest

    def test_nobody_listens(self, run) -> None:
        assert run("info", "--url", NOBODY).code == 3


class TestHealth:
    def test_serving(self, run) -> None:
        done = run("health")
        assert (done.code, done.out, done.err) == (0, "SERVING\n", "")

    def test_a_server_that_says_so_of_everything_is_no_gateway(self, run, fake_service) -> None:
        """Triton answers the same health service."""
        fake_service.health["clipsr.v1.NoService"] = 1
        done = run("health")
        assert (done.code, done.out) == (3, "")
        assert done.err.count("\n") == 1
        assert "Triton" in done.err
        assert fake_service.url in done.err

    def test_not_serving(self, run, fake_service) -> None:
        fake_service.health[""] = 2
        done = run("health")
        assert (done.code, done.out) == (3, "NOT_SERVING\n")

    def test_nobody_listens(self, run) -> None:
        done = run("health", "--url", NOBODY, "--timeout", "5")
        assert (done.code, done.out) == (3, "")
        assert NOBODY in done.err

    def test_deadline(self, run, fake_service) -> None:
        fake_service.delay_s = 30
        assert run("health", "--timeout", "0.2").code == 3
