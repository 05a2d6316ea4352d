"""The contract passes its lint, and each of the lint's promises trips it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).resolve().parents[2] / "proto"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    return subprocess.run([PROTO / "lint.sh", folder], env=environment, capture_output=True, text=True, check=False)


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
