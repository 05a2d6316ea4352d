"""What the README tells a newcomer to type works, against the running service."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import REPO_ROOT

README = (REPO_ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^ {4}\.venv-serve/bin/clipsr-client (.+)$", README, re.MULTILINE)
ADDRESS = '"localhost:50051"'


def test_there_is_something_to_run():
    assert PYTHON
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("code", PYTHON)
def test_code_runs(service, repo_root, code):
    assert ADDRESS in code
    result = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, f'"{service.url}"')],
        cwd=repo_root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(service, repo_root, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    (tmp_path / "samples").symlink_to(repo_root / "samples")
    result = service.cli(*shlex.split(command))
    assert result.returncode == 0, result.stderr
    assert result.stdout
