"""Every kind of input of `clipsr-batch`, from a folder of this machine and from a bucket: the same rows from both."""

from __future__ import annotations

import io
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import click
import lance
import pyarrow
import pyarrow.parquet
import pytest
from tests.ports import hold_port

from clipsr import FailedImage
from clipsr.batch._partitions import plan_partitions
from clipsr.batch._storage import complete, storage_of

MAX_BYTES = 40


def rows_of(source: str, *, size: int = 100, column: str | None = None) -> list[tuple[str, Any]]:
    """What the output calls each image, and its content, or the code of its failure."""
    return [row for part in parts_of(source, size=size, column=column) for row in part]


def parts_of(source: str, *, size: int, column: str | None = None) -> list[list[tuple[str, Any]]]:
    parts = plan_partitions(source, size=size, column=column)
    return [
        [
            (name, image.code if isinstance(image, FailedImage) else image)
            for name, image in zip(*read(part), strict=True)
        ]
        for part in parts
    ]


def read(part: Any) -> tuple[Sequence[str], list[Any]]:
    return part.names(), part.read(max_bytes=MAX_BYTES)


def archive(members: Mapping[str, bytes | None]) -> bytes:
    """A tar; a folder for None."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.size = (tarfile.DIRTYPE, 0) if content is None else (tarfile.REGTYPE, len(content))
            file.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def parquet(images: Sequence[Any]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), buffer, row_group_size=3)
    return buffer.getvalue()


def test_image_files(place):
    for name in ("b/2.PNG", "b/1.png", "a%41 ä.jpg", ".hidden.png", "b/notes.md", "__MACOSX/c.png", "large.png"):
        place.put(name, name.encode() * (1 if name != "large.png" else 5))
    expected = [("a%41 ä.jpg", "a%41 ä.jpg".encode()), ("b/1.png", b"b/1.png"), ("b/2.PNG", b"b/2.PNG")]
    assert rows_of(place.path) == [*expected, ("large.png", "INVALID_ARGUMENT")]
    assert [len(part) for part in parts_of(place.path, size=3)] == [3, 1]


def test_a_file_that_is_gone_fails_alone(place):
    for name in ("a.png", "b.png", "c.png"):
        place.put(name, name.encode())
    (part,) = plan_partitions(place.path, size=9, column=None)
    place.remove("b.png")
    assert [getattr(image, "code", image) for image in part.read(max_bytes=MAX_BYTES)] == [
        b"a.png", "NOT_FOUND", b"c.png",
    ]  # fmt: skip


def test_parquet_files(place):
    place.put("x/2.parquet", parquet([b"%d" % number for number in range(7)]))
    place.put("1.parquet", parquet([{"bytes": b"one"}, {"bytes": None}]))
    place.put("_tmp/3.parquet", b"of another program")
    two = [(f"x/2.parquet#{number}", b"%d" % number) for number in range(7)]
    assert rows_of(place.path, size=4) == [("1.parquet#0", b"one"), ("1.parquet#1", "INVALID_ARGUMENT"), *two]
    assert [row[1] for row in rows_of(f"{place.path}/x/2.parquet")] == [content for _, content in two]
    (part,) = plan_partitions(f"{place.path}/1.parquet", size=9, column=None)
    place.remove("1.parquet")
    assert [image.code for image in part.read(max_bytes=MAX_BYTES)] == ["NOT_FOUND"] * 2


def test_a_lance_dataset_as_it_was_when_the_run_began(place):
    path = f"{place.path}/photos.lance"
    table = pyarrow.table({"number": range(5), "photo": [b"%d" % number for number in range(5)]})
    lance.write_dataset(table, path, max_rows_per_file=2)
    expected = [(f"photos.lance#{number}", b"%d" % number) for number in range(5)]
    assert rows_of(path, size=2, column="photo") == expected
    parts = plan_partitions(path, size=9, column="photo")
    lance.dataset(path).delete("number < 3")
    assert [*zip(*read(parts[0]), strict=True)] == expected
    with pytest.raises(click.UsageError, match="has the columns number, photo: name one by --image-column"):
        plan_partitions(path, size=9, column=None)


def test_a_lance_dataset_of_any_name_and_a_damaged_one(place, monkeypatch):
    lance.write_dataset(pyarrow.table({"image": [b"one"]}), f"{place.path}/photos")
    assert rows_of(f"{place.path}/photos") == [("photos#0", b"one")]
    place.put("broken.lance/_versions/1.manifest", b"text")
    with pytest.raises(click.UsageError, match="cannot be read as a Lance dataset"):
        plan_partitions(f"{place.path}/broken.lance", size=9, column=None)
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(click.UsageError, match=r"pip install 'clipsr\[lance\]'"):
        plan_partitions(f"{place.path}/photos", size=9, column=None)


def test_shards(place):
    samples = {f"./cats/{number}.{ending}": b"%d" % number for number in range(3) for ending in ("jpg", "cls")}
    place.put("0.tar", archive({"./cats": None, **samples, "./.hidden.png": b"no", "large.png": b"x" * 41}))
    place.put("more/1.tar", archive({"a.in.png": b"in", "a.out.png": b"out", "a.json": b"{}"}))
    cats = [(f"0.tar#cats/{number}.jpg", b"%d" % number) for number in range(3)]
    more = [("more/1.tar#a.in.png", b"in"), ("more/1.tar#a.out.png", b"out")]
    assert rows_of(place.path, size=2) == [*cats, ("0.tar#large.png", "INVALID_ARGUMENT"), *more]
    assert [len(part) for part in parts_of(place.path, size=3)] == [3, 1, 2]
    assert rows_of(f"{place.path}/0.tar")[:3] == cats
    (part,) = plan_partitions(f"{place.path}/more/1.tar", size=9, column=None)
    place.remove("more/1.tar")
    assert [image.code for image in part.read(max_bytes=MAX_BYTES)] == ["NOT_FOUND"] * 2


def test_shards_that_cannot_be_read(place):
    place.put("0.tar", b"\x1f\x8b and so on")
    with pytest.raises(click.UsageError, match="cannot be read as an uncompressed tar archive"):
        plan_partitions(f"{place.path}/0.tar", size=9, column=None)
    place.put("0.tar", archive({"a.json": b"{}"}))
    with pytest.raises(click.UsageError, match="holds no image"):
        plan_partitions(place.path, size=9, column=None)


@pytest.fixture
def web() -> Iterator[str]:
    """A web server that has one image."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/a.png?size=1": b"web", "/large.png": b"x" * 50}.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_list_of_paths_and_uris_each_of_which_fails_alone(place, bucket_place, tmp_path, web):
    (tmp_path / "c d.png").write_bytes(b"absolute")
    bucket_place.put("x/y.png", b"bucket")
    place.put("b.png", b"relative")
    with hold_port() as silent:
        expected = {
            "b.png": b"relative",
            f"{bucket_place.path}/x/y.png": b"bucket",
            f"{tmp_path}/c d.png": b"absolute",
            f"file://{tmp_path}/c%20d.png": b"absolute",
            f"{web}/a.png?size=1": b"web",
            f"{web}/none.png": "NOT_FOUND",
            f"{web}/large.png": "INVALID_ARGUMENT",
            f"http://127.0.0.1:{silent}/a.png": "UNAVAILABLE",
            "http://[/a.png": "UNAVAILABLE",
            "gs://bucket/a.png": "INVALID_ARGUMENT",
            "s3://no-such-bucket/a.png": "NOT_FOUND",
            f"{bucket_place.path}/none.png": "NOT_FOUND",
            "none.png": "NOT_FOUND",
            "a\0b.png": "INVALID_ARGUMENT",
            "b.png ": "NOT_FOUND",
        }
        place.put("list.txt", "\r\n\n".join(expected).encode("utf-8-sig"))
        assert dict(rows_of(f"{place.path}/list.txt")) == expected
    assert [len(part) for part in parts_of(f"{place.path}/list.txt", size=10)] == [10, 5]
    place.put("list.txt", b"\n \n")
    with pytest.raises(click.UsageError, match="names no image"):
        plan_partitions(f"{place.path}/list.txt", size=9, column=None)


def test_inputs_that_are_none(place):
    for name in ("a.png", "x/b.parquet", "c.csv"):
        place.put(name, b"text")
    for path, message in {
        place.path: "holds images and .parquet files: give one kind at a time",
        f"{place.path}/none": "does not exist: check the path",
        f"{place.path}/c.csv": "neither a folder nor a .parquet, .tar, .txt file",
        f"{place.path}/x/b.parquet": "cannot be read as Parquet",
    }.items():
        with pytest.raises(click.UsageError, match=message):
            plan_partitions(path, size=9, column=None)


def test_paths_are_the_same_for_every_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert [complete(path) for path in ("a/b/", "s3://bucket/a/", "s3://bucket")] == [
        f"{tmp_path}/a/b", "s3://bucket/a", "s3://bucket",
    ]  # fmt: skip
    for path, message in {"s3://": "names no bucket", "gs://b/x": "neither a path nor an s3:// URI"}.items():
        with pytest.raises(click.UsageError, match=message):
            storage_of(path)
