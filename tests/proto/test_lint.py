"""The contract passes its lint and breaks no caller of the last release, and each of these promises can trip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).resolve().parents[2] / "proto"


def run(script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    return subprocess.run([PROTO / script, *arguments], env=environment, capture_output=True, text=True, check=False)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return run("lint.sh", folder)


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """A copy of the contract to spoil."""
    shutil.copytree(PROTO / "clipsr", tmp_path / "clipsr")
    return tmp_path


def test_the_contract_is_clean():
    done = lint(PROTO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  // Rows, in pixels.\n", "", 'Field "height" should have a non-empty comment'),
        ("// Height and width.\n", "", 'Message "Size" should have a non-empty comment'),
        ("FIT_UNSPECIFIED", "FIT_NONE", '"_UNSPECIFIED"'),
        ("package clipsr.v1;", "package clipsr.v2;", "must be within a directory"),
    ],
    ids=["field comment", "message comment", "zero value", "package path"],
)
def test_a_spoiled_contract_is_not(contract, old, new, complaint):
    for path in (contract / "clipsr" / "v1").iterdir():
        text = path.read_text(encoding="utf-8")
        assert old in text or path.name != "types.proto"
        path.write_text(text.replace(old, new), encoding="utf-8")
    done = lint(contract)
    assert done.returncode != 0
    assert complaint in done.stdout, done.stdout + done.stderr


BREAKING = {
    "field removed": (
        "types.proto",
        "  // UTF-8 bytes of one label.\n  uint32 max_label_bytes = 5;\n",
        "",
        'Previously present field "5" with name "max_label_bytes"',
    ),
    "number changed": ("types.proto", "max_label_bytes = 5;", "max_label_bytes = 99;", 'present field "5"'),
    "type changed": ("types.proto", "uint32 max_label_bytes", "string max_label_bytes", "type"),
    "field renamed": ("types.proto", "max_label_bytes = 5;", "most_label_bytes = 5;", "changed name"),
    "value removed": ("types.proto", "FIT_SQUASH = 2;", "FIT_SQUASHED = 2;", 'changed name from "FIT_SQUASH"'),
    "call removed": ("embedding.proto", "rpc EmbedTexts(", "rpc EmbedStrings(", '"EmbedTexts"'),
    "stream made single": (
        "classifier.proto",
        "(stream ClassifyStreamRequest)",
        "(ClassifyStreamRequest)",
        "streaming",
    ),
}


@pytest.mark.parametrize("name", BREAKING)
def test_what_would_break_callers_of_the_last_release_is_refused(contract, name):
    file, old, new, complaint = BREAKING[name]
    path = contract / "clipsr" / "v1" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    done = lint(contract)
    assert done.returncode != 0
    assert complaint in done.stdout, done.stdout + done.stderr


def test_what_is_only_added_is_not(contract):
    path = contract / "clipsr" / "v1" / "types.proto"
    text = path.read_text(encoding="utf-8")
    added = "// Bytes of something new.\n  uint32 max_new_bytes = 99;\n  // UTF-8 bytes of one label.\n"
    path.write_text(text.replace("// UTF-8 bytes of one label.\n", added), encoding="utf-8")
    done = lint(contract)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_release_moves_the_record(contract, tmp_path):
    """proto/release.sh records what it is given: the removed field is no longer known, the rest is."""
    path = contract / "clipsr" / "v1" / "types.proto"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("  // UTF-8 bytes of one label.\n  uint32 max_label_bytes = 5;\n", ""), encoding="utf-8"
    )
    record = tmp_path / "released.txtpb"
    done = run("release.sh", contract, record)
    assert done.returncode == 0, done.stdout + done.stderr
    recorded, last = record.read_text(encoding="utf-8"), (PROTO / "released.txtpb").read_text(encoding="utf-8")
    assert "max_label_bytes" in last
    assert "max_label_bytes" not in recorded
    assert "max_labels" in recorded
