"""The check of the building Python: which versions, which parts, and the sentences with their cures."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SPEC = importlib.util.spec_from_file_location("check_python", SCRIPTS / "check_python.py")
assert SPEC is not None
assert SPEC.loader is not None
check_python = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_python)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Which parts this Python seems to have; change it in the test."""
    present = {"venv": True, "libpython": True}
    monkeypatch.setattr(check_python, "has_venv", lambda: present["venv"])
    monkeypatch.setattr(check_python, "has_libpython", lambda: present["libpython"])
    return present


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12)])
def test_a_complete_python_will_do(parts: dict[str, bool], version: tuple[int, int]) -> None:
    assert check_python.objection(version) == ""


@pytest.mark.parametrize("version", [(3, 9), (3, 13), (2, 7), (4, 0)])
def test_another_version_will_not(parts: dict[str, bool], version: tuple[int, int]) -> None:
    assert "3.10 to 3.12" in check_python.objection(version)
    assert "PYTHON" in check_python.objection(version)


def test_missing_parts_are_named_by_package(parts: dict[str, bool]) -> None:
    parts["venv"] = False
    assert "apt-get install python3.11-venv`" in check_python.objection((3, 11))
    parts["libpython"] = False
    assert "apt-get install python3.12-venv libpython3.12`" in check_python.objection((3, 12))
    parts["venv"] = True
    assert check_python.missing_packages((3, 10)) == ["libpython3.10"]


def test_the_python_of_these_tests_is_accepted() -> None:
    result = subprocess.run([sys.executable, SCRIPTS / "check_python.py"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
