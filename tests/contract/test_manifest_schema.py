"""`model_repository/manifest.schema.json` is what the export writes by; JSON that this project writes holds no NaN.

After a change of the models, write the schema again: `python -m tests.contract.test_manifest_schema --write`.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from pydantic import Field

from clipsr_export._errors import ExportError, RepositoryError
from clipsr_export._repository.manifest import (
    NAME,
    SCHEMA_NAME,
    Manifest,
    make_manifest,
    read_manifest,
    schema,
    write_manifest,
)

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "model_repository" / SCHEMA_NAME
_ROOMS = ("export", "training")


@pytest.fixture
def document() -> dict:
    return json.loads((ROOT / "model_repository" / NAME).read_text("utf-8"))


def test_the_committed_schema_is_that_of_the_models():
    assert COMMITTED.read_text("utf-8") == schema(), "python -m tests.contract.test_manifest_schema --write"


def test_a_drift_is_noticed(monkeypatch):
    class Other(Manifest):
        another: int = Field(gt=0)

    monkeypatch.setattr("clipsr_export._repository.manifest.Manifest", Other)
    assert COMMITTED.read_text("utf-8") != schema()


def test_the_schema_names_every_field_of_the_served_manifest(document):
    described = json.loads(COMMITTED.read_text("utf-8"))
    assert document.keys() <= described["properties"].keys()
    assert set(described["required"]) <= document.keys()
    for name in ("image_encoder", "text_encoder", "upscaler", "scoring"):
        part = described["$defs"][described["properties"][name]["$ref"].rsplit("/", 1)[-1]]
        assert document[name].keys() == part["properties"].keys()


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    manifest = read_manifest(ROOT / "model_repository")
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_scale_that_is_no_positive_number_makes_no_manifest(document, value):
    del document["digest"]
    document["scoring"]["logit_scale"] = value
    with pytest.raises(ExportError, match=r"scoring\.logit_scale: Input should be"):
        make_manifest(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not a JSON object"), ("[]", "is not a JSON object"), ('{"schema_version": 2}', "schema_version: Input")],
)
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(RepositoryError, match=message) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"image_encoder": {"resize_mode": "squash"}},
        {"image_encoder": {"interpolation": "bilinear"}},
        {"image_encoder": {"fill_color": 7}},
        {"image_encoder": {"mean": [0.5, 0.5, 0.5]}},
        {"scoring": {"logit_scale": 17.5}},
        {"scoring": {"logit_bias": -1.5}},
        {"scoring": {"function": "sigmoid"}},
        {"upscaler": {"canvas_sizes_px": [32, 64]}},
        {"text_encoder": {"pad_token_id": 1}},
        {"native_min_side_px": 47},
        {"weights": "random"},
        {"default_templates": "@cifar"},
        {"label_sets": {"cifar10": ["one"]}},
        {"template_sets": {"simple": ["{}"]}},
        {"artifacts": {"upscale/1/model.onnx": {"sha256": "0" * 64, "bytes": 1}}},
    ],
    ids=str,
)
def test_whatever_decides_an_answer_changes_the_digest(document, change):
    digest = read_manifest(ROOT / "model_repository").digest
    del document["digest"]
    changed = {k: {**document[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    assert make_manifest({**document, **changed}).digest != digest


def test_names_and_versions_do_not_change_the_digest(document):
    del document["digest"], document["int8"]
    other = {
        **document,
        "name": "another",
        "versions": {"torch": "9"},
        "artifacts": dict(reversed(document["artifacts"].items())),
    }
    assert make_manifest(other).digest == read_manifest(ROOT / "model_repository").digest


def lenient_writers(source: str) -> list[int]:
    """Lines that call json.dump or json.dumps without allow_nan=False."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [node for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr in ("dump", "dumps")]
    is_json = [node for node in named if isinstance(node.func.value, ast.Name) and node.func.value.id == "json"]
    return [node.lineno for node in is_json if not any(keyword.arg == "allow_nan" for keyword in node.keywords)]


def test_no_json_of_these_rooms_may_hold_nan():
    files = [path for room in _ROOMS for path in (ROOT / room / "src").rglob("*.py")]
    assert files
    lenient = {str(path): lines for path in files if (lines := lenient_writers(path.read_text("utf-8")))}
    assert not lenient


def test_a_lenient_writer_is_noticed():
    assert lenient_writers("import json\njson.dumps({})\njson.dumps({}, allow_nan=False)") == [2]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        COMMITTED.write_text(schema(), "utf-8")
