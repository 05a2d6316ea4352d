"""What goes wrong with an object store is said in a sentence, and results there are as safe as in a folder."""

from __future__ import annotations

import io
import sys
import tarfile
import threading
from typing import Any

import click
import pyarrow.parquet
import pytest
from tests.object_store import object_store

from clipsr.batch import _storage
from clipsr.batch._output import OutputFolder
from clipsr.batch._partitions import plan_partitions
from clipsr.batch._storage import StorageUnavailableError, storage_of

SETTINGS = {"model": "sha256:1", "question": "q", "input": "i"}
RECORD = {"path": "a", "status": "NOT_FOUND", "reason": "", "message": "gone"}


def plan(path: str) -> Any:
    return plan_partitions(path, size=9, column=None)


def test_an_output_folder_takes_one_run_and_keeps_its_parts(place):
    output = OutputFolder(f"{place.path}/deep/out")
    output.begin(SETTINGS, is_restarted=False)
    assert [output.start(0), output.start(0)] == [1, 2]
    output.write(0, [RECORD])
    assert [output.start(0), output.start(1)] == [1, 1]
    output.begin(SETTINGS, is_restarted=False)
    assert (output.count_failed(), output.start(1)) == ({0: 1}, 1)
    changed = {**SETTINGS, "model": "sha256:2"}
    with pytest.raises(click.UsageError, match="was begun by another model: choose another --output"):
        output.begin(changed, is_restarted=False)
    output.begin(changed, is_restarted=True)
    assert output.count_failed() == {}
    with pytest.raises(click.UsageError, match="was begun by another model"):
        output.begin(SETTINGS, is_restarted=False)
    place.put("other.csv", b"")
    with pytest.raises(click.UsageError, match="holds other files"):
        OutputFolder(place.path).begin(SETTINGS, is_restarted=True)


def test_of_runs_that_begin_at_once_one_has_the_folder(place, monkeypatch):
    """All have seen an empty folder before the first of them writes."""
    n_runs, refused = 4, []
    barrier = threading.Barrier(n_runs)
    claim = OutputFolder._claim

    def wait_and_claim(self: OutputFolder, settings: Any) -> bool:
        barrier.wait(60)
        return claim(self, settings)

    monkeypatch.setattr(OutputFolder, "_claim", wait_and_claim)

    def begin(number: int) -> None:
        try:
            OutputFolder(f"{place.path}/out").begin({**SETTINGS, "input": str(number)}, is_restarted=False)
        except click.UsageError as error:
            refused.append(error.message)

    runs = [threading.Thread(target=begin, args=(number,)) for number in range(n_runs)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert ["was begun on another input" in message for message in refused] == [True] * (n_runs - 1)


def test_a_store_without_conditional_writes(place, monkeypatch):
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    output = OutputFolder(f"{place.path}/out")
    output.begin(SETTINGS, is_restarted=False)
    with pytest.raises(click.UsageError, match="was begun on another input"):
        output.begin({**SETTINGS, "input": "other"}, is_restarted=False)


def test_a_file_system_without_hard_links(disk_place, monkeypatch):
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(_storage.os, "link", refuse)
    OutputFolder(f"{disk_place.path}/out").begin(SETTINGS, is_restarted=False)
    assert storage_of(disk_place.path).list_folder(f"{disk_place.path}/out")[0].name == "_run.json"


def test_parts_can_be_read_by_others(bucket_place):
    output = OutputFolder(f"{bucket_place.path}/out")
    output.begin(SETTINGS, is_restarted=False)
    output.write(0, [RECORD])
    assert pyarrow.parquet.read_table(output.path.replace(" ", "%20")).to_pylist()[0]["path"] == "a"


def test_a_bucket_that_is_missing(store):
    with pytest.raises(click.UsageError, match="does not exist: there is no bucket s3://no-such-bucket"):
        plan("s3://no-such-bucket/x")
    with pytest.raises(FileNotFoundError, match="there is no bucket s3://no-such-bucket"):
        OutputFolder("s3://no-such-bucket/x").begin(SETTINGS, is_restarted=False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_ACCESS_KEY_ID", "stranger", "it refuses the access keys"),
        ("AWS_ALLOW_HTTP", "false", "its endpoint is http://, which needs AWS_ALLOW_HTTP=true"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:{port}", "nothing answers at its endpoint"),
    ],
)
def test_a_store_that_cannot_be_used(name, value, message, bucket, monkeypatch, unused_port):
    monkeypatch.setenv(name, value.format(port=unused_port))
    _storage._open_bucket.cache_clear()
    expected = rf"The object store of s3://{bucket} cannot be used: {message}"
    with pytest.raises(StorageUnavailableError, match=expected):
        plan(f"s3://{bucket}/x")
    with pytest.raises(StorageUnavailableError, match=expected):
        plan(f"s3://{bucket}/x.lance")
    with pytest.raises(StorageUnavailableError, match=expected):
        OutputFolder(f"s3://{bucket}/x").begin(SETTINGS, is_restarted=False)


def test_a_store_that_stops_in_the_middle_ends_the_run_and_fails_no_image(store, monkeypatch):
    table, shard = io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"one"]}), table)
    with tarfile.open(fileobj=shard, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with object_store() as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.endpoint)
        _storage._open_bucket.cache_clear()
        other.make_bucket("bucket")
        contents = {"x/a.png": b"one", "x/b.png": b"two", "a.parquet": table.getvalue(), "a.tar": shard.getvalue()}
        for name, content in contents.items():
            other.client.put_object(Bucket="bucket", Key=name, Body=content)
        parts = [part for name in ("x", "a.parquet", "a.tar") for part in plan(f"s3://bucket/{name}")]
        output = OutputFolder("s3://bucket/out")
        output.begin(SETTINGS, is_restarted=False)
        other.stop()
    assert len(parts) == 3
    for part in parts:
        with pytest.raises(StorageUnavailableError, match="nothing answers at its endpoint"):
            part.read(max_bytes=9)
    with pytest.raises(StorageUnavailableError, match="nothing answers at its endpoint"):
        output.write(0, [RECORD])


def test_an_object_that_vanishes_while_it_is_open_is_not_taken_for_one_that_ends(bucket_place):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"x" * 3_000_000]}), buffer, compression="none")
    bucket_place.put("a.parquet", buffer.getvalue())
    with storage_of(bucket_place.path).open(f"{bucket_place.path}/a.parquet") as file:
        bucket_place.remove("a.parquet")
        with pytest.raises(FileNotFoundError):
            file.read()


def test_a_key_that_is_no_path(store, bucket):
    for key in ("x/a/../b.png", "x/c.png"):
        store.client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    (part,) = plan(f"s3://{bucket}/x")
    failed, found = part.read(max_bytes=9)
    assert (part.names(), found) == (("a", "c.png"), b"x/c.png")
    assert (failed.code, "it holds a key with an empty part" in failed.message) == ("DATA_LOSS", True)


def test_without_obstore_the_extra_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(click.UsageError, match=r"pip install 'clipsr\[batch\]'"):
        plan("s3://bucket/x")
