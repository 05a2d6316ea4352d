"""The tools of the wire contract are installed once, however many ask for them at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "proto" / "install-tools.sh"

# Stands in for the registry: says that it began, takes its time, and leaves what npm would.
NPM = """#!/usr/bin/env bash
printf 'began\\n' >> "$NPM_LOG"
sleep 0.3
[ "$FAILURES" -lt "$(wc -l < "$NPM_LOG")" ] || exit 1
mkdir -p "$3/node_modules/.bin"
touch "$3/node_modules/.bin/buf"
"""


@pytest.mark.parametrize(("n_failures", "n_installations"), [(0, 1), (1, 2)], ids=["at once", "after a failure"])
def test_one_installs_and_the_others_wait(tmp_path: Path, n_failures: int, n_installations: int):
    script = tmp_path / "proto" / SCRIPT.name
    script.parent.mkdir()
    shutil.copy(SCRIPT, script)
    npm, log = tmp_path / "bin" / "npm", tmp_path / "npm.log"
    npm.parent.mkdir()
    npm.write_text(NPM, encoding="utf-8")
    npm.chmod(0o755)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(npm.parent), os.environ["PATH"]]),
        "NPM_LOG": str(log),
        "FAILURES": str(n_failures),
    }
    asking = [subprocess.Popen([script, "buf"], env=environment, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=30)[1] for process in asking]
    failed = [text for process, text in zip(asking, said, strict=True) if process.returncode != 0]
    assert len(failed) == n_failures, said
    assert all("npm could not install" in text for text in failed)
    assert log.read_text(encoding="utf-8").splitlines() == ["began"] * n_installations
    assert (tmp_path / ".venv-proto" / "buf" / "node_modules" / ".bin" / "buf").exists()
