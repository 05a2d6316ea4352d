"""The client for code that waits is what the script writes from the one for asyncio; a change by hand is noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
PACKAGE = REPO_ROOT / "client" / "src" / "clipsr"


def unasync(package: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = REPO_ROOT / "scripts" / "unasync.py"
    command = [sys.executable, str(script), "--package", str(package), *options]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # ruff is installed beside the interpreter
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=False)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for wing in ("_async", "_sync"):
        shutil.copytree(PACKAGE / wing, tmp_path / wing)
    return tmp_path


def test_the_files_are_up_to_date():
    done = unasync(PACKAGE, "--check")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("name", ["client.py", "connection.py", "library.py", "service.py"])
@pytest.mark.parametrize("wing", ["_async", "_sync"])
def test_a_change_to_one_side_is_noticed_and_mended(package: Path, wing: str, name: str):
    changed = package / wing / name
    changed.write_text(changed.read_text(encoding="utf-8") + "\n\nCHANGED = True\n", encoding="utf-8")
    done = unasync(package, "--check")
    assert (done.returncode, done.stdout) == (1, f"_sync/{name} is not what scripts/unasync.py writes: run it.\n")
    assert unasync(package).returncode == 0
    assert unasync(package, "--check").returncode == 0
    assert ("CHANGED" in (package / "_sync" / name).read_text(encoding="utf-8")) == (wing == "_async")


def test_a_file_that_is_missing_is_noticed(package: Path):
    (package / "_sync" / "client.py").unlink()
    assert unasync(package, "--check").returncode == 1


def test_nothing_waits_in_what_is_written():
    for name in ("client.py", "connection.py", "library.py", "service.py"):
        code = (PACKAGE / "_sync" / name).read_text(encoding="utf-8")
        assert "await " not in code
        assert "async def" not in code
        assert "import asyncio" not in code
