"""What docs/api.md tells callers to type works, by a generic tool that knows the server by reflection alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipsr.v1 import classifier_pb2, embedding_pb2, library_pb2, restorer_pb2, upscaler_pb2
from tests.conftest import REPO_ROOT

PAGE = (REPO_ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SETUP, *EXAMPLES = re.findall(r"^```sh\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
ADDRESS = "localhost:50051"
METHODS = {
    f"{service.full_name}/{method.name}"
    for module in (classifier_pb2, embedding_pb2, library_pb2, restorer_pb2, upscaler_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@pytest.fixture(scope="module")
def buf() -> Path:
    """The folder that holds `buf`."""
    done = subprocess.run(
        [REPO_ROOT / "proto" / "install-tools.sh", "buf"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return REPO_ROOT / ".venv-proto" / "buf" / "node_modules" / ".bin"


def test_every_call_has_an_example():
    written = [example.replace("$library", "clipsr.v1.LibraryService") for example in EXAMPLES]
    assert {method for example in written for method in re.findall(r"call (\S+)", example)} == METHODS


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: re.findall(r"\S+/(\w+)\s*$", example)[0])
def test_example_runs(service, buf, example):
    assert ADDRESS in SETUP
    script = f"set -euo pipefail\n{SETUP}\n{example}".replace(ADDRESS, service.url)
    environment = {**os.environ, "PATH": f"{buf}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=REPO_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if example.rstrip().endswith("/Restore"):  # the bundled models hold no restorer
        assert '"failed_precondition"' in done.stderr
        assert "as no restorer was exported" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")
    assert '"error"' not in done.stdout


@pytest.mark.parametrize("code", PYTHON)
def test_the_way_to_a_threshold_runs(service, repo_root, tmp_path, code):
    for folder, names in {"known": ("cat", "dog", "horse"), "other": ("bus",)}.items():
        (tmp_path / "held-out" / folder).mkdir(parents=True)
        for path in sorted((repo_root / "samples").glob("*.png")):
            if any(name in path.name for name in names):
                shutil.copy(path, tmp_path / "held-out" / folder)
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, service.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"min_cosine -?\d\.\d+ still takes \d+% of the other images .+\n", done.stdout)
