"""`clipsr.batch` without Ray: how the input is divided, what a worker writes, and what an output folder takes."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pyarrow
import pyarrow.parquet
import pytest

from clipsr import Classification, ClassifyOptions, ClipsrError, FailedImage, Prediction
from clipsr.batch._command import main
from clipsr.batch._models import ModelFacts
from clipsr.batch._output import OutputFolder
from clipsr.batch._partitions import fingerprint
from clipsr.batch._partitions import plan_partitions as plan_partitions_of
from clipsr.batch._run import Job, _Worker
from clipsr.cli._exits import ExitCode

OPTIONS = ClassifyOptions(labels=["cat", "dog"])
FACTS = ModelFacts(digest="sha256:1", max_image_bytes=20)
SETTINGS = {"model": "sha256:1", "question": "q", "input": "i"}


@dataclass
class FakeModels:
    """Answers "cat" to everything that is not "bad"."""

    digest: str = FACTS.digest
    error: Exception | None = None
    asked: list[Any] = field(default_factory=list)

    def describe(self) -> ModelFacts:
        return FACTS

    def open(self) -> FakeModels:
        return self

    def classify(self, images: Sequence[Any], options: ClassifyOptions) -> list[Any]:
        assert options == OPTIONS
        if self.error is not None:
            raise self.error
        self.asked += images
        return [self._answer(image) for image in images]

    def _answer(self, image: bytes | FailedImage) -> Any:
        if isinstance(image, FailedImage):
            return image
        if image == b"bad":
            return FailedImage(code="INVALID_ARGUMENT", reason="IMAGE_UNRECOGNIZED", message="No image.")
        return Classification(
            predictions=(Prediction(label="cat", cosine=0.25, probability=0.5),),
            input_hw=(2, 3),
            route="native",
            queue_ms=0.0,
            inference_ms=1.0,
            model_digest=self.digest,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    for name in ("b/2.png", "b/1.png", "a.jpg", "c.webp", ".hidden.png", "b/notes.txt"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(name.encode())
    return made


def plan_partitions(source: Path, **options: Any) -> Any:
    return plan_partitions_of(str(source), **options)


def write_table(path: Path, column: Any, name: str = "image", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"number": range(len(column)), name: column}), path, **options)
    return path


def read_all(parts: Sequence[Any]) -> list[list[tuple[str, Any]]]:
    return [list(zip(part.names(), part.read(max_bytes=20), strict=True)) for part in parts]


def task(number: int, partition: Any) -> Any:
    return pyarrow.Table.from_pylist([{"number": number, "partition": pickle.dumps(partition)}])


def test_a_folder_is_divided_in_the_order_of_names(folder):
    parts = read_all(plan_partitions(folder, size=3, column=None))
    assert parts == [
        [(name, name.encode()) for name in ("a.jpg", "b/1.png", "b/2.png")],
        [("c.webp", b"c.webp")],
    ]


@pytest.mark.parametrize("rows_of_a_group", [1, 3, 4, 100])
def test_rows_are_read_wherever_row_groups_end(rows_of_a_group, tmp_path):
    images = [b"%d" % number for number in range(10)]
    table = write_table(tmp_path / "t" / "x.parquet", images, row_group_size=rows_of_a_group)
    expected = [(f"x.parquet#{number}", image) for number, image in enumerate(images)]
    for source in (table, table.parent):
        parts = read_all(plan_partitions(source, size=4, column=None))
        assert [len(part) for part in parts] == [4, 4, 2]
        assert [row for part in parts for row in part] == expected


def test_cells_without_an_image_and_too_large_ones_fail_alone(tmp_path):
    cells = [{"bytes": b"one", "path": "a"}, {"bytes": None, "path": "b"}, None, {"bytes": b"x" * 21, "path": None}]
    [part] = read_all(plan_partitions(write_table(tmp_path / "x.parquet", cells, "img"), size=9, column=None))
    assert part[0] == ("x.parquet#0", b"one")
    assert [image.reason for _, image in part[1:]] == ["IMAGE_EMPTY", "IMAGE_EMPTY", "IMAGE_TOO_LARGE"]


def test_tables_of_a_folder_are_taken_with_a_column_by_name(tmp_path):
    for name in ("b/2.parquet", "a.parquet", "_run/x.parquet"):
        write_table(tmp_path / name, [name.encode()], "photo")
    parts = read_all(plan_partitions(tmp_path, size=9, column="photo"))
    assert [part[0][0] for part in parts] == ["a.parquet#0", "b/2.parquet#0"]
    with pytest.raises(click.UsageError, match="has the columns number, photo: name one by --image-column"):
        plan_partitions(tmp_path, size=9, column=None)


def test_a_file_that_vanished_or_broke_fails_row_by_row(tmp_path):
    table = write_table(tmp_path / "x.parquet", [b"one", b"two"])
    [part] = plan_partitions(table, size=9, column=None)
    content = table.read_bytes()
    table.write_bytes(b"PAR1" + bytes(len(content) - 4))
    assert [image.code for image in part.read(max_bytes=20)] == ["DATA_LOSS"] * 2
    table.unlink()
    assert [image.code for image in part.read(max_bytes=20)] == ["NOT_FOUND"] * 2


def test_inputs_that_cannot_be_divided_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"text")
    (tmp_path / "a.csv").write_bytes(b"text")
    write_table(folder / "x.parquet", [b"one"])
    refused = {
        "none": "does not exist",
        "empty": "holds no image",
        "broken.parquet": "cannot be read as Parquet",
        "a.csv": "neither a folder nor a .parquet, .tar, .txt file",
        "images": "holds images and .parquet files",
    }
    for name, message in refused.items():
        with pytest.raises(click.UsageError, match=message):
            plan_partitions(tmp_path / name, size=9, column=None)


def test_the_fingerprint_is_that_of_names_and_division(folder):
    before = fingerprint(plan_partitions(folder, size=3, column=None))
    assert fingerprint(plan_partitions(folder, size=3, column=None)) == before
    assert fingerprint(plan_partitions(folder, size=2, column=None)) != before
    (folder / "d.png").touch()
    assert fingerprint(plan_partitions(folder, size=3, column=None)) != before


def test_a_worker_writes_a_row_for_every_image(folder, tmp_path):
    (folder / "b/1.png").write_bytes(b"bad")
    (folder / "b/2.png").unlink()
    (folder / "b/2.png").symlink_to("nowhere")
    output = OutputFolder(str(tmp_path / "out"))
    output.begin(SETTINGS, is_restarted=False)
    [partition] = plan_partitions(folder, size=9, column=None)
    worker = _Worker(Job(models=FakeModels(), facts=FACTS, options=OPTIONS, output=output))
    assert worker(task(0, partition)).to_pylist() == [{"number": 0, "failed": 2, "error": "", "code": 0}]
    rows = pyarrow.parquet.read_table(output.path).to_pylist()
    assert [(row["path"], row["status"], row["label"], row["cosine"]) for row in rows] == [
        ("a.jpg", "OK", "cat", 0.25),
        ("b/1.png", "INVALID_ARGUMENT", None, None),
        ("b/2.png", "NOT_FOUND", None, None),
        ("c.webp", "OK", "cat", 0.25),
    ]
    assert output.count_failed() == {0: 2}


@pytest.mark.parametrize(
    ("models", "code", "message"),
    [
        (FakeModels(error=ClipsrError("nobody answers")), ExitCode.UNREACHABLE, "nobody answers"),
        (FakeModels(digest="sha256:2"), ExitCode.USAGE, r"Another model answers now \(sha256:2\)"),
        (FakeModels(error=OSError(28, "full")), ExitCode.OUTPUT_FAILED, "no room left"),
    ],
)
def test_a_worker_that_cannot_go_on_says_so_and_writes_nothing(models, code, message, folder, tmp_path):
    output = OutputFolder(str(tmp_path / "out"))
    output.begin(SETTINGS, is_restarted=False)
    [partition] = plan_partitions(folder, size=9, column=None)
    [answer] = _Worker(Job(models=models, facts=FACTS, options=OPTIONS, output=output))(task(0, partition)).to_pylist()
    assert answer["code"] == code
    assert re.search(message, answer["error"])
    assert output.count_failed() == {}


def test_images_that_end_their_worker_end_the_run_and_not_for_ever(folder, tmp_path):
    output = OutputFolder(str(tmp_path / "out"))
    output.begin(SETTINGS, is_restarted=False)
    [partition] = plan_partitions(folder, size=9, column=None)
    models = FakeModels(error=MemoryError("as if the process had ended here"))
    worker = _Worker(Job(models=models, facts=FACTS, options=OPTIONS, output=output))
    for _ in range(3):
        with pytest.raises(MemoryError):
            worker(task(0, partition))
    [answer] = worker(task(0, partition)).to_pylist()
    assert answer["error"] == "An image between 'a.jpg' and 'c.webp' ends the process that works on it."
    output.begin(SETTINGS, is_restarted=False)
    models.error = None
    assert worker(task(0, partition)).to_pylist()[0]["error"] == ""
    assert sorted(path.name for path in Path(output.path).iterdir()) == ["_run.json", "part-000000.parquet"]


def test_an_output_folder_takes_one_run(tmp_path):
    output = OutputFolder(str(tmp_path / "deep" / "out"))
    output.begin(SETTINGS, is_restarted=False)
    output.write(0, [{"path": "a", "status": "NOT_FOUND", "reason": "", "message": "gone"}])
    output.begin(SETTINGS, is_restarted=False)
    assert output.count_failed() == {0: 1}
    changed = {**SETTINGS, "model": "sha256:2", "input": "other"}
    with pytest.raises(click.UsageError, match="was begun by another model and on another input"):
        output.begin(changed, is_restarted=False)
    output.begin(changed, is_restarted=True)
    assert output.count_failed() == {}
    (tmp_path / "mine.txt").touch()
    with pytest.raises(click.UsageError, match="holds other files"):
        OutputFolder(str(tmp_path)).begin(SETTINGS, is_restarted=True)


def test_without_ray_the_extra_is_named(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["classify", str(folder), "--labels", "cat", "--output", str(tmp_path / "out")]) == ExitCode.USAGE
    assert capfd.readouterr().err.startswith("clipsr-batch: clipsr-batch runs on Ray: pip install 'clipsr[batch]'.")


def test_a_ray_that_does_not_start_is_said_in_a_sentence(folder, tmp_path, monkeypatch, capfd):
    def time_out(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=time_out))
    monkeypatch.setitem(sys.modules, "ray.data", SimpleNamespace())
    code = main(["classify", str(folder), "--labels", "cat", "--output", str(tmp_path / "out")])
    assert (code, capfd.readouterr().err) == (
        ExitCode.UNREACHABLE,
        "clipsr-batch: there is no cluster to work on: The current node timed out during startup.\n",
    )


def test_a_profile_without_a_repository_is_refused(folder, tmp_path, capfd):
    options = ["classify", str(folder), "--labels", "cat", "--output", str(tmp_path / "out"), "--profile", "cpu-onnx"]
    assert main(options) == ExitCode.USAGE
    assert capfd.readouterr().err == (
        "clipsr-batch: --profile goes with --repository.\nTry `clipsr-batch classify --help`.\n"
    )
