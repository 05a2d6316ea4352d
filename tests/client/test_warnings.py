"""What the service warns of reaches the caller: as values, on standard error, in records and on the pages."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from clipsr import AnswerWarning, Client, FailedImage
from clipsr.ui._classify_view import ClassifyForm, answer_classify
from clipsr.v1 import types_pb2

MESSAGE = 'The label "a very\u2028long one" has, in its template, more than the 32 tokens <b>'
WARNING = AnswerWarning(reason="TEXT_CUT", message=MESSAGE, field="options.label_space.labels[1]")


@pytest.fixture(autouse=True)
def warned(fake_service):
    fake_service.warnings = [types_pb2.Warning(reason=WARNING.reason, message=MESSAGE, field=WARNING.field)]


def test_classifications_of_a_call_carry_them(client, fake_service):
    found = client.classify([b"a", b"b", "nowhere.png"], ["cat", "dog"])
    assert [outcome.warnings for outcome in found[:2]] == [(WARNING,)] * 2
    assert isinstance(found[2], FailedImage)
    fake_service.warnings = []
    assert client.classify([b"a"], ["cat", "dog"])[0].warnings == ()


def test_those_of_a_stream_carry_them_though_it_is_warned_once(client):
    outcomes = dict(client.classify_stream([b"a", b"b", b"c"], ["cat", "dog"]))
    assert [outcome.warnings for outcome in outcomes.values()] == [(WARNING,)] * 3


def test_embeddings_of_texts_carry_them(client):
    assert [each.warnings for each in client.embed_texts(["cat", "dog"])] == [(WARNING,)] * 2


def test_the_command_says_them_once_and_records_them(run, folder):
    done = run("classify", str(folder), "--labels", "cat,dog", "--format", "json")
    lines = done.err.splitlines()
    assert [line for line in lines if "more than the 32 tokens" in line] == lines[:1]
    assert "\u2028" not in done.err
    records = [json.loads(line) for line in done.out.split("\n") if line]
    expected = [{"reason": "TEXT_CUT", "message": MESSAGE, "field": WARNING.field}]
    assert [record["warnings"] for record in records] == [expected] * 3


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_files_of_every_kind_record_them(run, folder, tmp_path, fake_service, ending):
    output = tmp_path / f"out.{ending}"
    for warnings in (fake_service.warnings, []):
        fake_service.warnings = warnings
        done = run("classify", str(folder), "--labels", "cat,dog", "--output", str(output), "--restart")
        assert done.err.count("more than the 32 tokens") == len(warnings)
        expected = [{"reason": "TEXT_CUT", "message": MESSAGE, "field": WARNING.field}] if warnings else None
        assert [row.get("warnings") for row in read_rows(output)] == [expected] * 3


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of any output, CSV's lists as lists and its empty cells as None."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    with path.open(encoding="utf-8", newline="") as file:
        return [row | {"warnings": json.loads(row["warnings"] or "null")} for row in csv.DictReader(file)]


def test_the_page_shows_them(fake_service, tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"a")
    form = ClassifyForm(
        path=str(path), label_set="", typed_labels="cat, dog", template="", route="auto", fit="auto", top_k=2
    )
    with Client(fake_service.url) as client:
        answer = answer_classify(client, form)
    assert 'class="cs-caution"' in answer
    assert "32 tokens &lt;b&gt;" in answer
