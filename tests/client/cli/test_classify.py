"""`clipsr-client` in this process, against a service on a real socket."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from clipsr.v1 import classifier_pb2, types_pb2

NOBODY = "127.0.0.1:1"  # tcpmux: privileged, and gone from the world


@pytest.fixture
def cat(folder: Path) -> str:
    """One image."""
    return str(folder / "a.jpg")


def make_answer(request: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyResponse:
    """A prediction for each image."""
    prediction = types_pb2.Prediction(label=request.options.label_space.labels[0], cosine=0.25, probability=1.0)
    result = classifier_pb2.ClassifyResult(
        classification=classifier_pb2.Classification(predictions=[prediction], route=types_pb2.ROUTE_NATIVE)
    )
    return classifier_pb2.ClassifyResponse(results=[result] * len(request.images))


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
                "predictions": [
                    {"label": "cat", "cosine": 0.3, "probability": 0.5},
                    {"label": "dog", "cosine": 0.284375, "probability": 0.25},
                ],
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
            "error": {"code": "INVALID_ARGUMENT", "message": "Ends early."},
        }
        assert [list(each) for each in (objects[0], objects[2])] == [
            ["path", "predictions", "route", "input_hw", "model"]
        ] * 2

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
    def test_has_a_row_a_prediction(self, run, folder, fake_service) -> None:
        fake_service.fail_image(b"c.PNG", message='Ends "early", it seems.')
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert done.code == 1
        assert done.out.splitlines()[0] == "path,rank,label,cosine,probability,route,error"
        assert [(Path(row["path"]).name, row["rank"], row["label"]) for row in rows] == [
            ("a.jpg", "1", "cat"),
            ("a.jpg", "2", "dog"),
            ("猫.webp", "1", "cat"),
            ("猫.webp", "2", "dog"),
            ("c.PNG", "", ""),
        ]
        assert rows[1] == {
            "path": str(folder / "a.jpg"),
            "rank": "2",
            "label": "dog",
            "cosine": "0.284375",
            "probability": "0.25",
            "route": "upscaled",
            "error": "",
        }
        assert rows[4]["error"] == 'INVALID_ARGUMENT: Ends "early", it seems.'


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

    def test_a_set_of_the_service_gives_the_columns(self, run, cat) -> None:
        done = run("classify", cat, "--labels", "@animals")
        assert done.code == 0
        assert "dog 25.0%, bird 12.5%" in done.out


class TestRequest:
    def test_carries_all_options(self, run, cat, fake_service) -> None:
        arguments = ["--top-k", "1", "--fit", "squash", "--route", "native"]
        arguments += ["--templates", "a {}.", "--templates", "the {}!"]
        done = run("classify", cat, "--labels", "cat,dog", *arguments)
        request = fake_service.requests[0]
        assert done.code == 0
        assert request == classifier_pb2.ClassifyRequest(
            images=[types_pb2.Image(content=b"a.jpg")],
            options=classifier_pb2.ClassifyOptions(
                label_space=types_pb2.LabelSpace(labels=["cat", "dog"], templates=["a {}.", "the {}!"]),
                fit=types_pb2.FIT_SQUASH,
                route=types_pb2.ROUTE_NATIVE,
                top_k=1,
            ),
        )

    def test_names_a_set(self, run, cat, fake_service) -> None:
        run("classify", cat, "--labels", "@animals", "--templates", "@simple")
        space = fake_service.requests[0].options.label_space
        assert (list(space.labels), space.label_set, list(space.templates)) == ([], "animals", ["@simple"])

    def test_reads_a_labels_file(self, run, cat, fake_service, tmp_path) -> None:
        file = tmp_path / "labels.txt"
        file.write_bytes("\ufeffcat, the animal\r\n\r\n  猫  \n@home\n".encode())
        assert run("classify", cat, "--labels-file", str(file)).code == 0
        assert list(fake_service.requests[0].options.label_space.labels) == ["cat, the animal", "猫", "@home"]

    def test_goes_batch_by_batch(self, run, folder, fake_service) -> None:
        assert run("classify", str(folder), "--labels", "cat,dog", "--batch-size", "2").code == 0
        assert [len(request.images) for request in fake_service.requests] == [2, 1]

    def test_a_batch_is_never_larger_than_the_service_allows(self, run, folder, fake_service) -> None:
        fake_service.info.limits.max_images = 1
        assert run("classify", str(folder), "--labels", "cat,dog").code == 0
        assert [len(request.images) for request in fake_service.requests] == [1, 1, 1]

    def test_reads_standard_input(self, run, fake_service, monkeypatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
        done = run("classify", "-", "--labels", "cat,dog", "--format", "json")
        assert json.loads(done.out)["path"] == "-"
        assert fake_service.requests[0].images[0].content == b"from a pipe"

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
        assert first["error"]["code"] == "PERMISSION_DENIED"
        assert all("predictions" in other for other in others)
        assert len(fake_service.requests[0].images) == 2

    def test_a_folder_without_permission_fails_alone(self, run, folder, monkeypatch) -> None:
        real_walk = __import__("os").walk

        def walk(top: str, *, onerror: Callable[[OSError], None]) -> Any:
            onerror(PermissionError(13, "Permission denied", str(folder / "locked")))
            return real_walk(top, onerror=onerror)

        monkeypatch.setattr("os.walk", walk)
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        last = json.loads(done.out.splitlines()[-1])
        assert done.code == 1
        assert last["path"] == str(folder / "locked")
        assert last["error"]["message"] == "The folder may not be read: check its permissions."

    def test_a_file_beyond_the_limit_is_not_sent(self, run, folder, fake_service) -> None:
        fake_service.info.limits.max_image_bytes = 5
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        codes = [json.loads(line).get("error", {}).get("code") for line in done.out.splitlines()]
        assert done.code == 1
        assert codes == [None, "INVALID_ARGUMENT", None]
        assert [image.content for image in fake_service.requests[0].images] == [b"a.jpg", b"c.PNG"]

    def test_a_link_that_leads_nowhere_fails_alone(self, run, folder) -> None:
        (folder / "link.png").symlink_to(folder / "gone.png")
        done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
        assert done.code == 1
        assert json.loads(done.out.splitlines()[-1])["error"]["code"] == "NOT_FOUND"


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
        assert fake_service.requests == []

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
        real = fake_service._wait_or_abort
        violation = bad_request("label_space.labels[1]", "appears twice")

        def abort_classify(context: grpc.ServicerContext) -> None:
            if fake_service.requests:
                fake_service.abort(grpc.StatusCode.INVALID_ARGUMENT, "The label 'cat' is there twice.", violation)
            real(context)

        fake_service._wait_or_abort = abort_classify
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

    def test_the_service_goes_away_halfway(self, run, folder, fake_service) -> None:
        def answer_once(request: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyResponse:
            fake_service.abort(grpc.StatusCode.UNAVAILABLE, "Triton is not ready.")
            return make_answer(request)

        fake_service.answer = answer_once
        done = run("classify", str(folder), "--labels", "cat,dog", "--batch-size", "1", "--format", "json")
        assert done.code == 3
        assert len(done.out.splitlines()) == 1

    def test_a_deadline_before_any_answer(self, run, cat, fake_service) -> None:
        fake_service.delay_s = 30
        started_s = time.monotonic()
        done = run("classify", cat, "--labels", "cat,dog", "--timeout", "0.2")
        assert done.code == 3
        assert done.out == ""
        assert "--timeout" in done.err
        assert time.monotonic() - started_s < 20

    def test_a_deadline_of_the_first_batch(self, run, folder, fake_service) -> None:
        ended = threading.Event()

        def wait(request: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyResponse:
            ended.wait(60)
            return make_answer(request)

        fake_service.answer = wait
        done = run("classify", str(folder), "--labels", "cat,dog", "--timeout", "0.5", "--batch-size", "1")
        ended.set()
        assert done.code == 3
        assert len(fake_service.requests) == 1

    def test_a_deadline_of_a_later_batch_fails_its_images_only(self, run, folder, fake_service) -> None:
        ended = threading.Event()

        def wait(request: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyResponse:
            if len(fake_service.requests) == 2:
                ended.wait(60)
            return make_answer(request)

        fake_service.answer = wait
        arguments = ["--labels", "cat,dog", "--timeout", "3", "--batch-size", "1", "--format", "json"]
        done = run("classify", str(folder), *arguments)
        ended.set()
        codes = [json.loads(line).get("error", {}).get("code") for line in done.out.splitlines()]
        assert done.code == 1
        assert codes == [None, "DEADLINE_EXCEEDED", None]

    def test_a_fault_of_the_service_fails_a_batch(self, run, folder, fake_service) -> None:
        def answer_once(request: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyResponse:
            fake_service.abort(grpc.StatusCode.INTERNAL, "boom")
            return make_answer(request)

        fake_service.answer = answer_once
        arguments = ["--labels", "cat,dog", "--batch-size", "2", "--format", "json"]
        done = run("classify", str(folder), *arguments)
        codes = [json.loads(line).get("error", {}).get("code") for line in done.out.splitlines()]
        assert done.code == 1
        assert codes == [None, None, "INTERNAL"]


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
